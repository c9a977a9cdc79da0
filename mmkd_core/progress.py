"""How long work reports itself without printing: rooms call a ``Progress``, the command line draws it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Protocol

Advance = Callable[..., None]
"""``advance(n, note="")``: ``n`` more units are done; ``note`` replaces the text at the end of the bar."""


class Progress(Protocol):
    """What a room needs from whoever watches it."""

    def task(self, label: str, total: int, unit: str, done: int = 0) -> AbstractContextManager[Advance]:
        """Open one bar of ``total`` units of which ``done`` were finished by an earlier run."""
        ...

    def say(self, line: str) -> None:
        """Report one finished fact in one line."""
        ...


class Silent:
    """A ``Progress`` that shows nothing: for tests and for use as a library."""

    @contextmanager
    def task(self, label: str, total: int, unit: str, done: int = 0) -> Iterator[Advance]:
        """Accept and drop."""
        yield lambda n=1, note="": None

    def say(self, line: str) -> None:
        """Accept and drop."""
