"""Several classes an image: a model that sees them, one that is random, one that has collapsed."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from mmkd_core.evaluate.figures import score
from mmkd_core.evaluate.multilabel import ACCURACY, AUC, MultiLabelled, choose, measure_probe, measure_zero_shot, probe
from mmkd_core.evaluate.outcomes import Outcomes
from mmkd_core.evaluate.tasks import measure_of
from mmkd_core.statistics import GroupBootstrap

CLASSES = ["mass", "nodule", "hernia"]


def images(n: int, seed: int, signal: float) -> MultiLabelled:
    """The first three features say which classes are there; the third class is rare."""
    rng = np.random.default_rng(seed)
    truth = rng.random((n, 3)) < np.array([0.5, 0.3, 0.08])
    features = rng.normal(size=(n, 6)).astype(np.float32)
    features[:, :3] += signal * np.where(truth, 1, -1)
    names = np.array([f"{seed}-{i}" for i in range(n)], object)
    return MultiLabelled(features, truth, np.array([f"{seed}-p{i // 2}" for i in range(n)], object), names)


def by_name(outcomes: Outcomes) -> dict[tuple[str, str], float]:
    found = score(outcomes, measure_of(outcomes), resamples=20)
    return {(f.part, f.metric): f.interval.estimate for f in found if f.interval is not None}


def said(part: MultiLabelled) -> Outcomes:
    eye = np.eye(6, dtype=np.float32)
    there = {name: eye[[k]] for k, name in enumerate(CLASSES)}
    return choose(part, there, {name: -texts for name, texts in there.items()}, 10.0)


def test_sentences_that_say_there_and_not_there_tell_each_class_apart() -> None:
    good, none = by_name(said(images(400, 0, 6.0))), by_name(said(images(400, 0, 0.0)))
    assert good["", AUC] > 0.999
    assert good["", ACCURACY] > 0.99
    assert good["hernia", "AUC"] > 0.999
    assert 0.4 < none["", AUC] < 0.6


def test_a_collapsed_model_is_at_chance() -> None:
    part = images(200, 1, 1.0)
    constant = MultiLabelled(np.ones_like(part.features), part.truth, part.group_id, part.sample_id)
    assert by_name(said(constant))["", AUC] == 0.5


def test_the_probe_learns_each_class_from_whole_patients(tmp_path: Path) -> None:
    outcomes = probe(images(300, 2, 1.5), images(120, 3, 1.5), images(200, 4, 1.5), CLASSES)
    outcomes.save(tmp_path / "o.parquet")
    found = by_name(Outcomes.load(tmp_path / "o.parquet"))
    assert found == by_name(outcomes)
    assert found["100% of the labels", AUC] > 0.9
    assert found["100% of the labels", AUC] > found["1% of the labels", AUC] > 0.5
    rows = outcomes["run"] == len(outcomes.facts["runs"]) - 1
    expected = roc_auc_score(outcomes["truth"][rows], outcomes["log_odds"][rows], average="macro")
    assert found["100% of the labels", AUC] == pytest.approx(expected, abs=1e-9)


def test_a_class_that_training_never_saw_is_at_chance_and_one_that_the_test_lacks_is_left_out() -> None:
    train, val, test = images(200, 5, 2.0), images(80, 6, 2.0), images(150, 7, 2.0)
    train.truth[:, 2] = False
    outcomes = probe(train, val, test, CLASSES)
    last = outcomes.take(outcomes["run"] == 10)
    assert len(set(last["log_odds"][:, 2])) == 1
    test.truth[:, 2] = False
    found = by_name(said(test))
    assert ("hernia", "AUC") not in found
    assert found["", AUC] > 0.9


def test_draws_weigh_the_patients() -> None:
    outcomes = said(images(100, 8, 0.5))
    bootstrap = GroupBootstrap(outcomes["group_id"], 15, 0)
    draws = measure_zero_shot(outcomes, bootstrap)[0].draws
    weights = np.concatenate([times for _, times in bootstrap.weights()], axis=1).T
    for draw, weight in zip(draws, weights, strict=True):
        expected = roc_auc_score(outcomes["truth"], outcomes["log_odds"], average="macro", sample_weight=weight)
        assert draw == pytest.approx(expected, abs=1e-9)
    assert measure_of(Outcomes("mmkd/linear-probe-multilabel@2", outcomes.columns)) is measure_probe
