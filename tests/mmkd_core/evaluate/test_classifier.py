"""The regression of probe, diagnosis and VQA: its penalty, and that a warm start finds what a cold one does."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss

from mmkd_core.evaluate.classifier import GRID, fit
from mmkd_core.statistics.odds import softmax
from mmkd_core.trust.beliefs import unit


def drawn(n: int, seed: int, signal: float = 1.0) -> tuple[NDArray[np.float32], NDArray[np.object_]]:
    rng = np.random.default_rng(seed)
    kind = np.arange(n) % 4
    features = rng.normal(size=(n, 12)).astype(np.float32)
    features[np.arange(n), kind] += signal
    return features, np.array([f"class {k}" for k in kind], object)


@pytest.mark.parametrize("signal", [0.2, 1.0, 4.0])
def test_the_penalty_is_that_of_the_whole_grid_fitted_from_zero(signal: float) -> None:
    (x, y), (v, w) = drawn(400, 0, signal), drawn(200, 1, signal)
    losses = {}
    for c in GRID:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            model = LogisticRegression(C=c, max_iter=5000, tol=1e-8).fit(unit(x), y.astype(str))
        losses[c] = log_loss(w.astype(str), model.predict_proba(unit(v)))
    assert fit(x, y, v, w).strength == min(GRID, key=lambda c: losses[c])


def test_a_fit_that_began_where_a_trial_ended_is_that_of_scikit_learn_from_zero() -> None:
    (x, y), (v, w), (t, _) = drawn(600, 2), drawn(200, 3), drawn(300, 4)
    found = fit(x, y, v, w)
    alone = LogisticRegression(C=found.strength, max_iter=5000, tol=1e-8).fit(unit(x).astype(np.float64), y.astype(str))
    np.testing.assert_allclose(softmax(found.logits(t)), alone.predict_proba(unit(t)), atol=2e-3)
    assert found.classes == tuple(alone.classes_)
    assert found.converged


def test_validation_rows_of_unknown_classes_are_passed_over() -> None:
    (x, y), (v, w) = drawn(200, 5), drawn(100, 6)
    strange = np.where(np.arange(100) % 5 == 0, "aaa", w).astype(object)
    kept = np.arange(100) % 5 != 0
    assert fit(x, y, v, strange).strength == fit(x, y, v[kept], w[kept]).strength
    assert fit(x, y, v[:0], w[:0]).strength == 1.0
