"""An exact bootstrap over groups (patients).

A resample of groups is a vector of multiplicities: how often each patient was drawn. The metric of the resample is the
metric of the original samples weighted by it, so nothing is ever copied, and all metrics and all models that are
compared share every draw.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from mmkd_core.statistics.auc import Order, checked_scores, defined_classes, macro_auc, rows
from mmkd_core.statistics.intervals import Floats, Interval, percentile_interval

CHUNK_BYTES = 2**20
"""Size of one block of weights: it stays in the cache while the running sums of all classes pass over it."""


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

    def weights(self) -> Iterator[tuple[slice, NDArray[np.float32]]]:
        """Blocks of resamples with their (n, block) multiplicities, about ``CHUNK_BYTES`` each."""
        block = max(1, CHUNK_BYTES // (4 * self.samples))
        for start in range(0, self.resamples, block):
            part = slice(start, min(start + block, self.resamples))
            yield part, rows(self._draws[:, part].astype(np.float32), self._group)

    def totals(self, values: ArrayLike) -> Floats:
        """Sums over the samples of every resample, (B, k), of ``values`` (n, k) in float64.

        A group's samples are added up once, so that the cost is that of one product (B, G) x (G, k).
        """
        matrix = np.asarray(values, dtype=np.float64)
        self._fits(len(matrix))
        present, place = np.unique(self._group, return_inverse=True)
        sums = np.zeros((len(present), matrix.shape[1]))
        np.add.at(sums, place, matrix)
        result = np.empty((self.resamples, matrix.shape[1]))
        block = max(1, 32 * CHUNK_BYTES // (8 * len(present)))
        for start in range(0, self.resamples, block):
            part = slice(start, start + block)
            result[part] = self._draws[present, part].T.astype(np.float64) @ sums
        return result

    def mean(self, values: ArrayLike, weight: ArrayLike | None = None) -> Floats:
        """Mean over the samples of every resample, (B,); NaN where nothing was drawn.

        Args:
            values: (n,).
            weight: (n,) what each sample counts before resampling; 1 if left out.
        """
        own = np.ones(self.samples) if weight is None else np.asarray(weight, dtype=np.float64)
        total = self.totals(np.stack([own * np.asarray(values, dtype=np.float64), own], axis=1))
        result = np.full(self.resamples, np.nan)
        np.divide(total[:, 0], total[:, 1], out=result, where=total[:, 1] > 0)
        return result

    def macro_auc(self, scores: ArrayLike, truth: ArrayLike) -> Floats:
        """``macro_auc`` of every resample, (B,); NaN where no class has both positives and negatives.

        A class that vanishes in a resample is left out of that resample's mean. Equal to copying the samples out, at
        O(B n) per class: the weight of the negatives below each positive is a running sum over the sorted negatives.
        """
        checked, positive = checked_scores(scores, truth)
        columns = defined_classes(positive, checked.shape[1])
        aucs = self.aucs(checked[:, columns], positive[:, columns])
        defined = np.isfinite(aucs)
        total, classes = np.where(defined, aucs, 0.0).sum(axis=1), defined.sum(axis=1)
        mean: Floats = np.divide(total, classes, out=np.full(self.resamples, np.nan), where=classes > 0)
        return mean

    def aucs(self, scores: NDArray[np.floating], positive: NDArray[np.bool_]) -> Floats:
        """AUC of each column in every resample, (B, k); NaN where a resample lacks positives or negatives.

        Args:
            scores: (n, k).
            positive: (n, k), each column with at least one True and one False.
        """
        self._fits(len(scores))
        orders = [Order(scores[:, column], positive[:, column]) for column in range(scores.shape[1])]
        result = np.full((self.resamples, len(orders)), np.nan)
        for part, weight in self.weights():
            for column, order in enumerate(orders):
                wins, pairs = order.wins(weight)
                np.divide(wins, pairs, out=result[part, column], where=pairs > 0)
        return result

    def interval(
        self, estimate: float, draws: Floats, confidence: float = 0.95, limits: tuple[float, float] = (0.0, 1.0)
    ) -> Interval:
        """``percentile_interval`` of a statistic of these samples from its resamples."""
        return percentile_interval(estimate, draws, self.samples, self.groups, confidence, limits)

    def _fits(self, samples: int) -> None:
        if samples != self.samples:
            raise ValueError(f"{samples} samples for a bootstrap over {self.samples}")


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
