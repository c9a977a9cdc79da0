"""Which rows a step trains on: functions of (seed, step) alone, so that a run resumes with the bits it would have had.

What is remembered between steps only saves time. A step must cost the same at the end of a run as at its beginning, and
with millions of rows what it costs with hundreds.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Any, ClassVar

import numpy as np

from mmkd_core.errors import TrainingError
from mmkd_core.student.config import TrainConfig

GOLDEN_RATIO = 0.6180339887498949

Rows = np.ndarray[Any, np.dtype[np.int64]]
"""Numbers of samples in a corpus."""


def orders(count: int, *key: int, kept: int = 2) -> Callable[[int], Rows]:
    """From an epoch to the order of ``count`` rows in it, a function of (key, epoch).

    The latest ``kept`` are remembered: to draw one of two million rows takes longer than a GPU's step.
    """

    @lru_cache(maxsize=kept)
    def order(epoch: int) -> Rows:
        return np.random.default_rng([*key, epoch]).permutation(count)

    return order


class Epochs:
    """A walk through some rows, in another order in each epoch."""

    def __init__(self, rows: Rows, seed: int) -> None:
        # Batches of several sizes are each in an epoch of their own.
        self.rows, self.order = rows, orders(len(rows), seed, kept=4)

    def batch(self, step: int, size: int) -> Rows:
        """The batch of a step: no row twice in an epoch.

        Batches are of one size; the fewer rows than a batch that are left over are others in each epoch.
        """
        size = min(size, len(self.rows))
        epoch, place = divmod(step, max(1, len(self.rows) // size))
        return self.rows[self.order(epoch)[place * size : (place + 1) * size]]


class Batches:
    """Batches of a run in which each domain has a fixed share.

    A small domain seen in proportion to its size is hardly seen at all: with the square root it is seen more often and
    does not yet crowd out the others.

    Args:
        rows: (M,) rows to draw from.
        domain: (M,) domain of each.
        config: ``batch_size`` and ``balance``.

    Raises:
        TrainingError: there are no rows.
    """

    POWER: ClassVar[dict[str, float]] = {"natural": 1.0, "sqrt": 0.5, "uniform": 0.0}

    def __init__(self, rows: Rows, domain: np.ndarray[Any, Any], config: TrainConfig, seed: int) -> None:
        if not len(rows):
            raise TrainingError(
                "there is nothing to train on: no sample is in the train split",
                next="Give the data training samples and import it again; `mmkd data check` shows what is there",
            )
        self.pools = [rows[domain == name] for name in sorted(set(domain))]
        self.orders = [orders(len(pool), seed, number) for number, pool in enumerate(self.pools)]
        share = np.array([float(len(pool)) for pool in self.pools]) ** self.POWER[config.balance]
        edges = np.concatenate([[0.0], np.cumsum(share / share.sum())]) * min(config.batch_size, len(rows))
        edges[-1] = min(config.batch_size, len(rows))  # a whole number, which a sum of shares need not be
        self.edges = edges
        self._before = 0, np.zeros(len(self.pools), np.int64)

    def __call__(self, step: int) -> Rows:
        """Rows of a step: always ``batch_size``. Shares that are no whole numbers hold on the average of steps."""
        counts, before = self._counts(step)
        drawn = zip(self.pools, self.orders, before.tolist(), counts.tolist(), strict=True)
        return np.concatenate([pool[_walk(order, len(pool), start, n)] for pool, order, start, n in drawn])

    def _counts(self, step: int) -> tuple[Rows, Rows]:
        """Of each pool how many rows a step takes, and how many all steps before it took."""
        known, before = self._before
        if step < known:
            known, before = 0, np.zeros_like(before)
        # The edges are moved by another fraction in each step (systematic sampling) and rounded down.
        moved = ((np.arange(known, step + 1) + 0.5) * GOLDEN_RATIO % 1)[:, None]
        counts = np.diff(np.floor(self.edges + moved), axis=1).astype(np.int64)
        before = before + counts[:-1].sum(axis=0)
        self._before = step, before
        return counts[-1], before


def _walk(order: Callable[[int], Rows], count: int, start: int, steps: int) -> Rows:
    """Places ``start`` to ``start + steps`` of an endless walk through ``count`` rows, epoch after epoch."""
    epoch, place = np.divmod(np.arange(start, start + steps), count)
    return np.concatenate([np.empty(0, np.int64), *(order(int(e))[place[epoch == e]] for e in np.unique(epoch))])
