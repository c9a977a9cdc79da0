"""Curves as small panels (losses by step, shares by threshold), so that a page can lay them out at any width."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from mmkd_core.report.svg import Axis, drawing, el, label, line
from mmkd_core.report.words import clean, number, share


def loss_panel(term: str, steps: Sequence[int], values: Sequence[float | None], uid: str) -> str:
    """One loss over the steps: raw in a light line, its running mean over it, its start and end in words.

    The scale is logarithmic where the running mean spans more than a factor of ten. Steps without a finite value
    are left out; long curves are thinned to their lowest and highest value in each of 200 stretches.
    """
    width, height = 280, 158
    seen = [(step, v) for step, raw in zip(steps, values, strict=True) if (v := number(raw)) is not None]
    if not seen:
        return drawing(width, height, uid, f"{term}: no values", "", [label(0, 14, term, "bold", room=250)])
    running = smooth([v for _, v in seen])
    low, high = min(v for _, v in seen), max(v for _, v in seen)
    log = low > 0 and max(running) > 10 * min(running)
    pad = 0.0 if log else 0.06 * (high - low or abs(high) or 1.0)
    y_axis = Axis(low - pad, high + pad, height - 24, 30, log=log and high > low)
    x_axis = Axis(min(0, seen[0][0]), seen[-1][0], 38, width - 12)
    parts = [label(0, 14, term, "bold", room=140)]
    parts.append(
        label(width - 4, 14, f"{running[0]:.3g} → {running[-1]:.3g}" + (" log" if log else ""), "end small muted")
    )
    for tick in y_axis.ticks(4):
        parts.append(line(x_axis.start, y_axis(tick), width - 8, y_axis(tick), "grid"))
        parts.append(label(x_axis.start - 6, y_axis(tick) + 4, f"{tick:g}", "head end"))
    for tick in x_axis.ticks(4):
        parts.append(label(x_axis(tick), height - 7, f"{tick:,.0f}", "head mid"))
    for kind, curve in (("raw", [v for _, v in seen]), ("smooth", running)):
        thin = _thin([(x_axis(step), y_axis(v)) for (step, _), v in zip(seen, curve, strict=True)])
        parts.append(el("path", d="M" + "L".join(f"{x:.1f} {y:.1f}" for x, y in thin), class_=kind))
    told = f"From {running[0]:.3g} to {running[-1]:.3g} in {seen[-1][0]} steps."
    return drawing(width, height, uid, f"Loss curve: {clean(term)}", told, parts)


def share_panel(
    name: str,
    thresholds: Sequence[float],
    whole: Sequence[float],
    parts: Mapping[str, Sequence[float]],
    now: float,
    uid: str,
) -> str:
    """A share (fraction) by threshold: in all as a dark line, each part as a light one, a dashed line at ``now``."""
    width, height = 280, 158
    x_axis, y_axis = Axis(0.0, 1.0, 38, width - 12), Axis(0.0, 1.0, height - 24, 30)
    at_now = whole[min(range(len(thresholds)), key=lambda i: abs(thresholds[i] - now))]
    drawn = [label(0, 14, name, "bold", room=170)]
    drawn.append(label(width - 4, 14, f"{share(at_now, 1)} at {now:g}", "end small muted"))
    for tick in (0.0, 0.5, 1.0):
        drawn.append(line(x_axis.start, y_axis(tick), width - 8, y_axis(tick), "grid"))
        drawn.append(label(x_axis.start - 6, y_axis(tick) + 4, f"{100 * tick:.0f}", "head end"))
    for tick in (0.0, 0.25, 0.5, 0.75, 1.0):
        drawn.append(label(x_axis(tick), height - 7, f"{tick:g}", "head mid"))
    drawn.append(line(x_axis(now), y_axis.start, x_axis(now), y_axis.stop, "dash"))
    for kind, curve in [*(("raw", part) for part in parts.values()), ("smooth", whole)]:
        points = zip(map(x_axis, thresholds), map(y_axis, curve), strict=True)
        drawn.append(el("path", d="M" + "L".join(f"{x:.1f} {y:.1f}" for x, y in points), class_=kind))
    told = "; ".join(f"{share(whole[i], 1)} at {thresholds[i]:g}" for i in range(0, len(thresholds), 10))
    return drawing(width, height, uid, f"Samples admitted by threshold: {clean(name)}", told, drawn)


def _thin(curve: list[tuple[float, float]], stretches: int = 200) -> list[tuple[float, float]]:
    if len(curve) <= 2 * stretches:
        return curve
    kept: list[tuple[float, float]] = [curve[0]]
    for i in range(stretches):
        part = curve[i * len(curve) // stretches : (i + 1) * len(curve) // stretches]
        ends = (min(range(len(part)), key=lambda k: part[k][1]), max(range(len(part)), key=lambda k: part[k][1]))
        kept += [part[k] for k in sorted(set(ends))]
    return [*kept, curve[-1]]


def smooth(values: Sequence[float]) -> list[float]:
    """An exponential mean with the start corrected for its bias; its half-life is a fortieth of the curve."""
    keep = 0.5 ** (1 / max(1.0, len(values) / 40))
    total = weight = 0.0
    result = []
    for value in values:
        total, weight = keep * total + (1 - keep) * value, keep * weight + (1 - keep)
        result.append(total / weight)
    return result
