"""Figures against independent implementations, to 1e-9 where both are exact.

scikit-learn (classification, diagnosis), scikit-survival (both C's), torchmetrics (hit rate, reciprocal rank) and the
evaluator of MedMNIST. Random data, data with ties of every kind, and data that lack a class.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.special import expit, logit, softmax
from sklearn import metrics

from mmkd_core.evaluate import diagnosis, multilabel, retrieval, survival, zero_shot
from mmkd_core.evaluate.classes import MACRO_AUC, classification
from mmkd_core.evaluate.diagnosis import Cases
from mmkd_core.evaluate.figures import Measured, score
from mmkd_core.evaluate.outcomes import Outcomes
from mmkd_core.evaluate.survival import Patients, concordance
from mmkd_core.statistics import GroupBootstrap

EXACT = 1e-9


def scores(n: int, classes: int, seed: int, tied: bool) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Probabilities that say something, and the truth; with ``tied`` most samples are copies of a few others."""
    rng = np.random.default_rng(seed)
    truth = rng.integers(0, classes, n)
    truth[:classes] = np.arange(classes)
    logits = rng.normal(size=(n, classes)) + np.eye(classes)[truth]
    if tied:
        few = rng.normal(size=(40, classes))
        logits = few[np.abs(logits[:, None] - few).sum(axis=2).argmin(axis=1)]
    return softmax(logits, axis=1), truth


def measured(found: list[Measured]) -> dict[str, float]:
    return {one.metric: one.estimate for one in found if one.estimate is not None}


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("classes", [2, 5])
def test_classification_is_that_of_scikit_learn(classes: int, tied: bool) -> None:
    values, truth = scores(300, classes, classes, tied)
    found = measured(classification(np.log(values), truth, GroupBootstrap(list(map(str, range(300))), 5, 0)))
    choice, one_hot = values.argmax(axis=1), np.eye(classes)[truth]
    assert found[MACRO_AUC] == pytest.approx(metrics.roc_auc_score(one_hot, values, average="macro"), abs=EXACT)
    assert found["accuracy"] == pytest.approx(metrics.accuracy_score(truth, choice), abs=EXACT)
    assert found["balanced accuracy"] == pytest.approx(metrics.balanced_accuracy_score(truth, choice), abs=EXACT)
    assert found["macro F1"] == pytest.approx(metrics.f1_score(truth, choice, average="macro"), abs=EXACT)
    brier = metrics.brier_score_loss(truth, values, labels=range(classes), scale_by_half=False)
    assert found["Brier score"] == pytest.approx(brier, abs=EXACT)


@pytest.mark.parametrize("tied", [False, True])
def test_the_draws_of_the_auc_are_those_of_scikit_learn_on_weighted_samples(tied: bool) -> None:
    values, truth = scores(120, 3, 7, tied)
    bootstrap = GroupBootstrap([f"p{i // 3}" for i in range(120)], 20, 1)
    draws = classification(np.log(values), truth, bootstrap)[0].draws
    weights = np.concatenate([times for _, times in bootstrap.weights()], axis=1).T
    for draw, weight in zip(draws, weights, strict=True):
        expected = metrics.roc_auc_score(np.eye(3)[truth], values, average="macro", sample_weight=weight)
        assert draw == pytest.approx(expected, abs=EXACT)


def test_diagnosis_is_that_of_scikit_learn() -> None:
    def cases(n: int, seed: int) -> Cases:
        rng = np.random.default_rng(seed)
        ill = np.arange(n) % 3 == 0
        features = rng.normal(size=(n, 6)).astype(np.float32) + ill[:, None]
        return Cases(features, ill, np.array([f"{seed}-{i}" for i in range(n)], object))

    outcomes = diagnosis.predict(cases(200, 0), cases(100, 1), cases(150, 2))
    found = measured(list(diagnosis.measure(outcomes, GroupBootstrap(outcomes["group_id"], 5, 0))))
    ill, value = outcomes["ill"], outcomes["log_odds"]
    called = value >= outcomes.facts["threshold"]
    strict = value >= outcomes.facts["specific_threshold"]
    expected = {
        "AUC": metrics.roc_auc_score(ill, value),
        "accuracy": metrics.accuracy_score(ill, called),
        "balanced accuracy": metrics.balanced_accuracy_score(ill, called),
        "sensitivity": metrics.recall_score(ill, called),
        "specificity": metrics.recall_score(ill, called, pos_label=0),
        "positive predictive value": metrics.precision_score(ill, called),
        "negative predictive value": metrics.precision_score(~ill, ~called),
        "sensitivity at 95% specificity": metrics.recall_score(ill, strict),
        "Brier score": metrics.brier_score_loss(ill, expit(value)),
    }
    for name, number in expected.items():
        assert found[name] == pytest.approx(number, abs=EXACT), name


@pytest.fixture(scope="module")
def sksurv() -> ModuleType:
    pytest.importorskip("sksurv", reason="pip install scikit-survival")
    import sksurv.metrics

    return sksurv.metrics


def follow_up(n: int, seed: int, tied: bool) -> tuple[NDArray[np.float64], NDArray[np.bool_], NDArray[np.float64]]:
    rng = np.random.default_rng(seed)
    hidden = rng.normal(size=n)
    death, lost = rng.exponential(np.exp(-hidden)), rng.exponential(2.0, n)
    time = np.minimum(death, lost) + 0.01
    risk = hidden + rng.normal(size=n)
    return (np.ceil(4 * time), death <= lost, np.round(risk)) if tied else (time, death <= lost, risk)


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("seed", range(5))
def test_both_cs_are_those_of_scikit_survival(sksurv: ModuleType, seed: int, tied: bool) -> None:
    time, event, risk = follow_up(150, seed, tied)
    expected = sksurv.concordance_index_censored(event, time, risk)[0]
    assert concordance(time, event, risk) == pytest.approx(expected, abs=EXACT)
    horizon = float(np.quantile(time[event], 0.9))
    known = np.array(list(zip(event, time, strict=True)), [("event", bool), ("time", float)])
    expected = sksurv.concordance_index_ipcw(known, known, risk, tau=horizon)[0]
    assert concordance(time, event, risk, horizon) == pytest.approx(expected, abs=EXACT)


def test_the_figure_of_the_folds_is_that_of_scikit_survival_pair_by_pair(sksurv: ModuleType) -> None:
    time, event, risk = follow_up(200, 11, tied=True)
    names = np.array([f"p{i}" for i in range(200)], object)
    features = np.stack([risk, np.ones(200)], axis=1).astype(np.float32)
    outcomes = survival.predict(Patients(names, features, time, event))
    wins = pairs = 0.0
    for fold in range(outcomes.facts["folds"]):
        rows = outcomes["fold"] == fold
        parts = (outcomes[name][rows] for name in ("event", "time", "risk"))
        _, concordant, discordant, tied_risk, _ = sksurv.concordance_index_censored(*parts)
        wins, pairs = wins + concordant + tied_risk / 2, pairs + concordant + discordant + tied_risk
    figure = score(outcomes, survival.measure, 5)[0]
    assert figure.interval is not None
    assert figure.interval.estimate == pytest.approx(wins / pairs, abs=EXACT)


@pytest.mark.slow  # importing torchmetrics takes seconds
def test_recall_and_reciprocal_rank_are_those_of_torchmetrics() -> None:
    pytest.importorskip("torchmetrics", reason="pip install torchmetrics")
    import torch
    from torchmetrics.retrieval import RetrievalHitRate, RetrievalMRR

    def mean(values: Any, dim: int | None = None) -> Any:
        """Reciprocals of whole ranks, added in float64; torchmetrics adds in float32."""
        return (1 / (1 / values.double()).round()).nan_to_num(0.0).mean()

    rng = np.random.default_rng(0)
    image, text = rng.normal(size=(60, 8)).astype(np.float32), rng.normal(size=(60, 8)).astype(np.float32)
    text += 0.4 * image
    image_id = np.array([f"i{i // 2}" for i in range(60)], object)  # two captions of each image
    text_id = np.array([f"t{min(i, 50)}" for i in range(60)], object)  # and one caption of ten samples
    image, text = image[np.arange(60) // 2 * 2], text[np.minimum(np.arange(60), 50)]
    groups = np.array([f"g{i}" for i in range(60)], object)
    outcomes = retrieval.search(image, text, image_id, text_id, groups)
    found = {(f.part, f.metric): f.interval.estimate for f in score(outcomes, retrieval.measure, 5) if f.interval}
    one_image, one_text = np.unique(image_id, return_index=True)[1], np.unique(text_id, return_index=True)[1]
    belongs = np.zeros((len(one_image), len(one_text)), bool)
    for a, b in zip(image_id, text_id, strict=True):
        belongs[image_id[one_image] == a, np.flatnonzero(text_id[one_text] == b)] = True
    unit = [rows / np.linalg.norm(rows, axis=1, keepdims=True) for rows in (image[one_image], text[one_text])]
    cosine = unit[0].astype(np.float64) @ unit[1].T.astype(np.float64)
    for way, near, right in (("image to text", cosine, belongs), ("text to image", cosine.T, belongs.T)):
        query = torch.arange(len(near)).repeat_interleave(near.shape[1])
        given = (
            torch.from_numpy(2 + near.ravel()),
            torch.from_numpy(right.ravel().copy()),
        )  # its MRR wants scores above 0
        for k in retrieval.KS:
            oracle = float(RetrievalHitRate(top_k=k, aggregation=mean)(*given, indexes=query))
            assert found[way, f"R@{k}"] == pytest.approx(oracle, abs=EXACT)
        oracle = float(RetrievalMRR(aggregation=mean)(*given, indexes=query))
        assert found[way, "mean reciprocal rank"] == pytest.approx(oracle, abs=EXACT)


@pytest.fixture(scope="module")
def medmnist(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ModuleType]:
    """The evaluator of MedMNIST, which makes a folder in the home of whoever imports it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HOME", str(tmp_path_factory.mktemp("home")))
        pytest.importorskip("medmnist", reason="pip install medmnist")
        from medmnist import evaluator

        yield evaluator


@pytest.mark.slow  # importing medmnist takes seconds
@pytest.mark.parametrize(("kind", "classes"), [("multi-class", 9), ("ordinal-regression", 5), ("binary-class", 2)])
@pytest.mark.parametrize("tied", [False, True])
def test_auc_and_accuracy_are_those_of_medmnist(
    medmnist: ModuleType, kind: str, classes: int, tied: bool, tmp_path: Path
) -> None:
    values, truth = scores(400, classes, 3, tied)
    if tied and classes == 2:  # at exactly one half MedMNIST says class 0, and so does the first of equals
        values[:10] = 0.5
    names = np.array([f"s{i}" for i in range(400)], object)
    columns = {"sample_id": names, "group_id": names, "truth": truth, "logits": np.log(values)}
    Outcomes(zero_shot.PROTOCOL, columns, {"classes": list(map(str, range(classes)))}).save(tmp_path / "o.parquet")
    found = {f.metric: f for f in score(Outcomes.load(tmp_path / "o.parquet"), zero_shot.measure, 5)}
    for metric, oracle in ((MACRO_AUC, medmnist.getAUC), ("accuracy", medmnist.getACC)):
        interval = found[metric].interval
        assert interval is not None
        assert interval.estimate == pytest.approx(oracle(truth[:, None], values, kind), abs=EXACT), metric


@pytest.mark.slow
@pytest.mark.parametrize("tied", [False, True])
def test_several_classes_at_once_are_those_of_medmnist(medmnist: ModuleType, tied: bool) -> None:
    rng = np.random.default_rng(4)
    truth = rng.random((300, 14)) < np.linspace(0.02, 0.6, 14)
    truth[0] = True
    values = 1 / (1 + np.exp(-(rng.normal(size=truth.shape) + truth)))
    values = np.clip(np.round(values, 1), 0.1, 0.9) if tied else values
    names = np.array([f"s{i}" for i in range(300)], object)
    columns = {"sample_id": names, "group_id": names, "truth": truth.astype(np.int8), "log_odds": logit(values)}
    outcomes = Outcomes(multilabel.ZERO_SHOT, columns, {"classes": [f"class {k}" for k in range(14)]})
    found = {f.metric: f.interval.estimate for f in score(outcomes, multilabel.measure_zero_shot, 5) if f.interval}
    kind = "multi-label, binary-class"
    assert found[multilabel.AUC] == pytest.approx(medmnist.getAUC(truth, values, kind), abs=EXACT)
    assert found[multilabel.ACCURACY] == pytest.approx(medmnist.getACC(truth, values, kind), abs=EXACT)
