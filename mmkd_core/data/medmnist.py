"""MedMNIST files (Yang et al., Scientific Data 2023) become PNGs and a corpus.

A file ``pathmnist.npz``, or ``pathmnist_64.npz`` for larger images, holds ``{train,val,test}_{images,labels}``. Images
are streamed from the archive one by one, so that a file of 12 GB needs no 12 GB of memory.

Does not: import multi-label sets (ChestMNIST) or volumes, download, or unpickle.
"""

from __future__ import annotations

import re
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from mmkd_core.data.assemble import ImportReport, assemble
from mmkd_core.data.manifest import SPLITS, Corpus
from mmkd_core.data.medmnist_sets import FLAGS
from mmkd_core.data.pngs import keep_png
from mmkd_core.data.tables import Row, Table
from mmkd_core.errors import DataError
from mmkd_core.progress import Progress, Silent

_SIZE = re.compile(r"_(28|64|128|224)$")
_SCOPE = "MedMNIST images with one label each can be imported (not ChestMNIST, not the 3D sets)."


def import_medmnist(
    source: Path | Sequence[Path],
    out_root: Path,
    *,
    seed: int = 0,
    progress: Progress | None = None,
) -> tuple[Corpus, ImportReport]:
    """Import MedMNIST ``.npz`` files, or all of a folder; PNGs are written below ``out_root/images``.

    MedMNIST names no patients, so every image is its own group. Where it holds the same image twice
    it is kept once (test before val before train); the report says how many were left out.

    Raises:
        DataError: no such files, damaged, multi-label, volumes, or one set in two sizes.
    """
    files = _files(Path(source)) if isinstance(source, (str, Path)) else [Path(file) for file in source]
    images: list[_Unpacked] = []
    order: dict[str, list[str]] = {}
    for flag, file in _by_flag(files).items():
        new, domain, names = _unpack(file, flag, Path(out_root), progress or Silent())
        images += new
        order[domain] = [*order.get(domain, []), *(name for name in names if name not in order.get(domain, []))]
    kept = _once(images)
    remarks = ["MedMNIST names no patients: every image is its own group, so intervals may be too narrow"]
    if dropped := len(images) - len(kept):
        remarks.append(
            f"{dropped} of {len(images)} images repeat another: each was kept once, test before val before train"
        )
    table = Table(files[0] if len(files) == 1 else files[0].parent, [image.row for image in kept], remarks)
    ids = {image.row.image: image.image_id for image in kept}
    return assemble(table, Path(out_root), seed=seed, order=order, ids=ids, progress=progress)


@dataclass(frozen=True)
class _Unpacked:
    """One image that was written, and its row."""

    image_id: str
    row: Row


def _files(path: Path) -> list[Path]:
    files = [path] if path.is_file() else sorted(path.glob("*.npz"))
    if not files:
        raise DataError("no .npz files", where=str(path), next="Give a MedMNIST file or a folder of them.")
    return files


def _by_flag(files: Sequence[Path]) -> dict[str, Path]:
    flags: dict[str, Path] = {}
    for file in files:
        flag = _SIZE.sub("", file.stem.lower())
        if flag in flags:
            what = f"{flag} is there twice: {flags[flag].name} and {file.name}"
            raise DataError(what, where=str(file.parent), next="Name one of the files, or keep one size in the folder.")
        flags[flag] = file
    return flags


def _once(images: Sequence[_Unpacked]) -> list[_Unpacked]:
    """Return every image once, in the order given."""
    best: dict[str, int] = {}
    for split in reversed(SPLITS):  # test first
        for i, image in enumerate(images):
            if image.row.split == split:
                best.setdefault(image.image_id, i)
    return [images[i] for i in sorted(best.values())]


def _unpack(file: Path, flag: str, root: Path, progress: Progress) -> tuple[list[_Unpacked], str, list[str]]:
    """Write the images of one file as PNGs named by their hash; return them, the domain and the class names."""
    unpacked: list[_Unpacked] = []
    try:
        with zipfile.ZipFile(file) as archive:
            _check_keys(archive, file)
            labels = {split: _labels(archive, split, file) for split in SPLITS}
            highest = max((int(values.max()) for values in labels.values() if values.size), default=-1)
            domain, known = FLAGS.get(flag, (flag.replace("_", "-"), ()))
            names = list(known) or [f"class {k}" for k in range(highest + 1)]
            if highest >= len(names):
                raise DataError(f"label {highest} is beyond the {len(names)} classes of {flag}", where=file.name)
            for split, values in labels.items():
                with progress.task(f"unpack {flag} {split}", len(values), "images") as advance:
                    for i, pixels in enumerate(_images(archive, split, file, len(values))):
                        name, path = keep_png(Image.fromarray(pixels), root / "images" / flag)
                        label = names[int(values[i])]
                        row = Row(f"{split}_images[{i}]", path, domain, label, None, f"{flag}-{name}", split)
                        unpacked.append(_Unpacked(name, row))
                        advance(1)
    except FileNotFoundError:
        raise DataError("no such file", where=str(file), next="Give a MedMNIST file or a folder of them.") from None
    except (zipfile.BadZipFile, zlib.error, EOFError, ValueError) as error:
        raise DataError(f"the file is damaged: {error}", where=file.name, next="Download it again.") from error
    return unpacked, domain, names


def _check_keys(archive: zipfile.ZipFile, file: Path) -> None:
    found = {name.removesuffix(".npy") for name in archive.namelist()}
    missing = [f"{split}_{part}" for split in SPLITS for part in ("images", "labels") if f"{split}_{part}" not in found]
    if missing:
        what = f"the file has no {', '.join(missing)}; it has {', '.join(sorted(found)) or 'nothing'}"
        raise DataError(what, where=file.name, next=_SCOPE)


def _labels(archive: zipfile.ZipFile, split: str, file: Path) -> NDArray[np.int64]:
    with archive.open(f"{split}_labels.npy") as stream:
        shape, dtype = _header(stream, file)
        if len(shape) == 2 and shape[1] > 1:
            raise DataError(f"the images have {shape[1]} labels each", where=file.name, next=_SCOPE)
        if dtype.kind not in "iu" or len(shape) not in (1, 2):
            raise DataError(f"{split}_labels are {dtype} of shape {shape}, not integers", where=file.name, next=_SCOPE)
        values = np.frombuffer(_exactly(stream, int(np.prod(shape)) * dtype.itemsize), dtype)
    if values.size and int(values.min()) < 0:
        raise DataError(f"{split}_labels hold a negative label", where=file.name)
    return values.astype(np.int64)


def _images(archive: zipfile.ZipFile, split: str, file: Path, count: int) -> Iterator[NDArray[np.uint8]]:
    """Yield (H, W) or (H, W, 3) uint8 one by one."""
    with archive.open(f"{split}_images.npy") as stream:
        shape, dtype = _header(stream, file)
        flat = len(shape) == 3 or (len(shape) == 4 and shape[-1] == 3)
        if not flat or dtype != np.uint8:
            what = f"{split}_images are {dtype} of shape {shape}, not uint8 of N x H x W or N x H x W x 3"
            raise DataError(what, where=file.name, next=_SCOPE)
        if shape[0] != count:
            raise DataError(f"{split} has {shape[0]} images and {count} labels", where=file.name)
        for _ in range(count):
            yield np.frombuffer(_exactly(stream, int(np.prod(shape[1:]))), np.uint8).reshape(shape[1:])


def _header(stream: IO[bytes], file: Path) -> tuple[tuple[int, ...], np.dtype[Any]]:
    """Read the header of a ``.npy`` stream; nothing that would need a pickle gets past it."""
    version = np.lib.format.read_magic(stream)
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, fortran, dtype = read(stream)
    if dtype.hasobject or fortran:
        raise DataError("the file holds Python objects or Fortran-ordered arrays", where=file.name, next=_SCOPE)
    return shape, dtype


def _exactly(stream: IO[bytes], size: int) -> bytes:
    data = stream.read(size)
    if len(data) != size:
        raise EOFError(f"{size} bytes expected, {len(data)} found")
    return data
