"""Choosing samples that stand for many: herding (typical ones) and k-centre (the range of them).

Both are greedy, so that a smaller choice is the beginning of a larger one. A pick costs one product of the features
with one vector.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Features = NDArray[np.floating[Any]]


def herding(features: Features, count: int) -> NDArray[np.int64]:
    """Rows of (N, D) features whose running mean stays nearest to the mean of all.

    Source: Welling 2009, "Herding dynamical weights to learn"; as iCaRL uses it (Rebuffi et al. 2017, algorithm 4). Of
    equal rows the first is taken.

    Returns:
        ``min(count, N)`` distinct rows in the order in which they are picked.
    """
    data = np.ascontiguousarray(features, np.float64)
    # |k m - s - x|^2 with the sum s of the picks so far: what depends on x is |x|^2 - 2 x (k m) + 2 x s.
    pull = data @ data.mean(axis=0) if len(data) else np.zeros(0)
    cost = (data * data).sum(axis=1)
    picks = np.empty(min(count, len(data)), np.int64)
    for place in range(len(picks)):
        cost -= 2 * pull
        picks[place] = chosen = int(cost.argmin())
        cost += 2 * (data @ data[chosen])
        cost[chosen] = np.inf
    return picks


def k_centre(features: Features, count: int) -> NDArray[np.int64]:
    """Rows of (N, D) features such that the furthest row has a pick as near as the greedy choice makes it.

    The first is the one nearest to the mean, each next one the furthest from all picks: at most twice the best radius
    (Gonzalez 1985, "Clustering to minimize the maximum intercluster distance"). Of equal rows the first is taken.

    Returns:
        ``min(count, N)`` distinct rows in the order in which they are picked.
    """
    data = np.ascontiguousarray(features, np.float64)
    picks = np.empty(min(count, len(data)), np.int64)
    if not len(picks):
        return picks
    data = data - data.mean(axis=0)  # distances stay, and lose fewer digits
    square = (data * data).sum(axis=1)
    picks[0] = int(square.argmin())
    nearest = _squared_distances(data, square, int(picks[0]))
    for place in range(1, len(picks)):
        picks[place] = chosen = int(nearest.argmax())
        np.minimum(nearest, _squared_distances(data, square, chosen), out=nearest)
    return picks


def _squared_distances(data: NDArray[np.float64], square: NDArray[np.float64], centre: int) -> NDArray[np.float64]:
    """From one row to all, never below 0; the row itself at -1, so that it is not picked again."""
    distance: NDArray[np.float64] = np.maximum(square + square[centre] - 2 * (data @ data[centre]), 0.0)
    distance[centre] = -1.0
    return distance
