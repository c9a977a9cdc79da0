"""Accuracy, balanced accuracy, and macro precision, recall and F1 of a choice, for all resamples at once.

Of balanced accuracy a class that vanishes in a resample is left out, as it is of an AUC. Of the macro averages classes
are fixed: one without samples or choices counts as 0 (scikit-learn's ``labels=range(C)`` and ``zero_division=0``).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from mmkd_core.statistics.auc import positives
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


def balanced_accuracy(truth: ArrayLike, choice: ArrayLike, classes: int) -> float | None:
    """Mean over classes of the share of their samples that are chosen right; None where all samples are of one.

    Of findings, each is a choice of two, there or not there, and the figure is the mean over those that have both.

    Args:
        truth: (n,) class of each sample, or (n, C) bool: which findings are there.
        choice: the same of what a model chose.
        classes: C.
    """
    value = float(_balanced(_hits_and_members(truth, choice, classes).sum(axis=0)[None])[0])
    return value if np.isfinite(value) else None


def balanced_accuracies(truth: ArrayLike, choice: ArrayLike, classes: int, bootstrap: GroupBootstrap) -> Floats:
    """(B,) ``balanced_accuracy`` of every resample; NaN where it is undefined."""
    columns = _hits_and_members(truth, choice, classes)
    return _balanced(bootstrap.totals(columns.reshape(len(columns), -1)).reshape(-1, *columns.shape[1:]))


def _hits_and_members(truth: ArrayLike, choice: ArrayLike, classes: int) -> Floats:
    """(n, 2, questions, answers): which answer is true, and first whether it was given too."""
    true, chosen = np.asarray(truth), np.asarray(choice)
    right, answers = true == chosen, positives(true, classes)
    members = np.stack([answers, ~answers], axis=2) if true.ndim == 2 else answers[:, None]
    hits = members & (right[:, :, None] if true.ndim == 2 else right[:, None, None])
    return np.stack([hits, members], axis=1).astype(np.float64)


def _balanced(totals: Floats) -> Floats:
    """(B,) of totals (B, 2, questions, answers); a question with fewer than two true answers is left out."""
    hits, members = totals[:, 0], totals[:, 1]
    recall = np.divide(hits, members, out=np.zeros_like(hits), where=members > 0)
    answers = (members > 0).sum(axis=2)
    asked = answers >= 2
    mean = np.divide(recall.sum(axis=2), answers, out=np.zeros(answers.shape), where=asked)
    result = np.full(len(totals), np.nan)
    return np.divide(mean.sum(axis=1), asked.sum(axis=1), out=result, where=asked.any(axis=1))  # type: ignore[no-any-return]


def _ratio(part: NDArray[np.float64], whole: NDArray[np.float64]) -> Floats:
    return np.divide(part, whole, out=np.zeros_like(part), where=whole > 0)
