"""Files and folders as a whole: put on the disk, swapped without anybody opening half of it, made read-only."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


def sync_file(path: Path) -> None:
    """Wait until a file, or the names in a folder, are on the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


@contextmanager
def no_swap(folder: Path, alone: bool) -> Iterator[None]:
    """Hold the folder: shared while its files are opened, alone while one is replaced.

    LMDB opens two files by name. Without this, it could find the lock table of one store and the pages of another.
    """
    handle = os.open(folder, os.O_RDONLY | os.O_CLOEXEC)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX if alone else fcntl.LOCK_SH)
        yield
    finally:
        os.close(handle)


def write_whole(path: Path, content: bytes) -> None:
    """Write a small file that is there as a whole or not at all, and is on the disk when this returns."""
    draft = path.with_name(f".{path.name}.tmp")
    draft.write_bytes(content)
    sync_file(draft)
    os.replace(draft, path)
    sync_file(path.parent)


def make_read_only(folder: Path) -> None:
    """Take away the right to write from a folder and the files in it."""
    for path in folder.iterdir():
        path.chmod(0o444)
    folder.chmod(0o555)
