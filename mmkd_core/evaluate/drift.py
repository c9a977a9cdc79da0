"""How far two models' features of the same samples lie apart. Diagnosis: a model may turn its space and lose nothing.

``cka``: debiased linear CKA (Kornblith et al. 2019, arXiv 1905.00414, with the unbiased HSIC of Song et al. 2012),
computed in feature space in O(n d^2). ``neighbour_overlap``: share of each sample's 10 nearest neighbours (cosine) that
stay. ``procrustes``: distance left after the best rotation of centred features of unit Frobenius norm, squared, 0 to 2
(Ding et al. 2021, arXiv 2108.01661). ``effective_rank``: exp of the entropy of the singular values (Roy and Vetterli
2007; RankMe, arXiv 2210.02885).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mmkd_core.trust.beliefs import unit

NEIGHBOURS = 10
MOST = 5000
"""Samples among which neighbours are looked for, evenly taken from more: the search is quadratic."""
_CHUNK_BYTES = 32 * 2**20

Features = NDArray[np.floating]


@dataclass(frozen=True)
class Drift:
    """Parent against candidate on the same samples. None where there are too few samples to say."""

    cka: float | None
    """1 is the same geometry, 0 none in common."""
    neighbour_overlap: float | None
    procrustes: float
    effective_rank_before: float
    effective_rank_after: float
    n: int


def drift(before: Features, after: Features) -> Drift:
    """Compare features (n, D) and (n, E) of the same n samples in the same order."""
    x, y = (np.asarray(part, dtype=np.float64) for part in (before, after))
    return Drift(cka(x, y), neighbour_overlap(x, y), procrustes(x, y), effective_rank(x), effective_rank(y), len(x))


def cka(x: Features, y: Features) -> float | None:
    """Debiased linear CKA; None with fewer than four samples or constant features."""
    if len(x) < 4:
        return None
    x, y = (part - part.mean(axis=0) for part in (x, y))
    within = _hsic(x, x) * _hsic(y, y)
    return float(_hsic(x, y) / np.sqrt(within)) if within > 0 else None


def _hsic(x: Features, y: Features) -> float:
    """Unbiased HSIC of two linear kernels whose diagonals are set to zero, without ever forming them."""
    n = len(x)
    own_x, own_y = np.square(x).sum(axis=1), np.square(y).sum(axis=1)
    rows_x, rows_y = x @ x.sum(axis=0) - own_x, y @ y.sum(axis=0) - own_y
    both = np.square(x.T @ y).sum() - own_x @ own_y
    return float(
        (both + rows_x.sum() * rows_y.sum() / ((n - 1) * (n - 2)) - 2 * (rows_x @ rows_y) / (n - 2)) / (n * (n - 3))
    )


def neighbour_overlap(x: Features, y: Features, k: int = NEIGHBOURS) -> float | None:
    """Mean share of the ``k`` nearest neighbours that both have in common; None with fewer than k + 2 samples."""
    if len(x) < k + 2:
        return None
    some = np.linspace(0, len(x) - 1, min(len(x), MOST)).round().astype(np.int64)
    first, second = _neighbours(x[some], k), _neighbours(y[some], k)
    return float(np.mean([len(np.intersect1d(a, b)) / k for a, b in zip(first, second, strict=True)]))


def _neighbours(features: Features, k: int) -> NDArray[np.int64]:
    """(n, k) rows that are nearest by cosine, oneself left out."""
    rows = unit(features)
    result = np.empty((len(rows), k), dtype=np.int64)
    chunk = max(1, _CHUNK_BYTES // (4 * len(rows)))
    for start in range(0, len(rows), chunk):
        cosine = rows[start : start + chunk] @ rows.T
        cosine[np.arange(len(cosine)), start + np.arange(len(cosine))] = -np.inf
        result[start : start + chunk] = np.argpartition(-cosine, k - 1, axis=1)[:, :k]
    return result


def procrustes(x: Features, y: Features) -> float:
    """Squared distance after the best orthogonal map, both centred and of unit Frobenius norm."""
    parts = []
    for part in (x, y):
        centred = part - part.mean(axis=0)
        parts.append(centred / max(float(np.linalg.norm(centred)), 1e-300))
    return float(max(0.0, 2 - 2 * np.linalg.svd(parts[0].T @ parts[1], compute_uv=False).sum()))


def effective_rank(features: Features) -> float:
    """Number of directions that the features use, evenly counted."""
    values = np.linalg.svd(features, compute_uv=False)
    share = values[values > 0] / values.sum()
    return float(np.exp(-(share * np.log(share)).sum()))
