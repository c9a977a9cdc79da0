"""The sha256 of files, remembered for the life of the process per path, size and time of modification."""

from __future__ import annotations

import functools
import hashlib
from pathlib import Path


def sha256_of(path: Path) -> str:
    """The file's sha256 in hex, remembered as long as its size and time of modification stay."""
    status = path.stat()
    return _sha256(str(path.resolve()), status.st_size, status.st_mtime_ns)


def forget_hashes() -> None:
    """Read every file again the next time that it is asked for."""
    _sha256.cache_clear()


@functools.lru_cache(maxsize=1024)
def _sha256(path: str, _size: int, _mtime_ns: int) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
