"""Real images come in: a manifest, a folder of images with captions, webdataset shards, or MedMNIST files.

Does not: download anything.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from mmkd_core.data.assemble import ImportReport, assemble
from mmkd_core.data.folders import images_below, read_folder
from mmkd_core.data.manifest import MANIFEST, PROMPTS, Corpus
from mmkd_core.data.medmnist import import_medmnist
from mmkd_core.data.shards import is_shard, read_shards
from mmkd_core.data.tables import SUFFIXES, read_table
from mmkd_core.data.volumes import Salt, converted, new_salt
from mmkd_core.errors import DataError
from mmkd_core.progress import Progress

__all__ = ["ImportReport", "import_data", "import_manifest", "import_medmnist", "import_webdataset"]

_NEXT = (
    "Give a folder of images with a .txt beside each; or a csv, jsonl or parquet manifest, webdataset .tar or MedMNIST "
    ".npz files, or a folder with one of these."
)


def import_manifest(
    path: Path,
    out_root: Path,
    *,
    seed: int = 0,
    max_bad: int = 0,
    workers: int | None = None,
    progress: Progress | None = None,
    salt: Salt = new_salt,
    domain: str | None = None,
) -> tuple[Corpus, ImportReport]:
    """Import a csv, jsonl or parquet manifest; images are read in place, decoded once and hashed, not copied.

    DICOM files and slices of NIfTI volumes are kept as PNGs below ``out_root/images``; see ``volumes``.

    Args:
        path: columns image, domain, label or caption, group_id, split; see ``tables``. Or a folder; see ``folders``.
        out_root: folder of the new corpus.
        seed: of the splits that are assigned.
        max_bad: how many unreadable images may be left out; they are listed in the report.
        workers: decoding threads.
        progress: who watches.
        salt: gives the secret that patients' names in DICOM files are hashed with; asked for only if there are any.
        domain: kind of all images, where neither a column nor a folder says it.

    Raises:
        DataError: anything wrong with the manifest, in one sentence with file and row.
    """
    out_root = Path(out_root)
    read = read_folder if Path(path).is_dir() else read_table
    table, ids, lost = converted(read(Path(path), domain), out_root, salt, max_bad)
    options: dict[str, Any] = {"seed": seed, "workers": workers, "progress": progress}
    corpus, report = assemble(table, out_root, max_bad=max_bad - len(lost), ids=ids, **options)
    return corpus, replace(report, skipped=lost + report.skipped)


def import_webdataset(
    files: Sequence[Path],
    out_root: Path,
    *,
    seed: int = 0,
    max_bad: int = 0,
    workers: int | None = None,
    progress: Progress | None = None,
) -> tuple[Corpus, ImportReport]:
    """Import webdataset shards; images are read from the shards, now and later. See ``shards``, ``import_manifest``.

    Raises:
        DataError: a shard is compressed or damaged, or a sample is not whole.
    """
    table = read_shards([Path(file) for file in files])
    return assemble(table, Path(out_root), seed=seed, max_bad=max_bad, workers=workers, progress=progress)


def import_data(
    path: Path,
    out_root: Path,
    *,
    seed: int = 0,
    max_bad: int = 0,
    workers: int | None = None,
    progress: Progress | None = None,
    salt: Salt = new_salt,
    domain: str | None = None,
) -> tuple[Corpus, ImportReport]:
    """Import whatever ``path`` is: a manifest, shard or ``.npz`` file, a folder with one of these, or with images.

    Raises:
        DataError: nothing there, nothing known, or more than one thing to choose from.
    """
    source = _find(Path(path))
    options: dict[str, Any] = {"seed": seed, "max_bad": max_bad, "workers": workers, "progress": progress}
    if isinstance(source, Path):
        return import_manifest(source, out_root, salt=salt, domain=domain, **options)
    if domain:
        raise DataError(
            "shards and .npz files say themselves what they are", where=str(path), next="Leave --domain out."
        )
    if is_shard(source[0]):
        return import_webdataset(source, out_root, **options)
    return import_medmnist(source, out_root, seed=seed, progress=progress)


def _find(path: Path) -> Path | list[Path]:
    """Return the manifest or the folder of images, or the list of ``.npz`` files or shards."""
    if path.is_file():
        if path.suffix.lower() == ".npz" or is_shard(path):
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
    shards = [entry for entry in entries if is_shard(entry)]
    if len(chosen) + bool(arrays) + bool(shards) > 1:
        names = ", ".join(entry.name for entry in (chosen + arrays + shards)[:6])
        raise DataError(f"several things could be imported: {names}", where=str(path), next="Name one of the files.")
    if chosen:
        return chosen[0]
    if arrays or shards:
        return arrays or shards
    if images_below(path):
        return path
    raise DataError("the folder holds no manifest, no image, no shard and no .npz file", where=str(path), next=_NEXT)
