"""How data are imported: what a person may say of them, and what is looked at before anything is written."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field

from mmkd_core.data.issues import Issue
from mmkd_core.data.manifest import Corpus
from mmkd_core.data.volumes import Salt, new_salt
from mmkd_core.progress import Progress, Silent

Look = Callable[[Corpus], Iterator[Issue]]
"""Issues of a corpus that is not written yet."""


@dataclass(frozen=True)
class ImportOptions:
    """How data are imported.

    Attributes:
        domain: kind of all images, where neither a column nor a folder says it.
        labels_from: columns of 0 and 1 that are findings, or the names of the places of such lists.
        caption_lines: every line of a ``.txt`` is a caption of its own.
        merge_labels: labels that differ only by case, white space or Unicode form are one.
        strict: whatever the report would remark upon is an error, and nothing is written.
        seed: of the splits that are assigned.
        max_bad: how many unreadable images may be left out.
        workers: threads that decode; all cores if there are many images and it is left out.
        salt: gives the secret that patients' names in DICOM files are hashed with; asked for only if there are any.
        looks: further issues to look for.
        progress: who watches.
    """

    domain: str | None = None
    labels_from: tuple[str, ...] = ()
    caption_lines: bool = False
    merge_labels: bool = False
    strict: bool = False
    seed: int = 0
    max_bad: int = 0
    workers: int | None = None
    salt: Salt = new_salt
    looks: tuple[Look, ...] = ()
    progress: Progress = field(default_factory=Silent)


@dataclass(frozen=True)
class Reading:
    """How a published data set becomes an evaluation set.

    Attributes:
        columns: our column names to its; a name that is the same in both may be left out.
        config: which of several configurations.
        revision: commit or hash to record; of a folder of the hub's cache the commit is known, else files are hashed.
        origin: what to call the source; the folder's name if left out.
        keep_once: of an image that lies in two splits keep the copy of the test split (else of val), not of the other.
        labels_from: columns of 0 and 1 that are findings, or the names of the places of such lists.
        merge_labels: labels that differ only by case, white space or Unicode form are one.
        strict: whatever there is to remark upon is an error.
    """

    columns: Mapping[str, str] = field(default_factory=dict)
    config: str | None = None
    revision: str | None = None
    origin: str | None = None
    keep_once: bool = False
    labels_from: tuple[str, ...] = ()
    merge_labels: bool = False
    strict: bool = False
