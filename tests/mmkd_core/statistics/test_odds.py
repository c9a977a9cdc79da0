"""Log-odds order samples as exact probabilities do, where rounded probabilities are ties."""

from fractions import Fraction
from math import exp

import numpy as np
import pytest

from mmkd_core.statistics import macro_auc
from mmkd_core.statistics.odds import NEVER, log_odds, sigmoid, softmax


def test_literals():
    np.testing.assert_allclose(softmax([[0, 0], [np.log(3), 0]]), [[0.5, 0.5], [0.75, 0.25]])
    np.testing.assert_allclose(sigmoid([0.0, np.log(3), -800, 800]), [0.5, 0.75, 0, 1])
    np.testing.assert_allclose(log_odds([[2.0, 5.0]]), [[-3, 3]])
    np.testing.assert_allclose(log_odds([[1.0, 0.0, 0.0]]), [[1 - np.log(2), -np.log(1 + exp(1)), -np.log(1 + exp(1))]])
    assert log_odds([[3.0]]).tolist() == [[0.0]]


def test_a_logit_alone_ranks_otherwise_than_the_posterior():
    logits = [[2.0, 3.0], [1.0, -5.0]]  # the first has more of class 0, and yet is less likely to be of it
    assert softmax(logits)[0, 0] < softmax(logits)[1, 0]
    assert log_odds(logits)[0, 0] < log_odds(logits)[1, 0]


def test_no_ties_where_float_probabilities_are_all_one():
    logits = np.array([[100.0 + step, 0.0, 1.0] for step in range(4)])
    assert len(set(softmax(logits)[:, 0])) == 1  # exact ones differ, as fractions show
    exact = [1 / (1 + (Fraction(exp(0)) + Fraction(exp(1))) / Fraction(exp(row[0]))) for row in logits]
    assert len(set(exact)) == 4
    assert np.argsort(log_odds(logits)[:, 0]).tolist() == [0, 1, 2, 3]
    assert macro_auc(log_odds(logits), [1, 0, 1, 0]) == pytest.approx((0.75 + 0.75) / 2)


def test_of_two_classes_either_has_the_same_auc():
    rng = np.random.default_rng(0)
    odds = log_odds(rng.normal(size=(62, 2)) * 500)
    np.testing.assert_array_equal(odds[:, 0], -odds[:, 1])


def test_what_cannot_be_said_is_equal_for_all():
    odds = log_odds([[5.0, 1.0, NEVER], [0.3, 2.0, NEVER]])
    assert odds[0, 2] == odds[1, 2]
    assert odds[0, 0] == 4
