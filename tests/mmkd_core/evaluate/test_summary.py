"""Intervals of domains and of their mean."""

import json

import numpy as np
import pytest

from mmkd_core.evaluate.classes import classification
from mmkd_core.evaluate.metrics import METRICS
from mmkd_core.evaluate.predictions import DomainPredictions, Predictions
from mmkd_core.evaluate.summary import paired_bootstraps, summarise
from mmkd_core.statistics import GroupBootstrap


def column(values):
    result = np.empty(len(values), dtype=object)
    result[:] = values
    return result


def part(domain, n=80, groups=None, seed=0, classes=("a", "b"), drop=()):
    rng = np.random.default_rng([seed, *domain.encode()])
    truth = rng.choice([i for i, name in enumerate(classes) if name not in drop], n)
    scores = rng.normal(size=(n, len(classes)))
    scores[np.arange(n), truth] += 1
    groups = groups or [f"{domain} {i // 2}" for i in range(n)]
    label = column([classes[i] for i in truth])
    return DomainPredictions.build(column([f"{domain}{i}" for i in range(n)]), column(groups), label, scores, classes)


def test_domains_and_mean():
    found = summarise(Predictions({"ct": part("ct"), "mri": part("mri")}, "p@1"), resamples=500)
    ct, mri = found.domains["ct"].auc, found.domains["mri"].auc
    assert found.domains["ct"].status == "ok"
    assert (ct.n, ct.groups) == (80, 40)
    assert ct.lower < ct.estimate < ct.upper
    assert found.mean.estimate == pytest.approx((ct.estimate + mri.estimate) / 2)
    assert (found.mean.n, found.mean.groups) == (160, 80)
    # Two independent domains: the mean's variance is a quarter of the sum of theirs.
    expected = 0.5 * np.hypot(ct.upper - ct.lower, mri.upper - mri.lower)
    assert found.mean.upper - found.mean.lower == pytest.approx(expected, rel=0.15)
    json.dumps(found.to_json(), allow_nan=False)


def test_a_domain_does_not_feel_the_others():
    alone = summarise(Predictions({"ct": part("ct")}, "p@1"), resamples=200)
    together = summarise(Predictions({"mri": part("mri"), "ct": part("ct")}, "p@1"), resamples=200)
    assert alone.domains["ct"] == together.domains["ct"]


def test_groups_that_span_domains_are_drawn_together():
    shared = [f"patient {i // 2}" for i in range(80)]
    parts = {name: part(name, groups=shared) for name in ("ct", "mri")}
    bootstraps = paired_bootstraps(Predictions(parts, "p@1"), 50, 0)
    ((_, first),), ((_, second),) = (list(bootstraps[name].weights()) for name in parts)
    np.testing.assert_array_equal(first, second)
    apart = paired_bootstraps(Predictions({n: part(n) for n in parts}, "p@1"), 50, 0)
    ((_, first),), ((_, second),) = (list(apart[name].weights()) for name in parts)
    assert (first != second).any()


def test_the_draws_of_a_domain_are_those_of_a_bootstrap_over_it():
    one = part("ct")
    drawn = paired_bootstraps(Predictions({"ct": one}, "p@1"), 50, 3)["ct"].macro_auc(one.logits, one.truth)
    again = GroupBootstrap(one.group_id, 50, 3, strata=["ct"] * 80).macro_auc(one.logits, one.truth)
    np.testing.assert_array_equal(drawn, again)


def test_absent_classes_are_said():
    classes = ("a", "b", "c")
    found = summarise(
        Predictions({"ct": part("ct", classes=classes, drop=("b",)), "oct": part("oct", drop=("a",))}, "p@1"),
        resamples=100,
    )
    assert found.domains["ct"].status == "over 2 of 3 classes: no sample of b"
    assert found.domains["ct"].auc is not None
    assert found.domains["oct"].status == "undefined: 1 of 2 classes have samples"
    assert found.domains["oct"].auc is None
    assert found.mean.estimate == found.domains["ct"].auc.estimate
    assert found.mean.n == 80
    assert summarise(Predictions({"oct": part("oct", drop=("a",))}, "p@1"), resamples=100).mean is None
    assert summarise(Predictions({}, "p@1"), resamples=100).domains == {}


def test_decisions_and_probabilities_stand_beside_ranks():
    """A model that ranks perfectly and calls everything the first class."""
    label = ["a", "a", "b", "b"]
    logits = np.array([[4.0, 0.0], [3.0, 0.0], [2.0, 0.0], [1.0, 0.0]])
    names = column([f"s{i}" for i in range(4)])
    one = DomainPredictions.build(names, names, column(label), logits, ("a", "b"))
    found = summarise(Predictions({"ct": one}, "p@1"), resamples=50)
    assert found.domains["ct"].auc.estimate == 1
    assert found.domains["ct"].balanced_accuracy.estimate == 0.5
    sure = 1 / (1 + np.exp(-logits[:, 0]))
    expected = np.mean([2 * (1 - sure[0]) ** 2, 2 * (1 - sure[1]) ** 2, 2 * sure[2] ** 2, 2 * sure[3] ** 2])
    assert found.domains["ct"].brier.estimate == pytest.approx(expected)
    assert found.mean_brier.estimate == pytest.approx(expected)
    assert found.mean_balanced_accuracy.estimate == 0.5
    alone = DomainPredictions.build(names[:2], names[:2], column(["a", "a"]), logits[:2], ("a", "b"))
    undefined = summarise(Predictions({"ct": alone}, "p@1"), resamples=20).domains["ct"]
    assert undefined.auc is None
    assert undefined.balanced_accuracy is None
    assert undefined.brier is not None


def test_one_class_alone_has_no_figures_and_makes_no_mean_better():
    alone = part("alone", classes=("nevus",))
    found = summarise(Predictions({"ct": part("ct"), "alone": alone}, "p@1"), resamples=200)
    assert (found.domains["alone"].auc, found.domains["alone"].brier) == (None, None)
    assert found.domains["alone"].balanced_accuracy is None
    assert found.domains["alone"].status == "undefined: 1 of 1 classes have samples"
    assert found.mean_brier == summarise(Predictions({"ct": part("ct")}, "p@1"), resamples=200).mean_brier
    assert {name: metric.estimate(alone) for name, metric in METRICS.items()} == dict.fromkeys(METRICS)
    told = classification(alone.logits, alone.truth, GroupBootstrap(alone.group_id, 50))
    assert {(one.estimate, one.undefined) for one in told} == {(None, "one class only")}
