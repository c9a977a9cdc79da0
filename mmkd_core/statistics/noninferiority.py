"""Paired tests of non-inferiority: is the change above minus a margin, or below it, and how many samples decide?

A ``Change`` is candidate minus parent, positive where the candidate is better. Each comparison has two one-sided
p-values: ``p_kept`` against "it lost the margin or more", ``p_lost`` against "it lost the margin or less".

Yes-or-no outcomes (right or wrong, found or not) are compared by the score test of paired proportions (Tango 1998,
Statistics in Medicine 17:891), whose variance is that under the hypothesis: where no sample flipped, a bootstrap has no
variance at all and would pass a loss that 50 patients cannot show. The number of samples is divided by the design
effect of the groups (Rao and Scott 1992). Everything else comes from resamples of groups.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import special
from scipy.optimize import brentq

from mmkd_core.statistics.intervals import Floats, percentile_interval


@dataclass(frozen=True)
class Change:
    """Candidate minus parent with its two-sided interval and its two one-sided p-values against minus the margin."""

    estimate: float
    lower: float
    upper: float
    p_kept: float
    p_lost: float
    spread: float
    """Standard deviation of the change per independent sample: sqrt(n) times the standard error."""
    n: int
    groups: int
    discordant: float | None = None
    """Share of samples on which the models differ, where outcomes are yes or no."""
    effect: float = 1.0
    """Samples that are worth one independent sample, where outcomes are yes or no."""

    def needed(self, margin: float, alpha: float, power: float) -> float:
        """Samples in all with which the test decides with ``power``, if the true change is the one that was seen."""
        if self.discordant is None:
            return samples_to_decide(self.spread, margin, self.estimate, alpha, power)
        return self.effect * samples_for_shares(self.discordant, margin, self.estimate, alpha, power)


def resampled(
    estimate: float,
    draws: Floats,
    n: int,
    groups: int,
    margin: float,
    confidence: float = 0.95,
    limits: tuple[float, float] = (-1.0, 1.0),
) -> Change:
    """The change of any statistic from its resamples (B,), by expanded percentiles (``percentile_interval``).

    A p-value is the level at which the bound of the interval would lie on the margin. Percentiles of B resamples
    resolve nothing below 1 / B, which many comparisons need: where no resample lies beyond the margin, the tail is that
    of Student's t, if it is the smaller. One group shows nothing: both p-values are 1.
    """
    interval = percentile_interval(estimate, draws, n, groups, confidence, limits)
    finite = draws[np.isfinite(draws)]
    spread = float(finite.std(ddof=1)) if len(finite) > 1 else 0.0
    kept, lost = 1.0, 1.0
    if groups > 1 and len(finite):
        shrink = math.sqrt((groups - 1) / groups)
        kept = _level(int((finite <= -margin).sum()), len(finite), estimate + margin, spread, groups, shrink)
        lost = _level(int((finite >= -margin).sum()), len(finite), -margin - estimate, spread, groups, shrink)
    return Change(estimate, interval.lower, interval.upper, kept, lost, spread * math.sqrt(n), n, groups)


def _level(beyond: int, draws: int, distance: float, spread: float, groups: int, shrink: float) -> float:
    z = float(special.ndtri((beyond + 1) / (draws + 2)))
    if beyond == 0:
        z = min(z, -math.copysign(math.inf, distance) if spread == 0 else -distance / spread)
    return float(special.stdtr(groups - 1, z * shrink))


def paired_shares(
    new: ArrayLike,
    old: ArrayLike,
    groups: Sequence[str] | NDArray[np.object_],
    margin: float,
    confidence: float = 0.95,
    weight: ArrayLike | None = None,
) -> Change:
    """The change of a share between two models, from yes-or-no outcomes on the same samples.

    Args:
        new: (n,) outcomes of the candidate, True is good.
        old: (n,) outcomes of the parent.
        groups: (n,) group of each sample.
        margin: loss that is tolerated, in (0, 1).
        confidence: of the two-sided interval.
        weight: (n,) what each sample counts; 1 if left out.
    """
    change = np.asarray(new, dtype=np.float64) - np.asarray(old, dtype=np.float64)
    own = np.ones(len(change)) if weight is None else np.asarray(weight, dtype=np.float64)
    whole = own.sum()
    gain, loss = float(own[change > 0].sum() / whole), float(own[change < 0].sum() / whole)
    _, place = np.unique(np.asarray(groups, dtype=str), return_inverse=True)
    count = int(place.max()) + 1
    effective = _effective(change, own, place)
    if count < 2:
        return Change(gain - loss, -1.0, 1.0, 1.0, 1.0, 0.0, len(change), count)
    z = -float(special.stdtrit(count - 1, (1 - confidence) / 2))
    score = paired_score(gain, loss, effective, -margin)
    variance = max(gain + loss - (gain - loss) ** 2, 0.0)
    return Change(
        estimate=gain - loss,
        lower=_bound(gain, loss, effective, z, -1.0),
        upper=_bound(gain, loss, effective, -z, 1.0),
        p_kept=float(special.stdtr(count - 1, -score)),
        p_lost=float(special.stdtr(count - 1, score)),
        spread=math.sqrt(variance * len(change) / effective),
        n=len(change),
        groups=count,
        discordant=gain + loss,
        effect=len(change) / effective,
    )


def paired_score(gain: float, loss: float, n: float, change: float) -> float:
    """Tango's statistic against a true ``change``: standard normal there, positive where the data lie above.

    Args:
        gain: share of samples that only the candidate gets right.
        loss: share that only the parent gets right.
        n: number of independent samples.
        change: in (-1, 1).
    """
    return float((gain - loss - change) / math.sqrt(null_variance(gain, loss, change) / n))


def null_variance(gain: float, loss: float, change: float) -> float:
    """Variance of a sample's change if its mean is ``change``, at the likeliest shares that allow it (Tango, eq. 6)."""
    b = -gain - loss + (2 - gain + loss) * change
    c = -loss * change * (1 - change)
    only_parent = (math.sqrt(max(b * b - 8 * c, 0.0)) - b) / 4
    return max(2 * only_parent + change * (1 - change), 1e-12)


def _effective(change: Floats, weight: Floats, place: NDArray[np.int64]) -> float:
    """Independent samples that are worth these: their number over the design effect of weights and groups.

    The effect of the groups is measured on the change itself, together with one group of the usual size that changed as
    a whole: the more flips there are, the less it counts, and where there are none it is all that is known.
    """
    whole = float(weight.sum())
    off = change - float(weight @ change) / whole
    usual = float((np.bincount(place, weight) ** 2).sum()) / whole
    single = float(weight @ off**2) + usual
    clustered = float((np.bincount(place, weight * off) ** 2).sum()) + usual**2
    return min(whole * single / clustered, whole**2 / float((weight**2).sum()))


def _bound(gain: float, loss: float, n: float, z: float, edge: float) -> float:
    """Where the score test is just at ``z``: between the estimate and the ``edge``."""
    edge = math.copysign(1 - 1e-9, edge)

    def beyond(change: float) -> float:
        return paired_score(gain, loss, n, change) - z

    low, high = sorted((edge, gain - loss))
    if beyond(low) * beyond(high) > 0:
        return math.copysign(1.0, edge)
    return float(brentq(beyond, low, high, xtol=1e-10))


def holm(p: Sequence[float]) -> list[float]:
    """Adjusted p-values (Holm 1979): calling all below alpha a finding errs anywhere with probability alpha at most."""
    adjusted, largest = [0.0] * len(p), 0.0
    for rank, index in enumerate(sorted(range(len(p)), key=lambda i: p[i])):
        largest = max(largest, min(1.0, (len(p) - rank) * p[index]))
        adjusted[index] = largest
    return adjusted


def samples_to_decide(
    spread: float, margin: float, change: float = 0.0, alpha: float = 0.025, power: float = 0.8
) -> float:
    """Samples with which a test at ``alpha`` decides with probability ``power``, if the true change is ``change``.

    PASS where ``change`` is above minus the margin, FAIL where it is below; infinite where it lies on it.

    Args:
        spread: standard deviation of the change per sample (``Change.spread``).
    """
    distance = abs(change + margin)
    reach = float(special.ndtri(1 - alpha) + special.ndtri(power))
    return math.inf if distance == 0 else (reach * spread / distance) ** 2


def samples_for_shares(
    discordant: float, margin: float, change: float = 0.0, alpha: float = 0.025, power: float = 0.8
) -> float:
    """The same for the score test of shares: its variance under the hypothesis is not the true one.

    Args:
        discordant: share of samples on which the two models differ, at least ``abs(change)``.
    """
    distance = abs(change + margin)
    gain, loss = (discordant + change) / 2, (discordant - change) / 2
    under, true = (math.sqrt(max(v, 0.0)) for v in (null_variance(gain, loss, -margin), discordant - change**2))
    reach = float(special.ndtri(1 - alpha)) * under + float(special.ndtri(power)) * true
    return math.inf if distance == 0 else (reach / distance) ** 2
