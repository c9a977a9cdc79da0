"""Temporary folders that are gone with their process: whoever makes the next one removes those of the dead.

A process that is killed cannot clean up. Each folder holds a file that its process has locked, and the kernel drops
the lock however the process ends; so a folder whose lock is free belongs to nobody.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_MARK = "in-use"


@contextmanager
def scratch(prefix: str, home: Path | None = None) -> Iterator[Path]:
    """An empty folder for the time of the block.

    Args:
        prefix: how its name begins; others of this prefix whose process died are removed first.
        home: where it is made; the system's folder for temporary files by default.
    """
    home = Path(tempfile.gettempdir()) if home is None else home
    remove_dead(prefix, home)
    with tempfile.TemporaryDirectory(prefix=prefix, dir=home) as name:
        early = Path(name, "mark")
        with early.open("w") as held:
            fcntl.flock(held, fcntl.LOCK_EX)
            early.rename(Path(name, _MARK))  # under this name only once it is locked
            folder = Path(name, "files")
            folder.mkdir()
            yield folder


def remove_dead(prefix: str, home: Path | None = None) -> None:
    """Remove the folders that ``scratch`` made with this prefix and whose process died."""
    home = Path(tempfile.gettempdir()) if home is None else home
    for mark in home.glob(f"{prefix}*/{_MARK}"):
        _remove_if_dead(mark)


def _remove_if_dead(mark: Path) -> None:
    try:
        with mark.open("r+") as file:
            if os.fstat(file.fileno()).st_uid != os.getuid():
                return
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(mark.parent, ignore_errors=True)
    except OSError:
        return  # in use, of another user, or gone already
