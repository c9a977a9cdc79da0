"""Multi-label domains: each finding is a choice of two, and a domain of one finding is one of two classes."""

from pathlib import Path

import numpy as np
import pytest
from sklearn.metrics import balanced_accuracy_score, roc_auc_score

from mmkd_core.data.captions import absent_prompts
from mmkd_core.data.manifest import Corpus
from mmkd_core.errors import DataError
from mmkd_core.evaluate.metrics import METRICS
from mmkd_core.evaluate.predictions import DomainPredictions, Predictions
from mmkd_core.evaluate.summary import status, summarise
from mmkd_core.evaluate.zero_shot import class_texts, embedded_classes, sentences, zero_shot
from mmkd_core.statistics import GroupBootstrap


def column(values):
    result = np.empty(len(values), dtype=object)
    for i, value in enumerate(values):
        result[i] = value
    return result


def part(findings, logits, classes):
    names = column([f"s{i}" for i in range(len(findings))])
    groups = column([f"p{i // 2}" for i in range(len(findings))])
    return DomainPredictions.build(names, groups, column(findings), np.array(logits, float), classes)


CLASSES = ("edema", "mass")
FOUR = part(
    [("edema",), (), ("edema", "mass"), ("mass",)],
    [[2.0, -1.0], [-3.0, -2.0], [-1.0, 4.0], [-2.0, -0.5]],
    CLASSES,
)


def test_by_hand():
    assert FOUR.multilabel
    assert FOUR.truth.tolist() == [[True, False], [False, False], [True, True], [False, True]]
    assert FOUR.choice.tolist() == [[True, False], [False, False], [False, True], [False, False]]
    assert FOUR.right.tolist() == [True, True, False, False]
    assert FOUR.hits.tolist() == [1, 1, 0.5, 0.5]
    assert FOUR.answers() == ["edema", "none of them", "mass", "none of them"]
    sure = 1 / (1 + np.exp([-1.0, -2.0, -1.0, -0.5]))
    np.testing.assert_allclose(FOUR.sure, sure)
    assert FOUR.auc() == pytest.approx((1 + 1) / 2)  # edema: 2, -1 above -3, -2; mass: 4, -0.5 above -1, -2
    assert FOUR.balanced_accuracy() == pytest.approx((3 / 4 + 3 / 4) / 2)
    probability = 1 / (1 + np.exp(-FOUR.logits))
    assert FOUR.brier() == pytest.approx(2 * ((probability - FOUR.truth) ** 2).mean())


def random(n, seed):
    rng = np.random.default_rng(seed)
    there = rng.random((n, 3)) < [0.5, 0.2, 0.1]
    there[:2] = [[True] * 3, [False] * 3]
    names = np.array(["a", "b", "c"], object)
    return part([tuple(names[row]) for row in there], rng.normal(size=(n, 3)) + there, ("a", "b", "c"))


def test_figures_are_means_of_those_of_scikit_learn():
    found = random(200, 0)
    columns = list(zip(found.truth.T, found.logits.T, strict=True))
    assert found.auc() == pytest.approx(np.mean([roc_auc_score(true, said) for true, said in columns]))
    expected = np.mean([balanced_accuracy_score(true, said > 0) for true, said in columns])
    assert found.balanced_accuracy() == pytest.approx(expected)


@pytest.mark.parametrize("name", list(METRICS))
def test_one_finding_has_the_figures_of_two_classes(name):
    rng = np.random.default_rng(1)
    logit, there = rng.normal(size=60), np.arange(60) % 3 == 0
    one = part([("ill",) if yes else () for yes in there], logit[:, None], ("ill",))
    two = part(["ill" if yes else "well" for yes in there], np.stack([logit / 2, -logit / 2], axis=1), ("ill", "well"))
    metric, bootstrap = METRICS[name], GroupBootstrap(one.group_id, 40, 0)
    assert metric.estimate(one) == pytest.approx(metric.estimate(two))
    np.testing.assert_allclose(metric.draws(one, bootstrap), metric.draws(two, bootstrap))


@pytest.mark.parametrize("name", list(METRICS))
@pytest.mark.parametrize("several", [True, False])
def test_resamples_are_those_of_samples_copied_out(name, several):
    if several:
        found = random(80, 2)
    else:
        rng = np.random.default_rng(3)
        found = part([("a", "b", "c")[i] for i in rng.integers(0, 3, 80)], rng.normal(size=(80, 3)), ("a", "b", "c"))
    metric, bootstrap = METRICS[name], GroupBootstrap(found.group_id, 12, 4)
    drawn = metric.draws(found, bootstrap)
    weights = np.concatenate([times for _, times in bootstrap.weights()], axis=1).T.astype(int)
    for value, times in zip(drawn, weights, strict=True):
        assert value == pytest.approx(metric.estimate(found.take(np.repeat(np.arange(80), times))), abs=1e-9)


def test_a_finding_that_all_or_none_have_is_left_out_and_said():
    found = part([("edema",), ()], [[1.0, 1.0], [0.0, 0.0]], CLASSES)
    assert found.auc() == 1
    assert status(found) == "over 1 of 2 labels: all samples or none have mass"
    none = part([(), ()], [[1.0, 1.0], [0.0, 0.0]], CLASSES)
    assert none.auc() is None
    assert none.balanced_accuracy() is None
    assert status(none) == "undefined: each of the 2 labels is on all samples or on none"


def test_a_file_gives_back_both_kinds(tmp_path):
    single = part(["x", "y", "x"], np.eye(3)[:, :2], ("x", "y"))
    Predictions({"xray": FOUR, "ct": single}, "p@1").save(tmp_path / "p.parquet")
    again = Predictions.load(tmp_path / "p.parquet")
    assert again["xray"].label.tolist() == FOUR.label.tolist()
    np.testing.assert_array_equal(again["xray"].truth, FOUR.truth)
    np.testing.assert_array_equal(again["xray"].logits, FOUR.logits)
    assert again["ct"].label.tolist() == ["x", "y", "x"]
    assert not again["ct"].multilabel
    assert summarise(again, resamples=20).domains["xray"].auc.estimate == FOUR.auc()
    with pytest.raises(DataError, match="the label 'ghost' is none of the classes edema, mass"):
        part([("ghost",)], [[0, 0]], CLASSES)


def corpus():
    rows = [
        {"image": f"{i}", "image_id": f"i{i}", "caption": "c", "domain": domain, "group_id": f"p{i}", "split": "test"}
        | known
        for i, (domain, known) in enumerate(
            [
                ("xray", {"labels": ("mass",)}),
                ("ct", {"label": "cyst"}),
                ("xray", {"labels": ()}),
                ("xray", {}),
                ("ct", {"label": "normal"}),
            ]
        )
    ]
    prompts = {"xray": {"edema": ("e",), "mass": ("m", "mm")}, "ct": {"cyst": ("y",), "normal": ("n",)}}
    return Corpus.build(Path("/nowhere"), rows, prompts)


def test_zero_shot_compares_what_says_that_a_finding_is_there_with_what_says_that_it_is_not():
    data, rng = corpus(), np.random.default_rng(5)
    absent = [absent_prompts("xray", label) for label in ("edema", "mass")]
    assert sentences(data, "xray") == [[("e",), ("m", "mm")], absent]
    assert sentences(data, "ct") == [[("y",), ("n",)]]
    texts = class_texts(data)
    assert set(texts) == {"e", "m", "mm", "y", "n", *absent[0], *absent[1]}
    vectors = {text: rng.normal(size=8) for text in texts}
    classes = embedded_classes(data, lambda asked: np.stack([vectors[text] for text in asked]))
    images = rng.normal(size=(5, 8))
    found = zero_shot(images, classes, 10.0, data)
    assert found["xray"].sample_id.tolist() == data.sample_id[[0, 2]].tolist()
    assert found["xray"].label.tolist() == [("mass",), ()]

    def mean(asked):
        total = np.sum([vectors[text] / np.linalg.norm(vectors[text]) for text in asked], axis=0)
        return total / np.linalg.norm(total)

    image = images[2] / np.linalg.norm(images[2])
    expected = 10 * image @ (mean(("m", "mm")) - mean(absent[1]))
    assert found["xray"].logits[1, 1] == pytest.approx(expected, abs=1e-5)
    assert not found["ct"].multilabel
