from __future__ import annotations

import numpy as np
import pytest
from scipy.special import log_softmax, softmax
from sklearn.linear_model import Ridge

from mmkd_core.distill.novelty import FOLDS, PENALTIES, interference, novelty, only_right

GROUP = np.array(["ct", "mri"] * 150, object)


def known_and(share: float, seed: int = 0):
    """Known features, and others of which a share of the variance is new."""
    rng = np.random.default_rng(seed)
    known = rng.normal(size=(300, 8))
    told = known @ np.linalg.qr(rng.normal(size=(8, 8)))[0]
    return known, np.sqrt(1 - share) * told + np.sqrt(share) * rng.normal(size=(300, 8))


@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
def test_the_share_that_is_new_is_found(share):
    known, new = known_and(share)
    found = novelty(new, known, GROUP)
    assert found.share == pytest.approx(share, abs=0.05)
    assert set(found.groups) == {"ct", "mri"}
    assert all(value == pytest.approx(share, abs=0.08) for value in found.groups.values())


def test_it_is_the_residual_of_a_ridge_regression():
    known, new = known_and(0.3)
    fold = np.random.default_rng(0).permutation(300) % FOLDS
    best = np.inf
    for penalty in PENALTIES:
        left = 0.0
        for number in range(FOLDS):
            held = fold == number
            values = np.linalg.svd(known[~held] - known[~held].mean(axis=0), compute_uv=False)
            model = Ridge(alpha=penalty * (values**2).mean()).fit(known[~held], new[~held])
            left += ((new[held] - model.predict(known[held])) ** 2).sum()
        best = min(best, left)
    expected = best / ((new - new.mean(axis=0)) ** 2).sum()
    assert novelty(new, known, GROUP).share == pytest.approx(expected, rel=1e-9)


def test_more_known_dimensions_than_samples():
    rng = np.random.default_rng(0)
    found = novelty(rng.normal(size=(60, 4)), rng.normal(size=(60, 200)), GROUP[:60])
    assert 0.9 < found.share <= 1


def test_features_that_do_not_vary_have_no_share():
    known, _ = known_and(0.0)
    found = novelty(np.ones((300, 3)), known, GROUP)
    assert found.share == 0
    assert found.groups == {"ct": None, "mri": None}
    with pytest.raises(ValueError, match="too few"):
        novelty(np.ones((4, 2)), np.ones((4, 2)), GROUP[:4])


def test_interference_is_the_derivative_of_the_earlier_teachers_loss():
    rng = np.random.default_rng(0)
    logits, earlier, new = rng.normal(size=(3, 20, 6))
    old, q = softmax(earlier, axis=1), softmax(new, axis=1)

    def loss(z):
        return -(old * log_softmax(z, axis=1)).sum(axis=1).mean()

    p, step = softmax(logits, axis=1), 1e-6
    derivative = (loss(logits - step * (p - q)) - loss(logits + step * (p - q))) / (2 * step)
    found = interference(p, old, q)
    assert found.rise == pytest.approx(derivative, rel=1e-6)
    assert found.disagreement == pytest.approx(0.5 * np.abs(p - q).sum(axis=1).mean())
    assert found.n == 20
    assert interference(p, old, old).rise < 0, "a teacher that says the same helps"
    assert interference(p, old, p).rise == pytest.approx(0)


def test_only_right():
    new = np.array([True, True, False, True])
    known = np.array([[True, False, False, False], [False, False, True, False]])
    assert only_right(new, known).tolist() == [False, True, False, True]
    assert only_right(new, known[:0]).tolist() == new.tolist(), "nobody is known yet"
