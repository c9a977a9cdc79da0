"""The files of MedMNIST (Yang et al., Scientific Data 2023): ``{train,val,test}_{images,labels}`` in one ``.npz``.

Images are streamed from the archive one by one, so that a file of 12 GB needs no 12 GB of memory. Does not: unpickle.
"""

from __future__ import annotations

import re
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from mmkd_core.data.manifest import SPLITS
from mmkd_core.errors import DataError

LAYOUT = "A MedMNIST file holds uint8 images and integer labels of train, val and test (not the 3D sets)."
_SIZE = re.compile(r"_(28|64|128|224)$")


def flag_of(file: Path) -> str:
    """``pathmnist`` of ``pathmnist.npz`` and of ``pathmnist_64.npz``."""
    return _SIZE.sub("", file.stem.lower())


@dataclass(frozen=True, eq=False)
class MedmnistFile:
    """An open file.

    Attributes:
        labels: by split (n, L): L is 1, or the number of classes where each may be there or not.
    """

    path: Path
    labels: dict[str, NDArray[np.int64]]
    _archive: zipfile.ZipFile

    def images(self, split: str) -> Iterator[NDArray[np.uint8]]:
        """(H, W) or (H, W, 3) uint8 one by one."""
        return _images(self._archive, split, self.path, len(self.labels[split]))


@contextmanager
def opened(path: Path) -> Iterator[MedmnistFile]:
    """Open a file for as long as the block lasts.

    Raises:
        DataError: no such file, damaged, not of the layout, or it holds Python objects; also from inside the block.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            _check_keys(archive, path)
            labels = {split: _labels(archive, split, path) for split in SPLITS}
            widths = {split: values.shape[1] for split, values in labels.items()}
            if len(set(widths.values())) > 1:
                told = ", ".join(f"{split} {width}" for split, width in widths.items())
                raise DataError(f"the splits differ in labels per image: {told}", where=path.name, next=LAYOUT)
            yield MedmnistFile(path, labels, archive)
    except FileNotFoundError:
        raise DataError("no such file", where=str(path), next="Give a MedMNIST file or a folder of them.") from None
    except (zipfile.BadZipFile, zlib.error, EOFError, ValueError) as error:
        raise DataError(f"the file is damaged: {error}", where=path.name, next="Download it again.") from error


def _check_keys(archive: zipfile.ZipFile, file: Path) -> None:
    found = {name.removesuffix(".npy") for name in archive.namelist()}
    missing = [f"{split}_{part}" for split in SPLITS for part in ("images", "labels") if f"{split}_{part}" not in found]
    if missing:
        what = f"the file has no {', '.join(missing)}; it has {', '.join(sorted(found)) or 'nothing'}"
        raise DataError(what, where=file.name, next=LAYOUT)


def _labels(archive: zipfile.ZipFile, split: str, file: Path) -> NDArray[np.int64]:
    """(n, L)."""
    with archive.open(f"{split}_labels.npy") as stream:
        shape, dtype = _header(stream, file)
        if dtype.kind not in "iu" or len(shape) not in (1, 2):
            raise DataError(f"{split}_labels are {dtype} of shape {shape}, not integers", where=file.name, next=LAYOUT)
        values = np.frombuffer(_exactly(stream, int(np.prod(shape)) * dtype.itemsize), dtype)
    if values.size and int(values.min()) < 0:
        raise DataError(f"{split}_labels hold a negative label", where=file.name)
    return values.astype(np.int64).reshape(shape if len(shape) == 2 else (*shape, 1))


def _images(archive: zipfile.ZipFile, split: str, file: Path, count: int) -> Iterator[NDArray[np.uint8]]:
    """Yield (H, W) or (H, W, 3) uint8 one by one."""
    with archive.open(f"{split}_images.npy") as stream:
        shape, dtype = _header(stream, file)
        flat = len(shape) == 3 or (len(shape) == 4 and shape[-1] == 3)
        if not flat or dtype != np.uint8:
            what = f"{split}_images are {dtype} of shape {shape}, not uint8 of N x H x W or N x H x W x 3"
            raise DataError(what, where=file.name, next=LAYOUT)
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
        raise DataError("the file holds Python objects or Fortran-ordered arrays", where=file.name, next=LAYOUT)
    return shape, dtype


def _exactly(stream: IO[bytes], size: int) -> bytes:
    data = stream.read(size)
    if len(data) != size:
        raise EOFError(f"{size} bytes expected, {len(data)} found")
    return data
