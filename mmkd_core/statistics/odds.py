"""Probabilities of logits, and log-odds, which rank samples by one class where a probability is rounded to 0 or 1."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]

NEVER = -1e30
"""Logit of what a model cannot say: its posterior is 0, and its log-odds are equal for all samples."""


def softmax(logits: ArrayLike) -> Floats:
    """Posteriors (n, C) of logits (n, C), in float64; rows sum to one."""
    scaled = np.asarray(logits, np.float64)
    weight = np.exp(scaled - scaled.max(axis=1, keepdims=True))
    posterior: Floats = weight / weight.sum(axis=1, keepdims=True)
    return posterior


def sigmoid(log_odds: ArrayLike) -> Floats:
    """Probabilities of log-odds, any shape, in float64."""
    half = 0.5 * np.asarray(log_odds, np.float64)
    return 0.5 * (1 + np.tanh(half))


def log_odds(logits: ArrayLike) -> Floats:
    """Of each class against the others, (n, C): logit minus the log of the summed exponentials of the other logits.

    They order the samples as exact posteriors do. A logit alone does not, for it lacks what the other classes get; and
    posteriors near 0 and 1 are rounded to ties. A class without others has 0.
    """
    scaled = np.asarray(logits, np.float64)
    if scaled.shape[1] < 2:
        return np.zeros(scaled.shape)
    others = [np.logaddexp.reduce(np.delete(scaled, c, axis=1), axis=1) for c in range(scaled.shape[1])]
    return np.asarray(scaled - np.stack(others, axis=1))
