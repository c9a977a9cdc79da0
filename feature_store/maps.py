"""A read-only map of the store's file that Python owns: it stays valid as long as anyone looks at it, unlike LMDB's.

Where the file is larger than half of the memory, reading ahead does harm: each row of a random batch would bring in
megabytes that are thrown out again before they are used. There the map is read page by page, and whoever knows which
blocks come next says so (``will_need``). The pages of a random batch are asked for all at once, which the disk answers
several times faster than one after the other. Smaller files are read ahead, as the system likes it.
"""

from __future__ import annotations

import ctypes
import mmap
import os
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from feature_store.errors import StoreError

_PAGE = mmap.PAGESIZE
_ASKED = 1 << 17
"""Bytes asked for at a time: Linux reads no more of a longer part than it reads ahead, often 128 KB."""
_SAMPLES = 16
"""Rows of a batch that are looked at to see whether it lies in memory: all of a thousand would take longer than it."""


def memory_share() -> int:
    """Largest file that is read ahead: half of the machine's memory, in bytes."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2


class FileMap:
    """The map grows with the file. Old maps live on while a view of them does."""

    def __init__(self, path: Path) -> None:
        self._path, self._file = path, (0, 0)
        self._map: mmap.mmap | None = None
        self.is_large = False
        self._bytes: NDArray[np.uint8] = np.empty(0, np.uint8)
        self._views: dict[Any, Any] = {}

    def upto(self, end: int) -> NDArray[np.uint8] | None:
        """Map of at least ``end`` bytes; None if the file is shorter, or was replaced since the first map."""
        if end > len(self._bytes):
            try:
                with open(self._path, "rb") as file:
                    status = os.fstat(file.fileno())
                    found = (status.st_dev, status.st_ino)
                    if self._map is not None and found != self._file:
                        return None
                    self._file = found
                    size = file.seek(0, 2)
                    if end > size:
                        return None
                    self._map = mmap.mmap(file.fileno(), size, access=mmap.ACCESS_READ)
            except OSError as problem:
                raise StoreError(
                    f"the store's file cannot be mapped: {problem.strerror}",
                    where=str(self._path),
                    next="Check the folder's rights and the limit on address space (ulimit -v)",
                ) from problem
            self.is_large = size > memory_share()
            if self.is_large:
                self._map.madvise(mmap.MADV_RANDOM)
            self._bytes = np.frombuffer(self._map, np.uint8)
            self._views = {}
        return self._bytes

    def view(self, key: Any, make: Callable[[NDArray[np.uint8]], Any]) -> Any:
        """Return what ``make`` makes of the map, made once for each key until the map grows."""
        if key not in self._views:
            self._views[key] = make(self._bytes)
        return self._views[key]

    def rows(self, size: int, step: int) -> NDArray[np.void]:
        """All rows of ``size`` bytes that begin at a multiple of ``step``, as opaque items that overlap."""
        return self.view(  # type: ignore[no-any-return]
            ("numpy", size, step),
            lambda data: np.ndarray((max(0, (len(data) - size) // step + 1),), f"V{size}", data, 0, (step,)),
        )

    def will_need(self, start: int, length: int) -> None:
        """Ask the system to read a part of the file; does not wait for it."""
        if self.upto(start + length) is not None and self._map is not None:
            for first in range(start // _PAGE * _PAGE, start + length, _ASKED):
                self._map.madvise(mmap.MADV_WILLNEED, first, min(_ASKED, start + length - first))

    def part(self, start: int, length: int) -> bytes:
        """Some bytes of the map."""
        return self._bytes[start : start + length].tobytes()

    def fetch(self, places: NDArray[np.int64], step: int, size: int) -> None:
        """Ask for all pages of the rows of ``size`` bytes at these places, if the file is large and one is not here."""
        if not self.is_large or self._map is None or not len(places):
            return
        starts = places * step
        if all(self._is_here(start) for start in starts[:: -(-len(starts) // _SAMPLES)].tolist()):
            return
        pages = np.unique(np.concatenate([(starts + min(n, size - 1)) // _PAGE for n in range(0, size + _PAGE, _PAGE)]))
        for run in np.split(pages, np.flatnonzero(np.diff(pages) > 1) + 1):
            self._map.madvise(mmap.MADV_WILLNEED, int(run[0]) * _PAGE, len(run) * _PAGE)

    def _is_here(self, start: int) -> bool:
        """Whether the page with this byte is in memory."""
        failed = _mincore()(self._bytes.ctypes.data + start // _PAGE * _PAGE, 1, _seen)
        return not failed and bool(_seen[0] & 1)


_seen = (ctypes.c_ubyte * 1)()
"""Where ``mincore`` answers. Threads may take each other's answer: no more than a hint hangs on it."""


@cache
def _mincore() -> Any:
    found = ctypes.CDLL(None).mincore
    found.argtypes = ctypes.c_void_p, ctypes.c_size_t, ctypes.c_void_p
    return found
