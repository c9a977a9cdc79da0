"""Figures of a choice among classes, from logits: what zero-shot, probe and diagnosis share."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import ArrayLike, NDArray

from mmkd_core.evaluate.calibration import BINS, brier_scores, error, resampled_error
from mmkd_core.evaluate.figures import Measured
from mmkd_core.statistics import GroupBootstrap, macro_auc
from mmkd_core.statistics.classification import balanced_accuracies, balanced_accuracy
from mmkd_core.statistics.classification import classification as resampled
from mmkd_core.statistics.odds import log_odds, softmax

MACRO_AUC = "macro AUC (one-vs-rest)"
ONE_CLASS = "one class only"


def classification(
    logits: NDArray[np.floating], truth: NDArray[np.int64], bootstrap: GroupBootstrap, part: str = ""
) -> list[Measured]:
    """AUC, accuracy, balanced accuracy, macro F1, Brier score and calibration error; none of one class alone.

    Args:
        logits: (n, C); samples are ranked by their log-odds.
        truth: (n,) class of each sample.
        bootstrap: over the groups of these samples.
        part: what the samples are.
    """
    choice, classes, ranking = logits.argmax(axis=1), logits.shape[1], log_odds(logits)
    posterior = softmax(logits)
    draws = resampled(truth, choice, classes, bootstrap)
    balanced = balanced_accuracies(truth, choice, classes, bootstrap)
    right = choice == truth
    chosen = np.bincount(choice, minlength=classes)
    hits = np.bincount(truth[right], minlength=classes)
    f1 = 2 * hits / np.maximum(np.bincount(truth, minlength=classes) + chosen, 1)
    brier = share("Brier score", part, brier_scores(posterior, truth), np.ones(len(truth)), bootstrap)
    found = [
        Measured(MACRO_AUC, part, macro_auc(ranking, truth), bootstrap.macro_auc(ranking, truth), ONE_CLASS),
        Measured("accuracy", part, float(right.mean()), draws.accuracy),
        Measured("balanced accuracy", part, balanced_accuracy(truth, choice, classes), balanced, ONE_CLASS),
        Measured("macro F1", part, float(f1.mean()), draws.f1),
        Measured("Brier score", part, brier.estimate, brier.draws, limits=(0.0, 2.0), lower_is_better=True),
        calibration_error(posterior.max(axis=1), right, part, bootstrap),
    ]
    return found if classes > 1 else [replace(one, estimate=None, undefined=ONE_CLASS) for one in found]


def share(metric: str, part: str, value: ArrayLike, of: ArrayLike, bootstrap: GroupBootstrap) -> Measured:
    """Mean of ``value`` (n,) over the rows that ``of`` (n,) counts."""
    values, weight = np.asarray(value, np.float64), np.asarray(of, np.float64)
    estimate = float(values @ weight / weight.sum()) if weight.sum() else None
    return Measured(metric, part, estimate, bootstrap.mean(values, weight), "no such samples")


def calibration_error(
    sure: NDArray[np.floating], right: NDArray[np.bool_], part: str, bootstrap: GroupBootstrap
) -> Measured:
    """ECE of n probabilities of something that happened or did not (``calibration``)."""
    name, draws = f"ECE, {BINS} bins of equal width", resampled_error(sure, right, bootstrap)
    return Measured(name, part, error(sure, right), draws, lower_is_better=True)
