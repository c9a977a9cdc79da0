"""How much memory a process and its children use, and how much they may.

What counts is resident memory. A limit on address space would not do: torch maps many times more than it uses.
Linux only; elsewhere nothing is measured and only the limits of time hold.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

PERIOD_S = 0.1
_PAGE = os.sysconf("SC_PAGE_SIZE")


def memory_limit() -> int:
    """Bytes that a teacher may use: three quarters of this machine's memory."""
    return int(0.75 * _PAGE * os.sysconf("SC_PHYS_PAGES"))


def memory_used(session: int) -> int:
    """Resident bytes of all processes of a session (its first process's id); 0 where that cannot be read."""
    pages = 0
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            # after the command's name, which may hold anything: state, parent, group, session
            fields = (folder / "stat").read_text(errors="replace").rpartition(")")[2].split()
            if int(fields[3]) == session:
                pages += int((folder / "statm").read_text().split()[1])
        except (OSError, ValueError, IndexError):
            continue  # it ended while it was looked at
    return pages * _PAGE


@contextmanager
def watched(session: int, limit: int, stop: Callable[[], object]) -> Iterator[threading.Event]:
    """Call ``stop`` once when the session uses more than ``limit`` bytes; the event says that it came to that."""
    exceeded, over = threading.Event(), threading.Event()

    def watch() -> None:
        while not over.wait(PERIOD_S):
            if memory_used(session) > limit:
                exceeded.set()
                stop()
                return

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield exceeded
    finally:
        over.set()
        thread.join()


def in_words(size: int) -> str:
    """Bytes for a sentence."""
    return f"{size / 2**30:.1f} GiB" if size >= 2**30 else f"{size / 2**20:.0f} MiB"
