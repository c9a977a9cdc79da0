"""The logistic regression on frozen features that linear probe, diagnosis and VQA share.

L2-normalised features, lbfgs, the strength of the penalty from a grid by the log loss of validation rows. The grid is
tried on few rows, for it only has to tell orders of magnitude apart; the classifier itself sees all of them.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mmkd_core.errors import DataError
from mmkd_core.statistics.intervals import Floats
from mmkd_core.trust.beliefs import unit

GRID = tuple(10.0**power for power in range(-2, 5))
TRIED_ON = 4000
MAX_ITERATIONS = 2000
ROUGHLY = 100
"""Iterations of a trial: orders of magnitude of the penalty are told apart long before the fit is exact."""


@dataclass(frozen=True)
class Classifier:
    """A fitted probe.

    Attributes:
        classes: names of the columns of ``probabilities``.
        strength: C, the inverse of the penalty.
        converged: whether lbfgs came to an end.
    """

    model: Any
    classes: tuple[str, ...]
    strength: float
    converged: bool

    def probabilities(self, features: NDArray[np.floating]) -> Floats:
        """(n, C) of features (n, D)."""
        return np.asarray(self.model.predict_proba(unit(features)), np.float64)


def fit(
    features: NDArray[np.floating],
    label: NDArray[np.object_],
    val_features: NDArray[np.floating],
    val_label: NDArray[np.object_],
    seed: int = 0,
) -> Classifier:
    """Fit to (n, D) features, choosing the penalty on validation rows; rows of classes that are not in train are passed
    over there. Without any, C is 1.

    Raises:
        DataError: fewer than two classes.
    """
    names = sorted({str(name) for name in label})
    if len(names) < 2:
        raise DataError(f"a probe needs two classes, the training rows have {len(names)}", next="Label more samples.")
    known = np.isin(val_label.astype(str), names)
    few = np.random.default_rng([seed, 41]).permutation(len(label))[:TRIED_ON]
    if len(set(label[few])) < len(names):
        few = np.arange(len(label))
    strength = 1.0
    if known.any():
        models = {c: _regression(features[few], label[few], c, ROUGHLY) for c in GRID}
        strength = min(GRID, key=lambda c: _log_loss(models[c], val_features, val_label, known))
    model = _regression(features, label, strength)
    return Classifier(model, tuple(map(str, model.classes_)), strength, bool(model.n_iter_[0] < MAX_ITERATIONS))


def _regression(
    features: NDArray[np.floating], label: NDArray[np.object_], strength: float, iterations: int = MAX_ITERATIONS
) -> Any:
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # told by ``Classifier.converged``
        return LogisticRegression(C=strength, max_iter=iterations).fit(unit(features), label.astype(str))


def _log_loss(
    model: Any, features: NDArray[np.floating], label: NDArray[np.object_], known: NDArray[np.bool_]
) -> float:
    from sklearn.metrics import log_loss

    return float(log_loss(label[known].astype(str), model.predict_proba(unit(features[known])), labels=model.classes_))
