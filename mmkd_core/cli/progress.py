"""The two faces of ``mmkd_core.progress.Progress``: a bar on a terminal, plain lines elsewhere. Both on stderr."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from mmkd_core.cli.output import on_terminal
from mmkd_core.progress import Advance, Progress

if TYPE_CHECKING:
    from rich.progress import Progress as Bars

    from mmkd_core.integrate.workspace import Workspace

EVERY_S = 10.0
"""Seconds between two plain lines about one task."""


def watch() -> Progress:
    """Whoever fits the stderr of this process."""
    return TerminalProgress() if on_terminal(sys.stderr) else LineProgress()


@contextmanager
def alone_or_led(workspace: Workspace) -> Iterator[Progress]:
    """Hold the workspace and show progress; of several processes that were launched together, the leader alone does."""
    from mmkd_core.progress import Silent
    from mmkd_core.student import parallel

    if parallel.leads():
        with workspace.writing():
            yield watch()
    else:
        yield Silent()


class LineProgress:
    """Lines for logs: one every ten seconds, and one at the end of each task.

    Args:
        clock: seconds; for tests.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock

    def say(self, line: str) -> None:
        """Print one finished fact."""
        print(line, file=sys.stderr, flush=True)

    @contextmanager
    def task(self, label: str, total: int, unit: str, done: int = 0) -> Iterator[Advance]:
        """Report ``total`` units, of which ``done`` were there before."""
        count, text = done, ""
        start = last = self._clock()

        def advance(n: int = 1, note: str = "") -> None:
            nonlocal count, text, last
            count, text = count + n, note or text
            now = self._clock()
            if now - last >= EVERY_S:
                last = now
                self.say(under_way(label, count, total, unit, (count - done) / (now - start), text))

        yield advance
        if count > done:
            self.say(finished(label, count - done, unit, self._clock() - start))


class TerminalProgress:
    """Bars with rate and time left; a finished one leaves a line."""

    def __init__(self) -> None:
        self._bars: Bars | None = None

    def say(self, line: str) -> None:
        """Print one finished fact, above the bars."""
        if self._bars is None:
            print(line, file=sys.stderr, flush=True)
        else:
            self._bars.console.print(line, markup=False, highlight=False, soft_wrap=True)

    @contextmanager
    def task(self, label: str, total: int, unit: str, done: int = 0) -> Iterator[Advance]:
        """Draw one bar; a task inside another gets a line of its own."""
        outermost = self._bars is None
        bars = self._bars = self._bars or _bars()
        if outermost:
            bars.start()
        bar = bars.add_task(label, total=total, completed=done, unit=unit, note="")
        count, text, start = done, "", time.monotonic()

        def advance(n: int = 1, note: str = "") -> None:
            nonlocal count, text
            count, text = count + n, note or text
            bars.update(bar, advance=n, note=text)

        try:
            yield advance
            if count > done:
                self.say(finished(label, count - done, unit, time.monotonic() - start))
        finally:
            bars.remove_task(bar)
            if outermost:
                bars.stop()
                self._bars = None


def under_way(label: str, count: int, total: int, unit: str, rate: float, note: str) -> str:
    """One line about a task that runs."""
    left = f", {duration((total - count) / rate)} left" if rate > 0 else ""
    share = f" ({100 * count / total:.0f} %)" if total else ""
    return f"{label}: {count:,} of {total:,} {unit}{share}, {pace(rate)} {unit}/s{left}" + (f", {note}" if note else "")


def finished(label: str, count: int, unit: str, seconds: float) -> str:
    """One line about a task that is done."""
    return f"{label}: {count:,} {unit.removesuffix('s') if count == 1 else unit} in {duration(seconds)}"


def duration(seconds: float) -> str:
    """Seconds for people: ``0.4 s``, ``12 s``, ``3 min 5 s``, ``2 h 4 min``."""
    if seconds < 10:
        return f"{max(seconds, 0):.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 1:
        return f"{rest} s"
    if minutes < 60:
        return f"{minutes} min {rest} s"
    return f"{minutes // 60} h {minutes % 60} min"


def pace(rate: float) -> str:
    """A rate with two or three digits."""
    return f"{rate:,.0f}" if rate >= 10 else f"{rate:.1f}"


def _bars() -> Bars:
    from rich.console import Console
    from rich.progress import BarColumn, ProgressColumn, Task, TextColumn, TimeRemainingColumn
    from rich.progress import Progress as RichProgress
    from rich.text import Text

    class Rate(ProgressColumn):
        def render(self, task: Task) -> Text:
            speed = task.finished_speed or task.speed
            return Text("" if speed is None else f"{pace(speed)} {task.fields['unit']}/s")

    class Count(ProgressColumn):
        def render(self, task: Task) -> Text:
            return Text(f"{task.completed:,.0f}/{task.total or 0:,.0f}")

    return RichProgress(
        TextColumn("{task.description}", markup=False),
        BarColumn(bar_width=24),
        Count(),
        Rate(),
        TimeRemainingColumn(compact=True),
        TextColumn("{task.fields[note]}", markup=False),
        console=Console(stderr=True),
        transient=True,
    )
