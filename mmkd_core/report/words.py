"""How the report writes numbers: points, signed changes, shares, intervals, times and sizes."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence

# What XML 1.0 cannot hold, and lone surrogates, which UTF-8 cannot.
_UNPRINTABLE = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def clean(text: str) -> str:
    """``text`` without the characters that neither XML nor UTF-8 can hold."""
    return _UNPRINTABLE.sub("\ufffd", text)


def number(value: float | None) -> float | None:
    """``value`` if it is a finite number, else None."""
    return float(value) if isinstance(value, int | float) and math.isfinite(value) else None


def points(value: float | None) -> str:
    """A fraction in points with one decimal: 0.8344 is ``83.4``; nothing is a dash."""
    value = number(value)
    return "–" if value is None else f"{100 * value:.1f}".replace("-", "−")


def signed(value: float | None) -> str:
    """A difference of fractions in points with its sign: ``+3.4``, ``−0.2``, ``0.0``."""
    value = number(value)
    if value is None:
        return "–"
    text = f"{100 * value:+.1f}"
    return "0.0" if text in ("+0.0", "-0.0") else text.replace("-", "−")


def share(part: float, whole: float) -> str:
    """``part`` of ``whole`` in per cent, never rounded to none or all unless it is."""
    if whole <= 0:
        return "–"
    if 0 < part < 0.005 * whole:
        return "<1 %"
    if 0.995 * whole < part < whole:
        return ">99 %"
    return f"{100 * part / whole:.0f} %"


def between(bounds: Sequence[float] | None) -> str:
    """An interval in points: ``78.1 to 82.6``."""
    return "–" if not bounds else f"{points(bounds[0])} to {points(bounds[1])}"


def percent(value: float | None) -> str:
    """A fraction in per cent with one decimal."""
    value = number(value)
    return "–" if value is None else f"{100 * value:.1f} %"


def p_value(value: float) -> str:
    """A p-value as papers print it: ``p = 0.032``, ``p < 0.001``."""
    return "p < 0.001" if value < 0.001 else f"p = {value:.3f}" if value < 0.1 else f"p = {value:.2f}"


def duration(seconds: float | None) -> str:
    """Seconds as people say them: ``0.4 s``, ``42 s``, ``1 min 05 s``, ``2 h 10 min``."""
    value = number(seconds)
    if value is None:
        return "–"
    if value < 9.95:
        return f"{value:.1f} s"
    whole = round(value)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


def amount(size: float | None) -> str:
    """Bytes in the decimal units of disks: ``512 B``, ``1.9 MB``."""
    value = number(size)
    if value is None:
        return "–"
    for unit in ("B", "kB", "MB", "GB"):
        if value < 999.5:
            return f"{value:.0f} {unit}" if unit == "B" or value >= 99.5 else f"{value:.1f} {unit}"
        value /= 1000
    return f"{value:.1f} TB"
