"""From wherever an evaluation set is published to a set of this workspace."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

from mmkd_core.data.clip_benchmark import import_clip_benchmark
from mmkd_core.data.domains import domain_name
from mmkd_core.data.eval_sets import EvalSet
from mmkd_core.data.hf_datasets import import_hf
from mmkd_core.data.importers import nothing_left
from mmkd_core.data.issues import ImportLog, Remarks
from mmkd_core.data.medmnist_eval import import_medmnist_set
from mmkd_core.data.options import Reading
from mmkd_core.errors import DataError
from mmkd_core.progress import Progress

HUB = "hf:"


def import_set(
    source: str, root: Path, name: str | None, domain: str | None, how: Reading, progress: Progress | None = None
) -> tuple[EvalSet, Remarks]:
    """Make a set below ``root``.

    Args:
        source: ``hf:OWNER/NAME`` at ``how.revision``; a MedMNIST ``.npz``; a folder with parquet files; a webdataset
            folder as CLIP_benchmark writes it.
        root: folder of the sets.
        name: of the set; made from the source's if None.
        domain: imaging modality; only a published MedMNIST set has one of its own.
        how: what is read and recorded.
        progress: shown while images are read.

    Returns:
        The set, and what there is to say of it.

    Raises:
        DataError: none of these, or what it holds would make a figure wrong.
    """
    title = name or re.sub(r"[^a-z0-9]+", "-", Path(source.removeprefix(HUB)).stem.lower()).strip("-")
    out, log = root / title, ImportLog()
    with nothing_left(out):
        found = _import(source, out, title, domain, how, log, progress)
    return found, log.remarks()


def _import(
    source: str, out: Path, title: str, domain: str | None, how: Reading, log: ImportLog, progress: Progress | None
) -> EvalSet:
    if source.endswith(".npz"):
        return import_medmnist_set(Path(source), out, title, domain, how, log, progress)
    if domain is None:
        raise DataError("the modality of the images is not known", where=source, next="Say it, as in --domain xray.")
    kind = domain_name(domain, source)
    if source.startswith(HUB):
        folder, commit = _from_hub(source.removeprefix(HUB), how.revision)
        return import_hf(folder, out, title, kind, replace(how, revision=commit, origin=source), log, progress)
    if how.revision is not None:
        mend = f"Leave --revision out, or name the data set as {HUB}OWNER/NAME."
        raise DataError("a folder is what it is: it has no revision to choose", where=source, next=mend)
    if any(Path(source).rglob("*.parquet")):
        return import_hf(Path(source), out, title, kind, how, log, progress)
    return import_clip_benchmark(Path(source), out, title, kind, how, log)


def _from_hub(repo: str, revision: str | None) -> tuple[Path, str]:
    from mmkd_core.plugins.downloads import dataset

    if revision is None:
        mend = "Name a commit with --revision; a branch or tag (main) is resolved to its commit, which the set records."
        raise DataError("a data set of the hub changes: which revision?", where=repo, next=mend)
    return dataset(repo, revision)
