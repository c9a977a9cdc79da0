"""The logistic regression on frozen features that linear probe, diagnosis and VQA share.

L2-normalised features, lbfgs, the strength of the penalty from a grid by the log loss of validation rows. The grid is
tried on few rows, for it only has to tell orders of magnitude apart, from the strongest penalty to the weakest, each
trial from where the one before ended; the classifier itself sees all rows. The problem is convex: where a fit starts
changes how long it takes, not what it finds.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mmkd_core.errors import DataError
from mmkd_core.statistics.intervals import Floats
from mmkd_core.trust.beliefs import products, unit

GRID = tuple(10.0**power for power in range(-2, 5))
TRIED_ON = 4000
MAX_ITERATIONS = 2000
ROUGHLY = 100
"""Iterations of a trial: orders of magnitude of the penalty are told apart long before the fit is exact."""
TOLERANCE = 1e-5
"""Of the gradient: with scikit-learn's 1e-4 probabilities of two fits to the same rows differ by 0.02."""
PATIENCE = 2
"""Trials in a row that are worse than the best: weaker penalties, the slowest to fit, only overfit more."""


@dataclass(frozen=True)
class Classifier:
    """A fitted probe.

    Attributes:
        classes: names of the columns of ``logits``.
        strength: C, the inverse of the penalty.
        converged: whether lbfgs came to an end.
    """

    model: Any
    classes: tuple[str, ...]
    strength: float
    converged: bool

    def logits(self, features: NDArray[np.floating]) -> Floats:
        """(n, C) of features (n, D): decision values, whose softmax is the probability of each class."""
        value = products(unit(features), self.model.coef_) + self.model.intercept_
        return np.concatenate([-value / 2, value / 2], axis=1) if value.shape[1] == 1 else value


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
    names, truth = np.unique(label.astype(str), return_inverse=True)
    if len(names) < 2:
        raise DataError(f"a probe needs two classes, the training rows have {len(names)}", next="Label more samples.")
    known = np.isin(val_label.astype(str), names)
    few = np.random.default_rng([seed, 41]).permutation(len(truth))[:TRIED_ON]
    if len(np.unique(truth[few])) < len(names):
        few = np.arange(len(truth))
    rows, strength, start = unit(features), 1.0, None
    with _one_thread():
        if known.any():
            val_truth = np.searchsorted(names, val_label[known].astype(str))
            strength, start = _strength(rows[few], truth[few], unit(val_features[known]), val_truth)
        model = _regression(strength, MAX_ITERATIONS, start).fit(rows, truth)
    return Classifier(model, tuple(map(str, names)), strength, bool(model.n_iter_[0] < MAX_ITERATIONS))


def _strength(
    rows: NDArray[np.floating], truth: NDArray[np.int64], val_rows: NDArray[np.floating], val_truth: NDArray[np.int64]
) -> tuple[float, Any]:
    """The C with the lowest log loss on the validation rows, and the fit that had it."""
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.metrics import log_loss

    best: tuple[float, float, Any] = (np.inf, GRID[0], None)
    model, worse = None, 0
    for c in GRID:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)  # a rough fit is what is asked for
            model = _regression(c, ROUGHLY, model).fit(rows, truth)
        loss = float(log_loss(val_truth, model.predict_proba(val_rows), labels=model.classes_))
        best, worse = ((loss, c, model), 0) if loss < best[0] else (best, worse + 1)
        if worse == PATIENCE:
            break
    return best[1], best[2]


def _regression(strength: float, iterations: int, start: Any) -> Any:
    """A regression that has yet to be fitted and begins where ``start`` (None or a fit to the same classes) ended."""
    from sklearn.linear_model import LogisticRegression

    model = LogisticRegression(C=strength, max_iter=iterations, tol=TOLERANCE, warm_start=True)
    if start is not None:
        model.coef_, model.intercept_, model.classes_ = start.coef_.copy(), start.intercept_.copy(), start.classes_
    return model


@contextmanager
def _one_thread() -> Iterator[None]:
    """lbfgs asks for thousands of short products. On a machine that others use too, BLAS threads that wait for each
    other make them ten times as slow; where there are free cores they win little.
    """
    with _pools().limit(limits=1, user_api="blas"):
        yield


@cache
def _pools() -> Any:
    """The thread pools of this process; looking for them takes longer than a small fit."""
    import sklearn.linear_model  # noqa: F401  # brings the ones that are meant
    from threadpoolctl import ThreadpoolController

    return ThreadpoolController()
