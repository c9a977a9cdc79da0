"""Diagnosis: thresholds are fixed on validation patients, and figures are those of scikit-learn."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.special import expit
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import balanced_accuracy_score, brier_score_loss, log_loss, roc_auc_score

from mmkd_core.errors import DataError
from mmkd_core.evaluate.diagnosis import Cases, best_threshold, measure, pool, predict, specific_threshold
from mmkd_core.evaluate.figures import score
from mmkd_core.evaluate.probe import Labelled
from mmkd_core.trust.beliefs import unit


def cases(n: int, seed: int, signal: float) -> Cases:
    rng = np.random.default_rng(seed)
    ill = rng.random(n) < 0.4
    features = rng.normal(size=(n, 5)).astype(np.float32)
    features[:, 0] += signal * ill
    return Cases(features, ill, np.array([f"{seed}-{i}" for i in range(n)], object))


def thresholds(train: Cases, val: Cases) -> tuple[float, float]:
    """Of all cuts between the validation patients' log-odds, by trying each: the one of best balanced accuracy, and the
    lowest that calls 95 % of the healthy well.
    """
    tried = [
        LogisticRegression(C=c, max_iter=5000).fit(unit(train.features), train.ill) for c in (0.01, 0.1, 1, 10, 100)
    ]
    model = min(tried, key=lambda m: log_loss(val.ill, m.predict_proba(unit(val.features))))
    value = model.decision_function(unit(val.features))
    places = np.sort(value)
    cuts = (places[1:] + places[:-1]) / 2
    best = max(cuts, key=lambda cut: balanced_accuracy_score(val.ill, value >= cut))
    strict = next(cut for cut in cuts if (value[~val.ill] < cut).mean() >= 0.95)
    return float(best), float(strict)


def test_nothing_is_chosen_on_the_test_patients() -> None:
    train, val, test = cases(200, 0, 1.0), cases(120, 1, 1.0), cases(150, 2, 1.0)
    rng = np.random.default_rng(9)
    noise = Cases(
        100 * rng.normal(size=test.features.shape).astype(np.float32), rng.permutation(test.ill), test.group_id
    )
    found, other = predict(train, val, test), predict(train, val, noise)
    assert found.facts == other.facts
    first = Cases(np.concatenate([test.features[:1], noise.features[1:]]), noise.ill, test.group_id)
    assert predict(train, val, first)["log_odds"][0] == found["log_odds"][0], "a patient is judged without the others"


def test_the_figures_are_those_of_scikit_learn_at_the_thresholds_of_the_validation_patients() -> None:
    parts = cases(300, 0, 1.5), cases(200, 1, 1.5), cases(250, 2, 1.5)
    outcomes = predict(*parts)
    found = {figure.metric: figure.interval for figure in score(outcomes, measure, resamples=30)}
    ill, value = outcomes["ill"], outcomes["log_odds"]
    threshold, strict = thresholds(*parts[:2])
    called = value >= threshold
    expected = {
        "AUC": roc_auc_score(ill, value),
        "accuracy": (called == ill).mean(),
        "balanced accuracy": balanced_accuracy_score(ill, called),
        "Brier score": brier_score_loss(ill, expit(value)),
        "sensitivity at 95% specificity": (value >= strict)[ill].mean(),
    }
    for metric, number in expected.items():
        interval = found[metric]
        assert interval is not None
        assert interval.estimate == pytest.approx(number, abs=1e-9), metric
        assert interval.lower <= interval.estimate <= interval.upper


def test_a_perfect_model_and_a_collapsed_one() -> None:
    perfect = {
        f.metric: f.interval for f in score(predict(*(cases(200, i, 50.0) for i in range(3))), measure, resamples=10)
    }
    blind = [Cases(np.ones_like(c.features), c.ill, c.group_id) for c in (cases(200, i, 1.0) for i in range(3))]
    constant = {f.metric: f.interval for f in score(predict(*blind), measure, resamples=10)}
    for metric, best, chance in (("AUC", 1.0, 0.5), ("balanced accuracy", 1.0, 0.5)):
        assert perfect[metric].estimate == best  # type: ignore[union-attr]
        assert constant[metric].estimate == chance  # type: ignore[union-attr]


def test_thresholds() -> None:
    values, ill = np.array([0.1, 0.2, 0.6, 0.7, 0.9]), np.array([False, False, True, False, True])
    assert best_threshold(values, ill) == pytest.approx(0.4)
    assert specific_threshold(values, ill, 0.6) == pytest.approx(0.4)
    assert (values >= specific_threshold(values, ill, 1.0)).sum() == 1


def test_one_positive_image_makes_a_patient_ill() -> None:
    images = Labelled(
        np.eye(3),
        np.array(["no", "yes", "no"], object),
        np.array(["b", "b", "a"], object),
        np.array(list("xyz"), object),
    )
    found = pool(images, ("yes",))
    assert list(found.group_id) == ["a", "b"]
    assert list(found.ill) == [False, True]
    np.testing.assert_allclose(found.features[1], [0.5, 0.5, 0.0])


def test_a_split_of_one_kind_is_refused() -> None:
    train, val = cases(50, 0, 1.0), cases(50, 1, 1.0)
    healthy = Cases(val.features, np.zeros(50, bool), val.group_id)
    with pytest.raises(DataError, match="val patients are all well"):
        predict(train, healthy, val)
