"""A door for threads: many inside at a time, or one alone."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager


class Gate:
    """Many inside at a time, or one that has it alone: LMDB's map must not move under a transaction."""

    def __init__(self) -> None:
        self._condition = threading.Condition()
        self._inside = 0

    def enter(self) -> None:
        """Come in beside others."""
        with self._condition:
            self._inside += 1

    def leave(self) -> None:
        """Go out."""
        with self._condition:
            self._inside -= 1
            if not self._inside:
                self._condition.notify_all()

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Wait until nobody is inside, and let nobody in."""
        with self._condition:
            self._condition.wait_for(lambda: not self._inside)
            yield
