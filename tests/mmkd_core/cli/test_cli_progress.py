from __future__ import annotations

import pytest

from mmkd_core.cli.progress import LineProgress, TerminalProgress, duration, finished, pace, under_way, watch


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


def test_a_line_every_ten_seconds_and_one_at_the_end(capsys):
    clock = Clock()
    with LineProgress(clock).task("stage 1", 400, "steps", done=100) as advance:
        for _ in range(20):
            clock.now += 1
            advance(10, "loss 2.1" if clock.now < 105 else "")
    shown = capsys.readouterr()
    assert shown.out == ""
    assert shown.err.splitlines() == [
        "stage 1: 200 of 400 steps (50 %), 10 steps/s, 20 s left, loss 2.1",
        "stage 1: 300 of 400 steps (75 %), 10 steps/s, 10 s left, loss 2.1",
        "stage 1: 200 steps in 20 s",
    ]


def test_nothing_done_leaves_no_line(capsys):
    with LineProgress().task("texts", 5, "texts", done=5):
        pass
    assert capsys.readouterr().err == ""


def test_an_error_leaves_no_line_that_says_it_was_done(capsys):
    task = LineProgress().task("texts", 5, "texts")
    task.__enter__()(1)
    error = ValueError("no")
    assert not task.__exit__(ValueError, error, None)
    assert capsys.readouterr().err == ""


def test_bars_leave_a_line_and_may_be_nested(capsys):
    bars = TerminalProgress()
    with bars.task("outer", 2, "epochs") as outer:
        with bars.task("[inner]", 3, "steps") as inner:
            inner(3, "loss 1")
        bars.say("a [fact]")
        outer(2)
    assert bars._bars is None
    bars.say("after")
    shown = capsys.readouterr()
    assert shown.out == ""
    lines = [line for line in shown.err.splitlines() if line.strip()]
    assert [line.split(" in ")[0] for line in lines] == ["[inner]: 3 steps", "a [fact]", "outer: 2 epochs", "after"]


def test_bars_end_with_an_error():
    bars = TerminalProgress()
    with pytest.raises(ValueError, match="no"), bars.task("a", 1, "x"):
        raise ValueError("no")
    assert bars._bars is None


def test_lines_where_nobody_watches():
    assert isinstance(watch(), LineProgress)


def test_words():
    assert finished("search", 1, "steps", 0.4) == "search: 1 step in 0.4 s"
    assert finished("search", 1200, "steps", 3.0) == "search: 1,200 steps in 3.0 s"
    assert [duration(s) for s in (-1, 0.44, 9.96, 12.4, 59.7, 185, 7440)] == [
        "0.0 s",
        "0.4 s",
        "10.0 s",
        "12 s",
        "1 min 0 s",
        "3 min 5 s",
        "2 h 4 min",
    ]
    assert [pace(rate) for rate in (0.25, 9.9, 1234.5)] == ["0.2", "9.9", "1,234"]
    assert under_way("a", 0, 0, "x", 0.0, "") == "a: 0 of 0 x, 0.0 x/s"
