"""Kaplan-Meier curves of the patients above and below the median risk, with the numbers at risk under them."""

from __future__ import annotations

import numpy as np

from mmkd_core.evaluate.risk_groups import Curve, RiskGroups
from mmkd_core.report.svg import Axis, drawing, el, label, line
from mmkd_core.report.words import p_value

Points = list[tuple[float, float]]


def survival_plot(groups: RiskGroups, title: str, uid: str) -> str:
    """Both curves with their 95 % limits, the log-rank test, and how many patients are still followed."""
    width, height, foot = 560, 340, 78
    last = max(float(curve.follow_up[-1]) for curve in (groups.low, groups.high))
    x_axis, y_axis = Axis(0.0, last, 120, width - 16), Axis(0.0, 1.0, height - foot, 40)
    parts = [label(0, 16, title, "bold", room=width - 170)]
    parts.append(label(width - 4, 16, f"log-rank test: {p_value(groups.p_value)}", "end small muted"))
    for tick in (0.0, 0.25, 0.5, 0.75, 1.0):
        parts.append(line(x_axis.start, y_axis(tick), x_axis.stop, y_axis(tick), "grid"))
        parts.append(label(x_axis.start - 8, y_axis(tick) + 4, f"{100 * tick:.0f} %", "head end"))
    for tick in x_axis.ticks(5):
        parts.append(label(x_axis(tick), height - foot + 18, f"{tick:g}", "head mid"))
    parts.append(label(0, height - foot + 36, "at risk", "head"))
    for row, (name, kind, curve) in enumerate((("low risk", "", groups.low), ("high risk", " other", groups.high))):
        parts += _steps(curve, kind, x_axis, y_axis)
        base = height - foot + 54 + 17 * row
        parts.append(label(0, base, name, "small"))
        parts.append(line(62, base - 4, 90, base - 4, f"smooth{kind}"))
        parts += [label(x_axis(t), base, f"{curve.at_risk(t):,}", "small mid") for t in x_axis.ticks(5)]
    told = " ".join(_told(name, curve) for name, curve in (("low risk", groups.low), ("high risk", groups.high)))
    told += f" Log-rank test: {p_value(groups.p_value)}."
    return drawing(width, height, uid, f"Kaplan-Meier curves: {title}", told, parts)


def _told(name: str, curve: Curve) -> str:
    share = 100 * float(curve.survival[-1])
    return f"{len(curve.follow_up):,} patients of {name}, {share:.0f} % without the event at the end."


def _steps(curve: Curve, kind: str, x_axis: Axis, y_axis: Axis) -> list[str]:
    """The band of the limits, and the curve over it."""
    kept = _thin(np.array([x_axis(float(time)) for time in curve.time]))
    x = [x_axis(float(time)) for time in curve.time[kept]]
    lower, upper, share = (
        _stairs(x, [y_axis(float(value)) for value in values[kept]])
        for values in (curve.lower, curve.upper, curve.survival)
    )
    band = "M" + "L".join(_at(point) for point in [*upper, *reversed(lower)]) + "Z"
    path = "M" + "L".join(_at(point) for point in share)
    return [el("path", d=band, class_=f"band{kind}"), el("path", d=path, class_=f"smooth{kind}")]


def _thin(x: np.ndarray) -> np.ndarray:
    """The last step of every half pixel, and the first step: more cannot be seen."""
    last = np.flatnonzero(np.diff(np.floor(2 * x), append=np.inf))
    return np.union1d([0], last)


def _stairs(x: list[float], y: list[float]) -> Points:
    points = [(x[0], y[0])]
    for before, (here, level) in zip(y, zip(x[1:], y[1:], strict=True), strict=False):
        points += [(here, before), (here, level)]
    return points


def _at(point: tuple[float, float]) -> str:
    return f"{point[0]:.1f} {point[1]:.1f}"
