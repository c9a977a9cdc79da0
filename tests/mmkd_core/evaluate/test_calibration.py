"""Calibration against hand-made bins and scikit-learn, and its resamples against copied-out ones."""

import numpy as np
import pytest
from sklearn.metrics import brier_score_loss

from mmkd_core.evaluate.calibration import BINS, brier_scores, ece, resampled_ece
from mmkd_core.statistics import GroupBootstrap


def posteriors(rng, n=200, classes=3):
    logits = rng.normal(size=(n, classes))
    return np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)


def test_ece_literal():
    posterior = np.array([[0.9, 0.1], [0.9, 0.1], [0.6, 0.4], [0.4, 0.6]])
    truth = np.array([0, 1, 0, 0])
    # bin of 0.9: two samples, half right, gap 0.4; bin of 0.6: two samples, half right, gap 0.1
    assert ece(posterior, truth) == pytest.approx((2 * 0.4 + 2 * 0.1) / 4)
    assert ece(np.array([[1.0, 0.0]]), np.array([0])) == 0


def test_fifteen_bins_are_not_ten():
    """0.62 and 0.68 lie in two of fifteen bins, where each is wrong by itself, and would be one of ten, where they
    make up for each other.
    """
    posterior = np.array([[0.62, 0.38], [0.68, 0.32]])
    assert ece(posterior, np.array([0, 1])) == pytest.approx((0.38 + 0.68) / 2)


def test_ece_against_a_loop_over_bins():
    rng = np.random.default_rng(0)
    posterior, truth = posteriors(rng), rng.integers(0, 3, 200)
    sure, right = posterior.max(axis=1), posterior.argmax(axis=1) == truth
    expected = 0.0
    for low, high in zip(np.arange(BINS) / BINS, np.arange(1, BINS + 1) / BINS, strict=True):
        here = (sure > low) & (sure <= high)
        if here.any():
            expected += here.mean() * abs(sure[here].mean() - right[here].mean())
    assert ece(posterior, truth) == pytest.approx(expected)


def test_brier_against_scikit_learn():
    rng = np.random.default_rng(1)
    posterior, truth = posteriors(rng, classes=2), rng.integers(0, 2, 200)
    assert brier_scores(posterior, truth).mean() == pytest.approx(2 * brier_score_loss(truth, posterior[:, 1]))
    assert brier_scores(np.array([[0.2, 0.3, 0.5]]), np.array([1])) == pytest.approx([0.04 + 0.49 + 0.25])


def test_resamples_equal_copies():
    rng = np.random.default_rng(2)
    posterior, truth = posteriors(rng, 60), rng.integers(0, 3, 60)
    bootstrap = GroupBootstrap(rng.integers(0, 20, 60).astype(str), 10)
    ((_, weight),) = bootstrap.weights()
    for b, found in enumerate(resampled_ece(posterior, truth, bootstrap)):
        rows = np.repeat(np.arange(60), weight[:, b].astype(int))
        assert found == pytest.approx(ece(posterior[rows], truth[rows]))
