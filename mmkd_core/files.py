"""Whole files: written under a temporary name, hashed, and compared with that hash before their first use in a process.

A hash is remembered for the life of the process as long as path, size and time of modification stay, so that a check
costs one reading of the file and no more.
"""

from __future__ import annotations

import errno
import functools
import hashlib
import os
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO, NoReturn, Protocol

from mmkd_core.errors import MmkdError

NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
"""A full disk, a full quota, a file as large as this system lets it be (``ulimit -f``, FAT)."""


@contextmanager
def replacing(path: Path, *, private: bool = False) -> Iterator[BinaryIO]:
    """Open a new file that becomes ``path`` when the block ends, and never if it raises.

    A reader sees the old file or the whole new one. The parent folder is created.

    Args:
        private: only its owner may read it.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".tmp")
    try:
        with os.fdopen(handle, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        if not private:
            os.chmod(name, 0o666 & ~_umask())  # mkstemp makes files that only their owner can read
        os.replace(name, path)
    except BaseException:
        with suppress(FileNotFoundError):
            os.unlink(name)
        raise


class Sink(Protocol):
    """What takes bytes."""

    def write(self, data: bytes, /) -> int:
        """Take them all."""
        ...


@contextmanager
def sealing(path: Path) -> Iterator[Sink]:
    """``replacing``, with the hash of all that is written kept beside the file, for ``is_whole``."""
    with replacing(path) as file:
        sink = _Hashed(file)
        yield sink
        with replacing(_seal_of(path)) as seal:
            seal.write(sink.hexdigest())


class _Hashed:
    def __init__(self, file: BinaryIO) -> None:
        from xxhash import xxh3_128

        self._file, self._hash = file, xxh3_128()

    def write(self, data: bytes, /) -> int:
        self._hash.update(data)
        return self._file.write(data)

    def hexdigest(self) -> bytes:
        return self._hash.hexdigest().encode()


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


def is_whole(path: Path) -> bool:
    """Whether a file is there and is as ``sealing`` left it."""
    try:
        return _seal_of(path).read_bytes().strip() == xxh3_of(path).encode()
    except OSError:
        return False


def _seal_of(path: Path) -> Path:
    return path.with_name(f"{path.name}.xxh3")


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


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
