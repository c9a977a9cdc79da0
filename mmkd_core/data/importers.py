"""Real images come in: a manifest, MedMNIST files, or a corpus that exists already.

Does not: download anything, or read webdataset shards and DICOM (yet).
"""

from __future__ import annotations

from pathlib import Path

from mmkd_core.data.assemble import ImportReport, assemble
from mmkd_core.data.manifest import MANIFEST, PROMPTS, Corpus
from mmkd_core.data.medmnist import import_medmnist
from mmkd_core.data.tables import SUFFIXES, read_table
from mmkd_core.errors import DataError
from mmkd_core.progress import Progress

__all__ = ["ImportReport", "import_data", "import_manifest", "import_medmnist"]

_NEXT = "Give a csv, jsonl or parquet manifest, MedMNIST .npz files, or a folder with one of these."


def import_manifest(
    path: Path,
    out_root: Path,
    *,
    seed: int = 0,
    max_bad: int = 0,
    workers: int | None = None,
    progress: Progress | None = None,
) -> tuple[Corpus, ImportReport]:
    """Import a csv, jsonl or parquet manifest; images are read in place, decoded once and hashed, not copied.

    Args:
        path: columns image, domain, label or caption, group_id, split; see ``tables``.
        out_root: folder of the new corpus.
        seed: of the captions that are made from labels.
        max_bad: how many unreadable images may be left out; they are listed in the report.
        workers: decoding threads.
        progress: who watches.

    Raises:
        DataError: anything wrong with the manifest, in one sentence with file and row.
    """
    table = read_table(Path(path))
    return assemble(table, Path(out_root), seed=seed, max_bad=max_bad, workers=workers, progress=progress)


def import_data(
    path: Path,
    out_root: Path,
    *,
    seed: int = 0,
    max_bad: int = 0,
    workers: int | None = None,
    progress: Progress | None = None,
) -> tuple[Corpus, ImportReport]:
    """Import whatever ``path`` is: a manifest, a ``.npz`` file, or a folder that holds one manifest or ``.npz`` files.

    Raises:
        DataError: nothing there, nothing known, or more than one thing to choose from.
    """
    source = _find(Path(path))
    if isinstance(source, Path):
        return import_manifest(source, out_root, seed=seed, max_bad=max_bad, workers=workers, progress=progress)
    return import_medmnist(source, out_root, seed=seed, progress=progress)


def _find(path: Path) -> Path | list[Path]:
    """Return the manifest, or the list of ``.npz`` files."""
    if path.is_file():
        if path.suffix.lower() == ".npz":
            return [path]
        if path.suffix.lower() in SUFFIXES:
            return path
        raise DataError(f"cannot import a '{path.suffix or path.name}' file", where=str(path), next=_NEXT)
    if not path.is_dir():
        raise DataError("no such file or folder", where=str(path), next=_NEXT)
    if (path / MANIFEST).is_file() and (path / PROMPTS).is_file():
        raise DataError("the folder is a corpus already", where=str(path), next="Use it as it is, without importing.")
    entries = sorted(entry for entry in path.iterdir() if entry.is_file() and not entry.name.startswith("."))
    arrays = [entry for entry in entries if entry.suffix.lower() == ".npz"]
    tables = [entry for entry in entries if entry.suffix.lower() in SUFFIXES]
    chosen = [entry for entry in tables if entry.stem == "manifest"] or tables
    if len(chosen) + bool(arrays) > 1:
        names = ", ".join(entry.name for entry in (chosen + arrays)[:6])
        raise DataError(f"several things could be imported: {names}", where=str(path), next="Name one of the files.")
    if chosen:
        return chosen[0]
    if arrays:
        return arrays
    raise DataError("the folder holds no manifest and no .npz file", where=str(path), next=_NEXT)
