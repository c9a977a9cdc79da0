"""What a teacher would bring, from features alone: arithmetic of the forecast. Numpy, no model.

Novelty is what of its features the known ones do not explain, by cross-validated ridge regression. Interference is what
its targets would do, to first order, to the student's agreement with an earlier teacher.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.floating[Any]]
FOLDS = 5
PENALTIES = tuple(10.0**power for power in range(-4, 3))
"""As shares of the mean eigenvalue of the known features' covariance."""


@dataclass(frozen=True)
class Novelty:
    """Shares of variance that are not explained: 0 is nothing new, 1 all of it.

    Attributes:
        share: over all samples.
        groups: by group of samples, of the variance within it; None where it has none.
        penalty: that was chosen by cross-validation.
    """

    share: float
    groups: dict[str, float | None]
    penalty: float


def novelty(new: Array, known: Array, group: NDArray[Any], seed: int = 0) -> Novelty:
    """How much of ``new`` (N, D) a linear map of ``known`` (N, K) leaves unexplained where it was not fitted.

    Args:
        group: (N,) of each sample, such as its domain: what sets domains apart is easily explained, and what a teacher
            knows lies within them.
        seed: of the folds.

    Raises:
        ValueError: fewer samples than folds.
    """
    if len(new) < FOLDS:
        raise ValueError(f"{len(new)} samples are too few for {FOLDS} folds")
    target, source = np.asarray(new, np.float64), np.asarray(known, np.float64)
    fold = np.random.default_rng(seed).permutation(len(target)) % FOLDS
    residuals = np.empty((len(PENALTIES), *target.shape))
    for number in range(FOLDS):
        held = fold == number
        residuals[:, held] = _residuals(source[~held], target[~held], source[held], target[held])
    best = int((residuals**2).sum(axis=(1, 2)).argmin())
    square = (residuals[best] ** 2).sum(axis=1)
    groups = {str(name): _share(square[group == name], target[group == name]) for name in sorted(set(group))}
    return Novelty(_share(square, target) or 0.0, groups, PENALTIES[best])


def _residuals(source: Array, target: Array, held_source: Array, held_target: Array) -> NDArray[np.float64]:
    """(P, n, D): what is left of held-out targets, for every penalty; one decomposition serves them all."""
    mean, shift = source.mean(axis=0), target.mean(axis=0)
    left, values, right = np.linalg.svd(source - mean, full_matrices=False)
    scale = (values**2).mean() or 1.0
    coordinates, pulled = (held_source - mean) @ right.T, left.T @ (target - shift)
    out = np.empty((len(PENALTIES), *held_target.shape))
    for place, penalty in enumerate(PENALTIES):
        shrunk = values / (values**2 + penalty * scale)
        out[place] = held_target - shift - (coordinates * shrunk) @ pulled
    return out


def _share(square: Array, target: Array) -> float | None:
    whole = ((target - target.mean(axis=0)) ** 2).sum() if len(target) else 0.0
    return float(min(1.0, square.sum() / whole)) if whole > 0 else None


@dataclass(frozen=True)
class Interference:
    """What a new teacher's targets would do to an earlier one's on the same samples.

    Attributes:
        disagreement: mean total variation between the student's and the new teacher's posteriors, 0 to 1: how far it
            would pull.
        rise: first-order rise of the earlier teacher's relation loss, per unit of step against the new teacher's
            gradient. Below 0 the new teacher pulls the student toward the earlier one.
        n: samples.
    """

    disagreement: float
    rise: float
    n: int


def interference(student: Array, earlier: Array, new: Array) -> Interference:
    """From posteriors (N, K) over the same texts.

    The gradient of KL(q || p) at the logits of p is ``p - q``. A small step against the new teacher's gradient changes
    the earlier teacher's loss by ``-(p - q_earlier) . (p - q_new)`` for each unit of it.
    """
    p, old, q = (np.asarray(x, np.float64) for x in (student, earlier, new))
    disagreement = 0.5 * np.abs(p - q).sum(axis=1)
    rise = -((p - old) * (p - q)).sum(axis=1)
    return Interference(float(disagreement.mean()), float(rise.mean()), len(p))


def only_right(new: NDArray[np.bool_], known: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """(N,) samples that the new teacher gets right and nobody of ``known`` (M, N) does."""
    return new & ~known.any(axis=0)
