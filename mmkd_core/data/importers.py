"""Real images come in: a manifest, a folder of images with captions, webdataset shards, or MedMNIST files.

Does not: download anything.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from mmkd_core.data.assemble import assemble
from mmkd_core.data.cells import SUFFIXES
from mmkd_core.data.folders import images_below, read_folder
from mmkd_core.data.issues import ImportLog
from mmkd_core.data.manifest import MANIFEST, PROMPTS, Corpus
from mmkd_core.data.medmnist import read_medmnist
from mmkd_core.data.options import ImportOptions
from mmkd_core.data.report import ImportReport
from mmkd_core.data.shards import is_shard, read_shards
from mmkd_core.data.tables import Table, read_table
from mmkd_core.data.volumes import converted
from mmkd_core.errors import DataError

__all__ = ["ImportOptions", "ImportReport", "import_data"]

_NEXT = (
    "Give a folder of images with a .txt beside each; or a csv, jsonl or parquet manifest, webdataset .tar or MedMNIST "
    ".npz files, or a folder with one of these."
)


@dataclass(frozen=True)
class Importer:
    """One kind of source.

    Attributes:
        what: in words.
        fits: True of a path that may be one.
        read: makes a table of such paths; gets the folder of the corpus too, for images that lie in no plain file.
        takes: options that it understands, of those that not all do.
    """

    what: str
    fits: Callable[[Path], bool]
    read: Callable[[list[Path], Path, ImportOptions, ImportLog], Table]
    takes: tuple[str, ...] = ()


MANIFESTS = Importer(
    "a manifest",
    lambda path: path.is_file() and path.suffix.lower() in SUFFIXES,
    lambda paths, _, how, log: read_table(paths[0], log, how.domain, how.labels_from),
    ("labels_from",),
)
MEDMNIST = Importer(
    "MedMNIST files",
    lambda path: path.is_file() and path.suffix.lower() == ".npz",
    lambda paths, out, how, log: read_medmnist(paths, out, log, how.domain, how.progress),
)
SHARDS = Importer(
    "shards",
    lambda path: path.is_file() and is_shard(path),
    lambda paths, _, how, log: read_shards(paths, log, how.domain, how.labels_from, caption_lines=how.caption_lines),
    ("labels_from", "caption_lines"),
)
FOLDERS = Importer(
    "a folder of images",
    lambda path: path.is_dir() and bool(images_below(path)),
    lambda paths, _, how, log: read_folder(paths[0], log, how.domain, caption_lines=how.caption_lines),
    ("caption_lines",),
)
OF_FILES = (MANIFESTS, MEDMNIST, SHARDS)


def import_data(path: Path, out_root: Path, options: ImportOptions = ImportOptions()) -> tuple[Corpus, ImportReport]:
    """Import whatever ``path`` is: a manifest, shard or ``.npz`` file, a folder with one of these, or with images.

    Images are decoded once and hashed, and stay where they are; those that lie in no plain file (DICOM, slices of
    volumes, arrays) are kept as PNGs below ``out_root/images``.

    Raises:
        DataError: nothing there, nothing known, more than one thing to choose from, or anything wrong with it, in one
            sentence with file and rows. Nothing is left behind then.
    """
    out_root, log = Path(out_root), ImportLog()
    importer, files = _find(Path(path))
    for name in ("labels_from", "caption_lines"):
        if getattr(options, name) and name not in importer.takes:
            flag = name.replace("_", "-")
            raise DataError(f"--{flag} says nothing of {importer.what}", where=str(path), next=f"Leave --{flag} out.")
    with nothing_left(out_root):
        table = importer.read(files, out_root, options, log)
        _note_others(Path(path), files, table, log)
        table = converted(table, out_root, options.salt, log, options.max_bad)
        return assemble(table, out_root, options, log)


def _note_others(path: Path, files: list[Path], table: Table, log: ImportLog) -> None:
    """Tell images of a folder that nothing names, where the folder was given and something else in it was read."""
    if path.is_dir() and files != [path]:
        named = {row.image for row in table.rows}
        others = [image for image in images_below(path) if image not in named]
        if others:
            what = f"{len(others):,} images of the folder are not named by {files[0].name}"
            log.note(f"{what}{' and the others' * (len(files) > 1)}, and not read")


@contextmanager
def nothing_left(folder: Path) -> Iterator[None]:
    """Remove a folder again that a refused import made; what a killed one left is kept for the next."""
    new = not folder.exists()
    try:
        yield
    except DataError:
        if new:
            shutil.rmtree(folder, ignore_errors=True)
        raise


def _find(path: Path) -> tuple[Importer, list[Path]]:
    """Return the kind of source, and its paths: a manifest, ``.npz`` files, shards, or the folder of images."""
    if path.is_file():
        for importer in OF_FILES:
            if importer.fits(path):
                return importer, [path]
        raise DataError(f"cannot import a '{path.suffix or path.name}' file", where=str(path), next=_NEXT)
    if not path.is_dir():
        raise DataError("no such file or folder", where=str(path), next=_NEXT)
    if (path / MANIFEST).is_file() and (path / PROMPTS).is_file():
        raise DataError("the folder is a corpus already", where=str(path), next="Use it as it is, without importing.")
    entries = sorted(entry for entry in path.iterdir() if not entry.name.startswith("."))
    found = {importer: [entry for entry in entries if importer.fits(entry)] for importer in OF_FILES}
    found[MANIFESTS] = [entry for entry in found[MANIFESTS] if entry.stem == "manifest"] or found[MANIFESTS]
    if len(found[MANIFESTS]) + bool(found[MEDMNIST]) + bool(found[SHARDS]) > 1:
        names = ", ".join(entry.name for entries in found.values() for entry in entries[:3])
        raise DataError(f"several things could be imported: {names}", where=str(path), next="Name one of the files.")
    for importer, paths in found.items():
        if paths:
            return importer, paths
    if FOLDERS.fits(path):
        return FOLDERS, [path]
    raise DataError("the folder holds no manifest, no image, no shard and no .npz file", where=str(path), next=_NEXT)
