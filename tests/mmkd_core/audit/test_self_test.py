"""The A/A test: copies that are alike, and an audit that would raise alarms is found out."""

import json

import numpy as np
import pytest
from scipy.special import ndtri

from mmkd_core.audit.evidence import Evidence, Key, SampleValues
from mmkd_core.audit.gate import Gate, Rule
from mmkd_core.audit.self_test import deal, self_test
from mmkd_core.evaluate.predictions import DomainPredictions, Predictions

ACCURACY = Key("retrieval", "R@10", "image to text")


def column(values):
    result = np.empty(len(values), dtype=object)
    result[:] = values
    return result


def evidence(auc, patients=60, images=3, seed=0):
    """One model on patients of three images; models of several seeds share the patients, not the noise."""
    truth = np.repeat(np.arange(patients) % 2, images)
    groups = column([f"patient {i}" for i in np.repeat(np.arange(patients), images)])
    noise = np.repeat(np.random.default_rng(seed).normal(size=patients), images)
    score = 2**0.5 * ndtri(auc) * truth + noise
    names, label = column([f"s{i}" for i in range(len(truth))]), column([("no", "yes")[t] for t in truth])
    part = DomainPredictions.build(names, groups, label, np.stack([-score, score], axis=1), ("no", "yes"))
    found = np.random.default_rng(seed).random(len(truth)) < auc
    outcomes = SampleValues(names, groups, column(["ct"] * len(truth)), found, np.ones(len(truth)))
    return Evidence(Predictions({"ct": part}, "p"), {ACCURACY: outcomes})


def test_copies_hold_each_answer_once_and_patients_stay_whole():
    new, old = evidence(0.9, seed=1), evidence(0.7, seed=2)
    one, other = deal(new, old, np.random.default_rng(3))
    first, second = one.predictions["ct"].logits[:, 1], other.predictions["ct"].logits[:, 1]
    given = {model: e.predictions["ct"].logits[:, 1] for model, e in (("new", new), ("old", old))}
    order = np.argsort(new.predictions["ct"].sample_id.astype(str), kind="stable")
    mine = first == given["new"][order]
    np.testing.assert_array_equal(second == given["old"][order], mine)
    np.testing.assert_array_equal(first[~mine], given["old"][order][~mine])
    groups = one.predictions["ct"].group_id
    assert 0.3 < mine.mean() < 0.7
    for group in set(groups):
        assert len(set(mine[groups == group])) == 1
    answers = one.outcomes[ACCURACY].values
    np.testing.assert_array_equal(answers[mine], new.outcomes[ACCURACY].values[order][mine])


def test_alike_copies_raise_no_alarm_though_one_release_was_far_better():
    gate = Gate(resamples=200)
    found = self_test(evidence(0.95, seed=1), evidence(0.75, seed=2), gate, rounds=60)
    assert found.rounds == sum(found.verdicts.values()) == 60
    assert found.false_alarms.share <= 0.05
    assert found.passed
    rate = found.excluded["zero-shot auc"]
    assert (rate.nominal, rate.lower < 0.1) == (pytest.approx(0.05), True)
    assert "flips negative" not in found.excluded
    assert json.loads(json.dumps(found.to_json(), allow_nan=False))["gate"] == gate.hash


def test_the_rate_follows_the_level_of_the_gate():
    """With a margin of nothing every loss counts: a careful gate rarely cries wolf, a careless one often."""
    models = [evidence(0.8, patients=40, seed=seed) for seed in (1, 2)]
    silent = Rule(gates=False, margin=0.05)
    rules = {"zero-shot": {"auc": Rule(gates=True, margin=1e-9), "balanced_accuracy": silent}}
    rules |= {"retrieval": {"R@10": silent}, "calibration": {"brier": silent}}
    careful, careless = (
        self_test(*models, Gate(confidence=c, resamples=200, families=rules), rounds=40) for c in (0.95, 0.02)
    )
    assert careful.false_alarms.share <= 0.1
    assert careless.false_alarms.share > careful.false_alarms.share + 0.1
    assert careless.false_alarms.nominal == pytest.approx(0.49)
