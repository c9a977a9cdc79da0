"""Manifests as people write them (csv, tsv, jsonl, parquet) become rows, or one error that names file and lines.

Columns: ``image``, ``domain``, and ``label`` (``labels``) or ``caption`` (``caption_2``, ``caption_3`` ...) are needed;
``group_id`` and ``split`` are used where given; others are ignored. Does not: open images, or guess what a column of
another name means (it only says which one looks right).
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from pathlib import Path

from mmkd_core.data.cells import ABSENT, cells_of, encodable, text_cell
from mmkd_core.data.domains import domain_name
from mmkd_core.data.issues import ImportLog, Problems
from mmkd_core.data.labels import LabelColumns
from mmkd_core.data.manifest import SPLITS
from mmkd_core.errors import DataError

UNGROUPED = "every image is its own group, so intervals may be too narrow"
_KNOWN = ("image", "domain", "label", "labels", "caption", "group_id", "split", "window", "slice")
_CAPTION = re.compile(r"caption(?:_(\d+))?")
_SPLIT_NAMES = {"training": "train", "valid": "val", "validation": "val", "dev": "val", "testing": "test"}

# What other data sets call our columns: only ever a hint in an error.
_HINTS: dict[str, tuple[str, ...]] = {
    "image": ("image_path", "img_path", "img", "path", "file", "filename", "file_name", "filepath", "imgpath"),
    "domain": ("modality", "imaging_modality", "dataset", "type"),
    "label": ("class", "diagnosis", "target", "finding", "findings", "dx", "category"),
    "caption": ("text", "captions", "txt", "report", "description", "title"),
    "group_id": (
        "patient_id",
        "patient",
        "subject_id",
        "subject",
        "case_id",
        "slide_id",
        "lesion_id",
        "study_id",
        "group",
    ),
    "split": ("fold", "set", "subset", "partition"),
}


@dataclass(frozen=True)
class Row:
    """One sample as its manifest gives it; ``where`` is ``line 17`` or ``row 17``."""

    where: str
    image: Path
    domain: str
    label: str | None
    caption: str | None
    group_id: str | None
    split: str | None
    window: str | None = None
    """For DICOM and NIfTI: ``center/width``."""
    slice: str | None = None
    """For NIfTI, and DICOM of several frames: which."""
    more_captions: tuple[str, ...] = ()
    """Further captions, after ``caption``."""
    labels: tuple[str, ...] | None = None
    """All findings, in multi-label data: () is none of them, None unknown. ``label`` is None then."""


@dataclass(frozen=True)
class Table:
    """What was read: rows, the order of classes by domain if the source has one, and ids of images hashed already."""

    path: Path
    rows: list[Row]
    order: Mapping[str, Sequence[str]] = field(default_factory=dict)
    ids: Mapping[Path, str] = field(default_factory=dict)


def read_table(path: Path, log: ImportLog, domain: str | None = None, labels_from: Sequence[str] = ()) -> Table:
    """Read a manifest; relative image paths are relative to its folder.

    Args:
        path: a csv, tsv, jsonl or parquet file.
        log: is told what was taken as absent.
        domain: kind of all images, where the manifest has no column for it.
        labels_from: columns of 0 and 1 that are findings, or names for the places of lists of 0 and 1.

    Raises:
        DataError: no such file, unknown format, damaged, wrong columns, or rows without image, domain or text.
    """
    columns, cells = cells_of(path, lambda name: name in (*_KNOWN, *labels_from) or is_caption(name))
    if domain and "domain" in columns:
        raise DataError("the manifest has a column domain itself", where=path.name, next="Leave --domain out.")
    if domain:
        columns, cells = [*columns, "domain"], ((where, {**values, "domain": domain}) for where, values in cells)
    labels = LabelColumns.among(labels_from, columns, path.name)
    _check_columns(columns, path, labels)
    rows: list[Row] = []
    problems = Problems()
    for where, values in cells:
        log.rows += 1
        place = f"{path.name}, {where}"
        with problems.gathered():
            image = text_cell(values.get("image"), "image", place, log)
            whole = {**values, "image": path.parent / image if image else None}
            rows.append(as_row(where, whole, place, log, columns, labels))
    problems.refuse(path.name)
    if not rows:
        raise DataError("the manifest has no rows", where=path.name)
    if labels.present and {"label", "labels"} & set(columns):
        log.note("the column label is not read: --labels-from says where labels stand")
    if "group_id" not in columns:
        near = _nearest("group_id", columns)
        log.note(f"no column group_id: {UNGROUPED}" + (f"; is '{near}' the patient? Then rename it" if near else ""))
    return Table(path, rows, dict.fromkeys({row.domain for row in rows}, labels.names) if labels.names else {})


def _check_columns(columns: list[str], path: Path, labels: LabelColumns) -> None:
    refuse_misspelt(columns, path.name)
    missing = [name for name in ("image", "domain") if name not in columns]
    if not ({"label", "labels"} & set(columns) or labels.present or any(map(is_caption, columns))):
        missing.append("label or caption")
    if not missing:
        return
    hints = [(near, name) for gap in missing for name in gap.split(" or ") if (near := _nearest(name, columns))]
    advice = " and ".join(f"'{near}' to '{name}'" for near, name in hints)
    what = f"the manifest has no column {' and no column '.join(missing)}; it has {', '.join(columns) or 'none'}"
    needed = "Needed are image, domain, and label or caption (group_id and split if known)."
    if missing == ["domain"] and not advice:
        needed = "`mmkd data import PATH --domain xray` says it for all images; or add the column."
    raise DataError(what, where=path.name, next=f"Rename {advice}. {needed}" if advice else needed)


def refuse_misspelt(columns: Iterable[str], where: str, names: Collection[str] = _KNOWN) -> None:
    """Refuse columns that are ours but for case, white space or punctuation: they would be left unread.

    Raises:
        DataError: names them.
    """
    meant = {column: re.sub(r"[\s.-]+", "_", column.replace("\ufeff", "").strip().lower()) for column in columns}
    odd = {c: name for c, name in meant.items() if c != name and (name in names or is_caption(name))}
    if odd:
        what = f"columns that would not be read: {', '.join(repr(column) for column in odd)}"
        mend = " and ".join(f"'{column}' to '{name}'" for column, name in odd.items())
        raise DataError(what, where=where, next=f"Rename {mend}, or give them names of another meaning.")


def _nearest(name: str, columns: list[str]) -> str | None:
    """Return the column that probably means ``name``: by what others call it, then by spelling."""
    free = {column.lower(): column for column in columns if column not in _KNOWN}
    for alias in (name, *_HINTS[name]):
        if alias in free:
            return free[alias]
    close = get_close_matches(name, list(free), n=1, cutoff=0.6)
    return free[close[0]] if close else None


def as_row(
    where: str,
    values: Mapping[str, object],
    place: str,
    log: ImportLog,
    columns: Collection[str] = ("label", "caption"),
    labels: LabelColumns = LabelColumns(),
) -> Row:
    """Check the cells of one sample.

    Args:
        where: its place in the table, which the row keeps.
        values: cells by column; ``image`` is a path.
        place: table and place, for errors.
        log: is told what was taken as absent.
        columns: those that the table has, for errors.
        labels: where its labels stand.

    Raises:
        DataError: image, domain or text is missing, or a cell holds what it cannot hold.
    """
    image = values["image"]
    if not isinstance(image, Path):
        raise DataError("the image is missing", where=place)
    encodable(str(image), "the name of the image", place)
    called = text_cell(values.get("domain"), "domain", place, log)
    if called is None:
        raise DataError("the domain is missing", where=place)
    if (domain := domain_name(called, place)) != called:
        log.note(f"the domain {called!r} is {domain}")
    given, texts = labels.read(values, place, log), captions_of(values, place, log)
    if given is None and not texts:
        needed = " and ".join(name for name in ("label", "labels", "caption") if name in columns) or "caption"
        words = [word for name in ("label", "labels", "caption") if (word := values.get(name)) in ABSENT]
        hint = f" {words[0]!r} is taken for none: a class of that name needs another one." if words else ""
        raise DataError(f"the {needed} is missing", where=place, next=f"Every image needs a label or a caption.{hint}")
    cells = {name: text_cell(values.get(name), name, place, log) for name in ("group_id", "split")}
    window, slice_ = (text_cell(values.get(name), name, place, log, empty_counts=False) for name in ("window", "slice"))
    return Row(
        where,
        image,
        domain,
        given if isinstance(given, str) else None,
        texts[0] if texts else None,
        cells["group_id"],
        split_named(cells["split"], place),
        window,
        slice_,
        texts[1:],
        given if isinstance(given, tuple) else None,
    )


def is_caption(column: str) -> bool:
    """True for ``caption``, ``caption_2`` and on."""
    return _CAPTION.fullmatch(column) is not None


def captions_of(values: Mapping[str, object], place: str, log: ImportLog) -> tuple[str, ...]:
    """Return the captions of a row, each once: ``caption``, a text or a list of them, and then ``caption_2`` and on."""
    names = sorted((int(found[1] or 0), name) for name in values if (found := _CAPTION.fullmatch(name)))
    texts: list[str | None] = []
    for number, name in names:
        value = values[name]
        for cell in value if isinstance(value, (list, tuple)) else [value]:
            texts.append(text_cell(cell, name, place, log, empty_counts=number < 2))
    return tuple(dict.fromkeys(text for text in texts if text is not None))


def split_named(value: str | None, place: str) -> str | None:
    """Return train, val or test, however it is called.

    Raises:
        DataError: it is another name.
    """
    if not value:
        return None
    plain = _SPLIT_NAMES.get(value.lower(), value.lower())
    if plain not in SPLITS:
        raise DataError(f"unknown split {value!r}", where=place, next=f"Use {', '.join(SPLITS)}.")
    return plain
