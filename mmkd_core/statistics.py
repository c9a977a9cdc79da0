"""Intervals that respect patients: Wilson bounds, macro one-vs-rest AUC, and an exact bootstrap over groups.

A resample of groups is a vector of multiplicities: how often each patient was drawn. The AUC of the resample is the AUC
of the original samples weighted by it, so nothing is ever copied, and two models that are compared share every draw.

Does not: know domains, files or models. Everything here is numpy on arrays.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import special

Floats = NDArray[np.float64]

CHUNK_BYTES = 32 * 2**20
"""Size of one block of weights. A bootstrap holds about three such blocks at once, whatever the number of resamples."""


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


def macro_auc(scores: ArrayLike, truth: ArrayLike) -> float | None:
    """Mean over classes of the one-vs-rest AUC; ties count half.

    Args:
        scores: (N, C), higher means more of the class.
        truth: (N,) integers in ``range(C)``.

    Returns:
        A fraction, or None if no class has both positives and negatives. A class that lacks either is left out.
    """
    checked, labels = _checked(scores, truth)
    aucs = []
    for column in defined_classes(labels, checked.shape[1]):
        order = _Order(checked[:, column], labels == column)
        aucs.append(float((order.below + order.up_to).sum()) / (2 * len(order.positives) * len(order.negatives)))
    return float(np.mean(aucs)) if aucs else None


def defined_classes(truth: ArrayLike, classes: int) -> list[int]:
    """The classes that have at least one positive and one negative, in class order."""
    counts = np.bincount(np.asarray(truth, dtype=np.int64), minlength=classes)
    return [column for column in range(classes) if 0 < counts[column] < counts.sum()]


class GroupBootstrap:
    """Resamples groups (patients) with replacement and weighs their samples by how often each was drawn.

    As many groups are drawn as there are, so each row of multiplicities is multinomial. With ``strata`` (one name per
    sample; a group lies in one stratum) every stratum is resampled on its own. The draws depend on the seed, the strata
    and the sets of group names, not on the order of samples and not on what else is resampled beside them.

    Args:
        groups: group of each sample.
        resamples: number of resamples B.
        seed: of the draws.
        strata: stratum of each sample; None for one stratum.
    """

    def __init__(
        self,
        groups: Sequence[str] | NDArray[np.object_],
        resamples: int = 2000,
        seed: int = 0,
        strata: Sequence[str] | None = None,
    ) -> None:
        names, self._group = np.unique(np.asarray(groups, dtype=str), return_inverse=True)
        if not len(names):
            raise ValueError("a bootstrap needs at least one sample")
        self.resamples = resamples
        stratum = np.zeros(len(names), dtype=object)
        stratum[:] = ""
        if strata is not None:
            stratum[self._group] = list(strata)
            if any(stratum[self._group] != np.asarray(strata, dtype=object)):
                raise ValueError("a group lies in two strata")
        self._draws = np.empty((len(names), resamples), dtype=np.uint16)
        for name in sorted(set(stratum)):
            members = np.flatnonzero(stratum == name)
            key = int.from_bytes(hashlib.blake2b(str(name).encode(), digest_size=8).digest(), "big")
            draw = np.random.default_rng([seed, key]).multinomial(
                len(members), np.full(len(members), 1 / len(members)), size=resamples
            )
            self._draws[members] = draw.T

    @property
    def groups(self) -> int:
        """Number of different groups among the samples."""
        return len(np.unique(self._group))

    @property
    def samples(self) -> int:
        """Number of samples."""
        return len(self._group)

    def take(self, index: ArrayLike) -> GroupBootstrap:
        """The same draws seen by some of the samples: intervals of parts, and of their mean, then belong together."""
        part = object.__new__(GroupBootstrap)
        part.resamples, part._draws, part._group = self.resamples, self._draws, self._group[np.asarray(index)]
        return part

    def weights(self) -> Iterator[tuple[slice, Floats]]:
        """Blocks of resamples with their (n, block) multiplicities, within ``CHUNK_BYTES`` each."""
        block = max(1, CHUNK_BYTES // (8 * self.samples))
        for start in range(0, self.resamples, block):
            part = slice(start, min(start + block, self.resamples))
            yield part, self._draws[self._group, part].astype(np.float64)

    def macro_auc(self, scores: ArrayLike, truth: ArrayLike) -> Floats:
        """``macro_auc`` of every resample, (B,); NaN where no class has both positives and negatives.

        A class that vanishes in a resample is left out of that resample's mean. Equal to copying the samples out, at
        O(B n) per class: the weight of the negatives below each positive is a running sum over the sorted negatives.
        """
        checked, labels = _checked(scores, truth)
        if len(labels) != self.samples:
            raise ValueError(f"{len(labels)} samples for a bootstrap over {self.samples}")
        orders = [_Order(checked[:, column], labels == column) for column in defined_classes(labels, checked.shape[1])]
        result = np.full(self.resamples, np.nan)
        for part, weight in self.weights():
            total, classes = np.zeros(weight.shape[1]), np.zeros(weight.shape[1])
            for order in orders:
                wins, pairs = order.wins(weight)
                present = pairs > 0
                total[present] += wins[present] / pairs[present]
                classes += present
            np.divide(total, classes, out=result[part], where=classes > 0)
        return result

    def interval(
        self, estimate: float, draws: Floats, confidence: float = 0.95, limits: tuple[float, float] = (0.0, 1.0)
    ) -> Interval:
        """``percentile_interval`` of a statistic of these samples from its resamples."""
        return percentile_interval(estimate, draws, self.samples, self.groups, confidence, limits)


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


def paired_auc_difference(
    first: ArrayLike, second: ArrayLike, truth: ArrayLike, bootstrap: GroupBootstrap, confidence: float = 0.95
) -> Interval | None:
    """Macro AUC of ``first`` minus that of ``second`` on the same samples under the same draws.

    Args:
        first: (N, C) scores of one model.
        second: (N, C) scores of the other.
        truth: (N,) class of each sample.
        bootstrap: over the groups of these samples.
        confidence: two-sided; 0.90 makes ``lower`` a one-sided 95 % bound.

    Returns:
        None if the AUC is undefined on these samples.
    """
    left, right = macro_auc(first, truth), macro_auc(second, truth)
    if left is None or right is None:
        return None
    draws = bootstrap.macro_auc(first, truth) - bootstrap.macro_auc(second, truth)
    return bootstrap.interval(left - right, draws, confidence, limits=(-1.0, 1.0))


def samples_needed(interval: Interval, threshold: float) -> int | None:
    """How many more samples until the interval would lie on one side of ``threshold``, were the estimate to stay.

    Its half width shrinks as 1/sqrt(n). 0 if it is decided already; None if no number decides it (the estimate lies on
    the threshold, or there is one group, whose interval has no width to extrapolate).
    """
    if interval.lower > threshold or interval.upper < threshold:
        return 0
    distance = abs(interval.estimate - threshold)
    if distance == 0 or interval.groups < 2:
        return None
    above = interval.estimate > threshold
    half = interval.estimate - interval.lower if above else interval.upper - interval.estimate
    needed = interval.n * (half / distance) ** 2
    return max(1, math.ceil(needed - 1e-6) - interval.n)  # 1e-6: rounding must not cost a sample


class _Order:
    """Where the positives of one class lie among its sorted negatives: all that its AUC needs, for any weights."""

    def __init__(self, scores: NDArray[np.floating], positive: NDArray[np.bool_]) -> None:
        self.positives, negatives = np.flatnonzero(positive), np.flatnonzero(~positive)
        self.negatives = negatives[np.argsort(scores[negatives], kind="stable")]
        ordered = scores[self.negatives]
        self.below = np.searchsorted(ordered, scores[self.positives], side="left")
        self.up_to = np.searchsorted(ordered, scores[self.positives], side="right")

    def wins(self, weight: Floats) -> tuple[Floats, Floats]:
        """Weight of the pairs that the positive wins (ties half) and of all pairs, per column of ``weight`` (n, b)."""
        running = np.zeros((len(self.negatives) + 1, weight.shape[1]))
        np.cumsum(weight[self.negatives], axis=0, out=running[1:])
        own = weight[self.positives]
        beaten = running[self.below]
        beaten += running[self.up_to]
        return 0.5 * np.einsum("pb,pb->b", own, beaten), own.sum(axis=0) * running[-1]


def _checked(scores: ArrayLike, truth: ArrayLike) -> tuple[NDArray[np.floating], NDArray[np.int64]]:
    matrix, labels = np.asarray(scores), np.asarray(truth, dtype=np.int64)
    if matrix.ndim != 2 or labels.shape != matrix.shape[:1]:
        raise ValueError(f"scores {matrix.shape} and truth {labels.shape} do not belong together")
    if not np.isfinite(matrix).all():
        raise ValueError("scores hold NaN or infinity")
    if len(labels) and (labels.min() < 0 or labels.max() >= matrix.shape[1]):
        raise ValueError(f"truth outside the {matrix.shape[1]} classes")
    return matrix, labels
