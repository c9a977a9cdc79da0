"""One pure function per figure: plain values in, an SVG string out, the same bytes for the same values.

Every function takes ``uid``, which keeps ids apart when several figures share a page, and values as fractions (shown
in points, x100). ``width`` below 560 chooses a layout for narrow screens. ``svg.standalone`` makes a file of a figure.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from mmkd_core.report.curves import loss_panel
from mmkd_core.report.forest import ForestRow, forest_plot
from mmkd_core.report.svg import Axis, drawing, el, label, line
from mmkd_core.report.words import number, points, share, signed

__all__ = [
    "DotRow",
    "ForestRow",
    "HeatRow",
    "cell_opacity",
    "dot_plot",
    "forest_plot",
    "heat_map",
    "loss_panel",
]

Bounds = tuple[float, float]


@dataclass(frozen=True)
class HeatRow:
    """One model: AUC by domain (None where it cannot be measured), their mean, and (admitted, of) where it teaches."""

    name: str
    auc: Mapping[str, float | None]
    mean: float | None
    trust: Mapping[str, tuple[int, int]] = field(default_factory=dict)


@dataclass(frozen=True)
class DotRow:
    """One domain: AUC and 95 % interval before and after, and that of the best single teacher."""

    name: str
    before: float | None
    before_interval: Bounds | None
    after: float | None
    after_interval: Bounds | None
    teacher: float | None


MEAN = "mean"
"""The name of the row over all domains."""


def heat_map(
    teachers: Sequence[HeatRow],
    students: Sequence[HeatRow],
    domains: Sequence[str],
    uid: str,
    students_are: str = "Student",
) -> str:
    """Models x domains: AUC as colour and number, an outline where a teacher is trusted, students below."""
    left, cell, tall, gap = 180, 76, 44, 14
    mean_x = left + cell * len(domains) + gap
    parts = [
        label(left + cell * (i + 0.5) - 2, 14, domain, "head mid", room=cell + 6) for i, domain in enumerate(domains)
    ]
    parts.append(label(mean_x + cell / 2 - 2, 14, "mean", "head mid bold"))
    rows = [*teachers, *students]
    best = {d: max((v for row in rows if (v := number(row.auc.get(d))) is not None), default=None) for d in domains}
    y = 24.0
    for title, group in (("Teachers", teachers), (students_are, students)):
        if not group:
            continue
        parts.append(label(0, y + 12, title, "head"))
        y += 20
        for row in group:
            parts.append(label(0, y + tall / 2 + 3, row.name, "bold" if group is students else None, room=left - 8))
            for i, domain in enumerate(domains):
                value = row.auc.get(domain)
                parts += _cell(left + cell * i, y, cell - 4, tall - 4, value, row.trust.get(domain), best[domain])
            parts += _cell(mean_x, y, cell - 4, tall - 4, row.mean, None, None)
            y += tall
        y += gap
    named = f"{len(teachers)} teachers and " if teachers else ""
    told = f"Zero-shot AUC in points of {named}{len(students)} {students_are.lower()}s on {len(domains)} domains."
    return drawing(mean_x + cell, y - gap, uid, "AUC by model and domain", told, parts)


def _cell(
    x: float, y: float, w: float, h: float, value: float | None, trust: tuple[int, int] | None, best: float | None
) -> list[str]:
    value = number(value)
    if value is None:
        return [
            el("rect", x=x, y=y, width=w, height=h, rx=4, class_="empty"),
            label(x + w / 2, y + h / 2 + 4, "–", "mid muted"),
        ]
    opacity = cell_opacity(value)
    parts = [
        el(
            "rect",
            x=x,
            y=y,
            width=w,
            height=h,
            rx=4,
            fill_opacity=opacity,
            class_="cell" if value >= 0.5 else "cell low",
        )
    ]
    middle, admitted = y + h / 2 + 4.5, trust is not None and trust[0] > 0
    if trust is not None and admitted:
        whole = trust[0] >= trust[1]
        kind = "trust" if whole else "trust part"
        parts.append(el("rect", x=x + 1, y=y + 1, width=w - 2, height=h - 2, rx=3, class_=kind))
        mark = "✓ all" if whole else share(*trust)
        parts.append(label(x + w / 2, y + h - 7, mark, "small mid on-cell"))
        middle = y + h / 2 - 1
    bold = " bold" if best is not None and points(value) == points(best) else ""
    return [*parts, label(x + w / 2, middle, points(value), f"mid on-cell{bold}")]


def cell_opacity(value: float) -> float:
    """How strongly an AUC colours its cell: nothing known (0.5) is pale, 0 and 1 are full. Numbers stay readable."""
    return round(0.05 + 0.87 * min(1.0, abs(value - 0.5) / 0.5), 3)


def dot_plot(rows: Sequence[DotRow], before: str | None, after: str, uid: str, width: int = 880) -> str:
    """AUC per domain before (ring) and after (dot) with 95 % intervals, and the best single teacher (diamond)."""
    narrow, top = width < 560, 34
    tall = 58 if narrow else 42
    axis = Axis(*_auc_range(rows), *((30, width - 16) if narrow else (140, width - 316)))
    bottom = top + tall * len(rows)
    parts = _legend(before, after, any(number(row.teacher) is not None for row in rows), 4 if narrow else axis.start)
    ticks = next((found for about in (6, 4, 3) if 0.5 in (found := axis.ticks(about))), axis.ticks(6))
    for tick in ticks:
        parts.append(line(axis(tick), top - 4, axis(tick), bottom, "dash" if tick == 0.5 else "grid"))
        word = f"{100 * tick:.0f}" + (" chance" if tick == 0.5 else "")
        parts.append(label(axis(tick), bottom + 17, word, "head mid"))
    columns = {width - 232: "best teacher", width - 156: "before", width - 84: "after", width - 4: "change"}
    heads = ("best teacher", "before", "after", "change") if before else ("best teacher", "after")
    if not narrow:
        parts += [label(x, 14, name, "head end") for x, name in columns.items() if name in heads]
    for i, row in enumerate(rows):
        y = top + tall * i + tall / 2
        if row.name == MEAN and i:
            parts.append(line(0, y - tall / 2, width, y - tall / 2, "grid"))
        change = signed(row.after - row.before) if row.after is not None and row.before is not None else "–"
        if narrow:
            text = f"{points(row.before)} → {points(row.after)}" if before else points(row.after)
            parts.append(label(4, y - 12, row.name, "bold halo", room=150))
            parts.append(label(width - 4, y - 12, text + (f" ({change})" if before else ""), "end halo"))
            y += 9
        else:
            parts.append(label(0, y + 4, row.name, "bold" if row.name == MEAN else None, room=130))
            shown = (points(row.teacher), points(row.before), points(row.after), change)
            for (x, name), text, kind in zip(columns.items(), shown, ("muted", "", "bold", ""), strict=True):
                if name in heads:
                    parts.append(label(x, y + 4, text, f"end {kind}".strip()))
        parts += _dots(row, y, axis)
    told = "; ".join(f"{row.name} {points(row.before)} to {points(row.after)}" for row in rows)
    return drawing(width, bottom + 24, uid, "Student before and after, by domain", told, parts)


def _dots(row: DotRow, y: float, axis: Axis) -> list[str]:
    parts: list[str] = []
    offset = 5 if row.before is not None else 0
    if (teacher := number(row.teacher)) is not None:
        x = axis(teacher)
        parts.append(el("path", d=f"M{x:.2f} {y - 7:.2f}l5 7l-5 7l-5 -7z", class_="teacher"))
    for value, interval, kind, at in (
        (number(row.before), row.before_interval, "before", y - offset),
        (number(row.after), row.after_interval, "after", y + offset),
    ):
        if interval is not None:
            parts.append(line(axis(interval[0]), at, axis(interval[1]), at, kind))
        if value is not None:
            parts.append(el("circle", cx=axis(value), cy=at, r=4.5, class_=kind))
    return parts


def _auc_range(rows: Sequence[DotRow]) -> Bounds:
    """The tens that hold every value and, for reference, chance if the values come near it."""
    seen = [v for row in rows for v in (row.before, row.after, row.teacher) if number(v) is not None]
    seen += [b for row in rows for pair in (row.before_interval, row.after_interval) if pair for b in pair]
    low, high = min((v for v in seen if v is not None), default=0.5), max((v for v in seen if v is not None), default=1)
    low = 0.5 if 0.5 <= low < 0.7 else low
    return max(0.0, math.floor(low * 10) / 10), min(1.0, max(math.ceil(high * 10) / 10, low + 0.1))


def _legend(before: str | None, after: str, teacher: bool, x: float) -> list[str]:
    names = [("before", before)] if before else []
    parts: list[str] = []
    for kind, name in [*names, ("after", after)]:
        parts += [line(x, 10, x + 18, 10, kind), el("circle", cx=x + 9, cy=10, r=4.5, class_=kind)]
        parts.append(label(x + 24, 14, name or "", "small"))
        x += 24 + 7 * len(name or "") + 20
    if teacher:
        parts.append(el("path", d=f"M{x + 5:.2f} 3l5 7l-5 7l-5 -7z", class_="teacher"))
        parts.append(label(x + 16, 14, "best teacher", "small"))
    return parts
