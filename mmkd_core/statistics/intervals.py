"""Confidence intervals: Wilson's of a proportion, and expanded percentiles of resampled values."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import special

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Interval:
    """An estimate with the bounds of its confidence interval, and what it rests on."""

    estimate: float
    lower: float
    upper: float
    n: int
    groups: int


def wilson_lower(successes: int, n: int, confidence: float = 0.95) -> float:
    """One-sided lower bound of a proportion (Wilson 1927); 0.0 where nothing was tried.

    The upper bound is ``1 - wilson_lower(n - successes, n)``.
    """
    if not 0 <= successes <= n:
        raise ValueError(f"{successes} successes in {n} trials")
    if n == 0:
        return 0.0
    z = float(special.ndtri(confidence))
    share = successes / n
    centre = share + z * z / (2 * n)
    spread = z * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    return max(0.0, (centre - spread) / (1 + z * z / n))


def percentile_interval(
    estimate: float, draws: Floats, n: int, groups: int, confidence: float, limits: tuple[float, float]
) -> Interval:
    """Two-sided expanded percentile interval of resampled values (Hesterberg 2015, section 4.2).

    Plain percentiles are too narrow with few groups; the levels are widened by Student's t and sqrt(G / (G - 1)), which
    vanishes as the number of groups G grows. One group says nothing about others: the bounds are then the ``limits`` of
    the statistic. NaN among the draws is passed over.
    """
    finite = draws[np.isfinite(draws)]
    lower, upper = limits
    if groups > 1 and len(finite):
        z = special.stdtrit(groups - 1, (1 - confidence) / 2) * math.sqrt(groups / (groups - 1))
        level = float(special.ndtr(z))
        lower, upper = (float(bound) for bound in np.quantile(finite, [level, 1 - level]))
    return Interval(estimate, lower, upper, n, groups)
