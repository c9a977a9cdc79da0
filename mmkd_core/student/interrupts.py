"""Ctrl-C during training: finish the step, so that what is kept is whole."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

ONE_PRESS_S = 1.0
"""Signals within this time are one wish: a launcher passes on what the terminal has sent to everybody already."""


@contextmanager
def interrupts() -> Iterator[Callable[[], bool]]:
    """Inside, SIGINT and SIGTERM only make the yielded function answer true; a second wish interrupts at once.

    In a thread that is not the main one, signals are left as they are.
    """
    if threading.current_thread() is not threading.main_thread():
        yield lambda: False
        return
    first: list[float] = []

    def note(number: int, frame: FrameType | None) -> None:
        if first and time.monotonic() - first[0] > ONE_PRESS_S:
            raise KeyboardInterrupt
        first.append(time.monotonic())

    before = {number: signal.signal(number, note) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield lambda: bool(first)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler or signal.SIG_DFL)
