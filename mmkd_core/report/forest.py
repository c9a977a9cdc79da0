"""The forest plot: changes with their paired intervals, one under the other."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from mmkd_core.audit.comparison import Verdict
from mmkd_core.report.svg import Axis, drawing, el, label, line
from mmkd_core.report.words import number, points, signed

Bounds = tuple[float, float]
VERDICTS = {verdict.value: (verdict.mark, verdict.value.lower()) for verdict in Verdict} | {
    "BETTER": ("pass", "better"),
    "WORSE": ("fail", "worse"),
    "OPEN": ("unsure", "not told apart"),
}
"""By verdict of an audit, or finding of a study: CSS class and word."""


@dataclass(frozen=True)
class ForestRow:
    """A change with its paired 95 % interval, if there is one; ``verdict`` is a key of ``VERDICTS`` or empty."""

    name: str
    delta: float | None
    lower: float | None
    upper: float | None
    n: int | None
    groups: int | None
    verdict: str
    needed: int | None = None


@dataclass(frozen=True)
class ForestWords:
    """What a forest plot is about: its title, and the heads of its columns."""

    title: str = "Change by domain against the parent release"
    count: str = "n (groups)"
    verdict: str = "verdict"


def forest_plot(
    rows: Sequence[ForestRow],
    mean: ForestRow | None,
    margin: float | None,
    uid: str,
    width: int = 880,
    words: ForestWords = ForestWords(),
) -> str:
    """Changes with their paired intervals; a loss beyond ``margin`` (a positive fraction), if given, is shaded."""
    narrow, top = width < 560, 34
    tall = 52 if narrow else 34
    shown = [*rows, *([mean] if mean else [])]
    axis = Axis(*_delta_range(shown, margin), *((16, width - 20) if narrow else (140, width - 374)))
    bottom = top + tall * len(shown) + (10 if mean else 0)
    parts = [label(axis(0) + 5, 12, "gain →", "head")]
    if margin is not None:
        parts += _limit(axis, margin, top, bottom, narrow)
    for tick in axis.ticks(7):
        parts.append(line(axis(tick), top - 4, axis(tick), bottom, "zero" if tick == 0 else "grid"))
        parts.append(label(axis(tick), bottom + 17, signed(tick).removesuffix(".0"), "head mid"))
    if not narrow:
        heads = ((width - 206, "change [95 % interval]", "head end"), (width - 126, words.count, "head end"))
        parts += [label(x, 12, text, kind) for x, text, kind in (*heads, (width - 108, words.verdict, "head"))]
    for i, row in enumerate(shown):
        y = top + tall * i + tall / 2 + (10 if row is mean else 0)
        if row is mean:
            parts.append(line(0, y - tall / 2 - 5, width, y - tall / 2 - 5, "grid"))
        kind, word = VERDICTS.get(row.verdict, ("after", row.verdict.lower()))
        change = signed(row.delta) + (f" [{signed(row.lower)}, {signed(row.upper)}]" if row.lower is not None else "")
        if narrow:
            parts.append(label(8, y - 9, row.name, "bold halo", room=112))
            parts.append(label(width * 0.65, y - 9, change, "end halo"))
            parts.append(label(width - 8, y - 9, word, f"end bold {kind}"))
            y += 8
        else:
            parts.append(label(0, y + 4, row.name, "bold" if row is mean else None, room=130))
            parts.append(label(width - 206, y + 4, change, "end"))
            if row.n is not None:
                n = f"{row.n:,}" + (f" ({row.groups:,})" if row.groups is not None else "")
                parts.append(label(width - 126, y + 4, n, "end muted"))
            parts.append(label(width - 108, y + 4, word, f"bold {kind}"))
        parts += _interval(row, y, axis, kind, diamond=row is mean)
    told = "; ".join(f"{row.name} {signed(row.delta)} ({row.verdict.lower() or 'mean'})" for row in shown)
    return drawing(width, bottom + 24, uid, words.title, told, parts)


def _limit(axis: Axis, margin: float, top: float, bottom: float, narrow: bool) -> list[str]:
    """The shaded side of a forest plot, its edge, and what it means."""
    edge, told = axis(-margin), f"loss beyond {points(margin)}"
    return [
        el("rect", x=axis.start, y=top - 4, width=edge - axis.start, height=bottom - top + 4, class_="shade"),
        label(8 if narrow else edge - 5, 12, told, "head" if narrow else "head end"),
        line(edge, top - (4 if narrow else 18), edge, bottom, "limit"),
    ]


def _delta_range(rows: Sequence[ForestRow], margin: float | None) -> Bounds:
    """Wide enough for losses, but a large gain may run off the edge: the margin must stay readable."""
    seen = [v for row in rows for value in (row.delta, row.lower, row.upper) if (v := number(value)) is not None]
    low, high = min(seen, default=0.0), max(seen, default=0.0)
    if margin is None:
        room = max(0.08 * (max(high, 0.0) - min(low, 0.0)), 0.002)
        return min(low, 0.0) - room, max(high, 0.0) + room
    return max(min(1.15 * low, -2 * margin), -8 * margin), min(max(1.1 * high, 2 * margin), 5 * margin)


def _interval(row: ForestRow, y: float, axis: Axis, kind: str, diamond: bool) -> list[str]:
    delta, lower, upper = number(row.delta), number(row.lower), number(row.upper)
    parts: list[str] = []
    if lower is not None and upper is not None:
        x1, x2 = axis(lower), axis(upper)
        parts.append(line(x1, y, x2, y, kind))
        for bound, x in ((lower, x1), (upper, x2)):
            if axis.low <= bound <= axis.high:
                parts.append(line(x, y - 4, x, y + 4, kind))
    for value, edge, way in ((upper, axis.high, -8), (lower, axis.low, 8)):
        if value is not None and (value > edge if way < 0 else value < edge):
            parts.append(el("path", d=f"M{axis(edge):.2f} {y:.2f}l{way} -5v10z", class_=kind))
    if delta is not None and axis.low <= delta <= axis.high:
        x = axis(delta)
        if diamond:
            parts.append(el("path", d=f"M{x:.2f} {y - 6:.2f}l6 6l-6 6l-6 -6z", class_=kind))
        elif kind == "fail":
            parts.append(el("path", d=f"M{x:.2f} {y - 6:.2f}l6 11h-12z", class_=kind))
        else:
            hollow = " hollow" if kind == "unsure" else ""
            parts.append(el("rect", x=x - 4.5, y=y - 4.5, width=9, height=9, class_=kind + hollow))
    return parts
