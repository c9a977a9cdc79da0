"""Drift of representations against the formulas in Gram form, and what each must not see."""

import numpy as np
import pytest
from scipy.spatial import procrustes as scipy_procrustes
from scipy.stats import ortho_group

from mmkd_core.evaluate.drift import cka, drift, effective_rank, neighbour_overlap, procrustes


def gram_cka(x, y):
    """Debiased CKA from centred Gram matrices without their diagonals (Song et al. 2012, equation 5)."""
    x, y = x - x.mean(axis=0), y - y.mean(axis=0)
    grams = [part @ part.T for part in (x, y)]
    for gram in grams:
        np.fill_diagonal(gram, 0)
    n, one = len(x), np.ones(len(x))

    def hsic(k, m):
        middle = (one @ k @ one) * (one @ m @ one) / ((n - 1) * (n - 2)) - 2 / (n - 2) * (one @ k @ m @ one)
        return (np.trace(k @ m) + middle) / (n * (n - 3))

    k, m = grams
    return hsic(k, m) / np.sqrt(hsic(k, k) * hsic(m, m))


def test_cka_equals_the_gram_form():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(80, 12))
    y = x @ rng.normal(size=(12, 7)) + rng.normal(size=(80, 7))
    assert cka(x, y) == pytest.approx(gram_cka(x, y), abs=1e-10)


def test_cka_of_independent_features_is_about_zero():
    """The plain one is far from it where there are as many dimensions as samples."""
    rng = np.random.default_rng(1)
    assert abs(np.mean([cka(rng.normal(size=(40, 40)), rng.normal(size=(40, 40))) for _ in range(50)])) < 0.02
    assert cka(rng.normal(size=(3, 2)), rng.normal(size=(3, 2))) is None
    assert cka(np.ones((9, 2)), np.ones((9, 2))) is None


def test_a_rotation_is_no_drift():
    rng = np.random.default_rng(2)
    x = rng.normal(size=(60, 8)) * np.arange(1, 9)
    found = drift(x, 3 * x @ ortho_group.rvs(8, random_state=3))
    assert (found.cka, found.neighbour_overlap) == pytest.approx((1, 1))
    assert found.procrustes == pytest.approx(0, abs=1e-9)
    assert found.effective_rank_before == pytest.approx(found.effective_rank_after)
    assert found.n == 60


def test_procrustes_against_scipy():
    rng = np.random.default_rng(4)
    x, y = rng.normal(size=(30, 4)), rng.normal(size=(30, 4))
    disparity = scipy_procrustes(x, y)[2]  # which scales as well: 1 - s^2, where s is the sum of singular values
    assert procrustes(x, y) == pytest.approx(2 - 2 * np.sqrt(1 - disparity))


def test_effective_rank_literal():
    assert effective_rank(np.eye(5)) == pytest.approx(5)
    assert effective_rank(np.ones((7, 3))) == pytest.approx(1)


def test_neighbours():
    rng = np.random.default_rng(5)
    x = rng.normal(size=(50, 6))
    assert neighbour_overlap(x, x) == 1
    assert neighbour_overlap(x, rng.normal(size=(50, 6))) == pytest.approx(10 / 49, abs=0.06)
    assert neighbour_overlap(x[:11], x[:11]) is None
    pairs = np.array([[np.cos(a), np.sin(a)] for a in (0.0, 0.1, 1.0, 1.1)])
    assert neighbour_overlap(pairs, pairs[[0, 2, 1, 3]], k=1) == 0
    assert neighbour_overlap(pairs, pairs[[1, 0, 2, 3]], k=1) == 1
