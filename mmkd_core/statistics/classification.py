"""Accuracy and macro precision, recall and F1 of a choice among classes, for all resamples at once.

Classes are fixed: one without samples or choices counts as 0 in the macro averages (scikit-learn's ``labels=range(C)``
and ``zero_division=0``).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from mmkd_core.statistics.bootstrap import GroupBootstrap
from mmkd_core.statistics.intervals import Floats


@dataclass(frozen=True)
class Classification:
    """Four figures of one model, (B,) each."""

    accuracy: Floats
    precision: Floats
    recall: Floats
    f1: Floats


def classification(truth: ArrayLike, choice: ArrayLike, classes: int, bootstrap: GroupBootstrap) -> Classification:
    """The figures of every resample from three counts per class: its samples, its choices, and where they meet.

    Args:
        truth: (n,) class of each sample.
        choice: (n,) class that the model chose.
        classes: number of classes C.
        bootstrap: over the groups of these samples.
    """
    true, chosen = np.asarray(truth, dtype=np.int64), np.asarray(choice, dtype=np.int64)
    one_hot = np.eye(classes)
    columns = [one_hot[true] * (true == chosen)[:, None], one_hot[true], one_hot[chosen]]
    totals = bootstrap.totals(np.concatenate(columns, axis=1))
    right, samples, choices = (totals[:, i * classes : (i + 1) * classes] for i in range(3))
    return Classification(
        accuracy=_ratio(right.sum(axis=1), samples.sum(axis=1)),
        precision=_ratio(right, choices).mean(axis=1),
        recall=_ratio(right, samples).mean(axis=1),
        f1=_ratio(2 * right, samples + choices).mean(axis=1),
    )


def _ratio(part: NDArray[np.float64], whole: NDArray[np.float64]) -> Floats:
    return np.divide(part, whole, out=np.zeros_like(part), where=whole > 0)
