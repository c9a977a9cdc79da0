"""Whole files: a file is hashed when it is written, and compared with that hash before its first use in a process.

A hash is remembered for the life of the process as long as path, size and time of modification stay, so that a check
costs one reading of the file and no more.
"""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import NoReturn

from mmkd_core.errors import MmkdError


def sha256_of(path: Path) -> str:
    """The file's sha256 in hex."""
    status = path.stat()
    return _hash(str(path.resolve()), "sha256", status.st_size, status.st_mtime_ns, status.st_ino)


def xxh3_of(path: Path) -> str:
    """The file's XXH3 in hex, ten times as fast: against bad disks, not against forgers. For large caches."""
    status = path.stat()
    return _hash(str(path.resolve()), "xxh3", status.st_size, status.st_mtime_ns, status.st_ino)


def forget_hashes() -> None:
    """Read every file again the next time that it is asked for."""
    _hash.cache_clear()


def hashes_of(folder: Path) -> dict[str, str]:
    """The sha256 of every file below a folder, by its path from there."""
    paths = (path for path in sorted(folder.rglob("*")) if path.is_file())
    return {path.relative_to(folder).as_posix(): sha256_of(path) for path in paths}


def require(
    folder: Path, files: Mapping[str, str], name: str, of: str, next: str, error: type[MmkdError] = MmkdError
) -> Path:
    """The path of a file of a folder, after its sha256 was compared with that in ``files``.

    Args:
        of: the folder in words, such as "release 0001".
        next: how to get a whole file.

    Raises:
        MmkdError: as ``error``, if the folder has no such file, or it is missing or changed.
    """
    path = folder / name

    def refuse(state: str, where: str = str(path)) -> NoReturn:
        raise error(f"{of} is damaged: {name} is {state}", where=where, next=next)

    if name not in files:
        refuse("not among its files", str(folder))
    try:
        found = sha256_of(path)
    except (FileNotFoundError, IsADirectoryError, NotADirectoryError):
        refuse("missing")
    except OSError as problem:  # a bad block answers with an error of its own
        refuse(f"unreadable ({problem.strerror})")
    if found != files[name]:
        refuse("changed")
    return path


@functools.lru_cache(maxsize=4096)
def _hash(path: str, kind: str, _size: int, _mtime_ns: int, _inode: int) -> str:
    with open(path, "rb") as file:
        if kind == "sha256":
            return hashlib.file_digest(file, "sha256").hexdigest()
        import xxhash

        return hashlib.file_digest(file, xxhash.xxh3_128).hexdigest()
