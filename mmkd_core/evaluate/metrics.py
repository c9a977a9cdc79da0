"""Figures of a model in one domain: a table of them, each with its estimate and its resamples.

In a multi-label domain each label is a choice of two, there or not there; a figure is the mean over the labels. So a
domain of one label has the figures of one with two classes.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mmkd_core.evaluate.calibration import brier_scores, error, resampled_error
from mmkd_core.evaluate.predictions import DomainPredictions
from mmkd_core.statistics import GroupBootstrap
from mmkd_core.statistics.classification import balanced_accuracies

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Metric:
    """One figure of the predictions in a domain.

    Attributes:
        name: in files and settings.
        title: for people.
        estimate: of the samples as they are; None where it is undefined.
        draws: (B,) of every resample, NaN where it is undefined.
        lower_is_better: of an error.
        limits: smallest and largest value.
    """

    name: str
    title: str
    estimate: Callable[[DomainPredictions], float | None]
    draws: Callable[[DomainPredictions, GroupBootstrap], Floats]
    lower_is_better: bool = False
    limits: tuple[float, float] = (0.0, 1.0)


def _auc_draws(part: DomainPredictions, bootstrap: GroupBootstrap) -> Floats:
    return bootstrap.macro_auc(part.log_odds, part.truth)


def _balanced_draws(part: DomainPredictions, bootstrap: GroupBootstrap) -> Floats:
    return balanced_accuracies(part.truth, part.choice, len(part.classes), bootstrap)


def _accuracy(part: DomainPredictions) -> float | None:
    return float(part.hits.mean()) if part.chooses else None


def _questions(part: DomainPredictions) -> list[tuple[Floats, NDArray[np.bool_]]]:
    """Of each question that a sample is: how sure (n,) the answer is, and whether it is right (n,)."""
    sure = part.posteriors()
    if not part.multilabel:
        return [(sure.max(axis=1), part.right)]
    there = np.maximum(sure, 1 - sure)
    return [(there[:, c], part.choice[:, c] == part.truth[:, c]) for c in range(len(part.classes))]


def _ece(part: DomainPredictions) -> float | None:
    return float(np.mean([error(*question) for question in _questions(part)])) if part.chooses else None


def _ece_draws(part: DomainPredictions, bootstrap: GroupBootstrap) -> Floats:
    return np.asarray(np.mean([resampled_error(*question, bootstrap) for question in _questions(part)], axis=0))


def brier_of(part: DomainPredictions) -> Floats:
    """(n,) Brier score of each sample."""
    return brier_scores(part.posteriors(), part.truth)


METRICS = {
    metric.name: metric
    for metric in (
        Metric("auc", "AUC", DomainPredictions.auc, _auc_draws),
        Metric("balanced_accuracy", "balanced accuracy", DomainPredictions.balanced_accuracy, _balanced_draws),
        Metric("accuracy", "accuracy", _accuracy, lambda part, bootstrap: bootstrap.mean(part.hits)),
        Metric(
            "brier",
            "Brier score",
            DomainPredictions.brier,
            lambda part, bootstrap: bootstrap.mean(brier_of(part)),
            lower_is_better=True,
            limits=(0.0, 2.0),
        ),
        Metric("ece", "calibration error", _ece, _ece_draws, lower_is_better=True),
    )
}
