"""Linear probe: known answers, draws of labels by patient, and figures that come from the file alone."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from scipy.special import softmax
from sklearn.metrics import balanced_accuracy_score, roc_auc_score

from mmkd_core.errors import DataError
from mmkd_core.evaluate.figures import score
from mmkd_core.evaluate.outcomes import Outcomes
from mmkd_core.evaluate.probe import FRACTIONS, SEEDS, Labelled, draw, measure, predict
from mmkd_core.statistics.odds import log_odds

CLASSES = ("a", "b", "c")


def images(n: int, seed: int, signal: float, split: str = "train") -> Labelled:
    """Three classes around three directions, ``signal`` standard deviations apart."""
    rng = np.random.default_rng([seed, len(split)])
    label = np.array([CLASSES[i % 3] for i in range(n)], object)
    features = rng.normal(size=(n, 6))
    features[np.arange(n), np.arange(n) % 3] += signal
    names = np.array([f"{split}-{i}" for i in range(n)], object)
    return Labelled(features, label, np.array([f"{split}-g{i // 6}" for i in range(n)], object), names)


def splits(signal: float) -> tuple[Labelled, Labelled, Labelled]:
    return images(300, 0, signal), images(90, 1, signal, "val"), images(150, 2, signal, "test")


def by_name(outcomes: Outcomes) -> dict[tuple[str, str], float]:
    found = {}
    for figure in score(outcomes, measure, resamples=20):
        assert figure.interval is not None
        found[figure.part, figure.metric] = figure.interval.estimate
    return found


def test_a_model_that_knows_the_classes_is_perfect_and_a_random_one_is_at_chance() -> None:
    good, bad = by_name(predict(*splits(12.0))), by_name(predict(*splits(0.0)))
    assert good["100% of the labels", "macro AUC (one-vs-rest)"] > 0.999
    assert good["1% of the labels", "accuracy"] > 0.95
    assert 0.4 < bad["100% of the labels", "macro AUC (one-vs-rest)"] < 0.6


def test_the_figures_are_those_of_scikit_learn() -> None:
    outcomes = predict(*splits(1.0))
    last = outcomes.take(outcomes["run"] == len(outcomes.facts["runs"]) - 1)
    found = by_name(outcomes)
    auc = roc_auc_score(last["truth"], softmax(last["logits"], axis=1), multi_class="ovr")
    assert found["100% of the labels", "macro AUC (one-vs-rest)"] == pytest.approx(auc, abs=1e-9)
    balanced = balanced_accuracy_score(last["truth"], last["logits"].argmax(1))
    assert found["100% of the labels", "balanced accuracy"] == pytest.approx(balanced, abs=1e-9)


def test_a_collapsed_model_is_at_chance() -> None:
    constant = [Labelled(np.ones_like(p.features), p.label, p.group_id, p.sample_id) for p in splits(1.0)]
    found = by_name(predict(*constant))
    assert found["100% of the labels", "macro AUC (one-vs-rest)"] == pytest.approx(0.5)


def test_labels_are_drawn_by_patient_with_every_class() -> None:
    train = images(300, 0, 1.0)
    for fraction in FRACTIONS:
        for seed in range(SEEDS):
            rows = draw(train, fraction, seed)
            whole = set(train.group_id[rows])
            assert len(rows) == sum(name in whole for name in train.group_id), "a patient was torn apart"
            assert set(train.label[rows]) == set(CLASSES)
            assert fraction * 300 <= len(rows) <= fraction * 300 + 12
    assert not np.array_equal(draw(train, 0.1, 0), draw(train, 0.1, 1))


def test_figures_come_from_the_file_alone(tmp_path: Path) -> None:
    outcomes = predict(*splits(1.0))
    outcomes.save(tmp_path / "probe.parquet")
    again = Outcomes.load(tmp_path / "probe.parquet")
    assert score(again, measure, resamples=20) == score(outcomes, measure, resamples=20)
    assert again.protocol == "mmkd/linear-probe@2"


def test_one_class_is_refused() -> None:
    train, val, test = splits(1.0)
    only = train.take(np.flatnonzero(train.label == "a"))
    with pytest.raises(DataError, match="two classes"):
        predict(only, val, test)


def test_nothing_is_chosen_on_the_test_images() -> None:
    train, val, test = splits(1.0)
    rng = np.random.default_rng(9)
    noise = Labelled(
        100 * rng.normal(size=test.features.shape), rng.permutation(test.label), test.group_id, test.sample_id
    )
    found, other = predict(train, val, test), predict(train, val, noise)
    assert found.facts == other.facts
    mixed = np.concatenate([test.features[:1], noise.features[1:]])
    judged = predict(train, val, Labelled(mixed, noise.label, test.group_id, test.sample_id))
    for run in range(len(found.facts["runs"])):
        first = [part["logits"][part["run"] == run][0] for part in (found, judged)]
        np.testing.assert_array_equal(*first)


def test_a_class_that_training_never_saw_is_a_tie_and_never_chosen() -> None:
    train, val, test = splits(1.0)
    kept = np.flatnonzero(train.label != "c")
    last = predict(train.take(kept), val, test)
    rows = last["run"] == len(last.facts["runs"]) - 1
    assert last["logits"][rows].argmax(axis=1).max() == 1
    assert roc_auc_score(test.label == "c", log_odds(last["logits"][rows])[:, 2]) == 0.5
