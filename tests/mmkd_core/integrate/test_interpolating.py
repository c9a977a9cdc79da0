from __future__ import annotations

from copy import deepcopy
from pathlib import Path

import numpy as np
import pytest
import torch

from mmkd_core.audit.gate import Gate
from mmkd_core.data.manifest import Corpus
from mmkd_core.evaluate.predictions import DomainPredictions, Predictions
from mmkd_core.integrate import interpolating
from mmkd_core.integrate.interpolating import largest_step
from mmkd_core.student.config import StudentConfig, TextConfig
from mmkd_core.student.model import Student

TINY = StudentConfig(
    image_size=32, embed_dim=8, text=TextConfig(vocab_size=64, context_length=8, width=16, heads=2, layers=1)
)


@pytest.fixture(scope="module")
def student() -> Student:
    torch.set_num_threads(1)
    return Student.build(TINY, ["a lesion", "no finding"], seed=0)


@pytest.fixture(scope="module")
def corpus() -> Corpus:
    return Corpus.build(Path("nowhere"), [], {})


def ends(student: Student) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    parent = deepcopy(student.model.state_dict())
    candidate = {name: value + 1 if name == "logit_scale" else value for name, value in parent.items()}
    return parent, candidate


def predictions(wrong: float, n: int = 200) -> Predictions:
    """One domain with two classes, of which a share of the samples is wrong: AUC is 1 minus about that share."""
    truth = np.arange(n) % 2
    score = np.where(truth == 1, 0.9, 0.1) + np.linspace(0, 0.05, n)
    flipped = np.arange(n) < round(wrong * n)
    score = np.where(flipped, 1 - score, score)
    names = np.array([f"{i}" for i in range(n)], object)
    labels = np.array(["no" if t == 0 else "yes" for t in truth], object)
    part = DomainPredictions.build(names, names, labels, np.stack([1 - score, score], axis=1), ("no", "yes"))
    return Predictions({"ct": part}, "test@1")


def scripted(monkeypatch, student, parent, wrong):
    """``wrong`` says from a step how many predictions are wrong there; returns the steps that were asked for."""
    asked = []

    def predict(model, corpus, pixels, split):
        assert split == "val"
        step = round(float(model.model.logit_scale.detach() - parent["logit_scale"]), 4)
        asked.append(step)
        return predictions(wrong(step))

    monkeypatch.setattr(interpolating, "predict", predict)
    return asked


def run(student, parent, candidate, corpus, loss=0.004, **options):
    pixels = np.empty((0, 32, 32, 3), np.uint8)
    return largest_step(student, parent, candidate, corpus, pixels, Gate(resamples=200), loss, **options)


def test_the_boldest_step_that_loses_nothing_is_taken(monkeypatch, student, corpus):
    parent, candidate = ends(student)
    asked = scripted(monkeypatch, student, parent, lambda step: 0.2 if step > 0.6 else 0.0)
    found = run(student, parent, candidate, corpus)
    assert found.size == 0.5
    assert asked == [0.0, 1.0, 0.8, 0.65, 0.5], "bolder ones first, and none after"
    assert float(student.model.logit_scale.detach() - parent["logit_scale"]) == pytest.approx(0.5)
    assert found.tried["1"]["verdict"] == "FAIL"
    assert found.tried["0.5"]["delta"] == 0
    assert student.model.load_state_dict(parent)


def test_a_loss_that_the_audit_leaves_open_is_refused_too(monkeypatch, student, corpus):
    parent, candidate = ends(student)
    scripted(monkeypatch, student, parent, lambda step: 0.02 if step > 0.3 else 0.0)
    found = run(student, parent, candidate, corpus)
    assert found.size == 0.2
    assert found.tried["1"]["verdict"] != "FAIL"
    assert run(student, parent, candidate, corpus, loss=0.05).size == 1.0
    student.model.load_state_dict(parent)


def test_where_every_step_loses_the_parent_is_left(monkeypatch, student, corpus):
    parent, candidate = ends(student)
    scripted(monkeypatch, student, parent, lambda step: 0.3 if step else 0.0)
    found = run(student, parent, candidate, corpus, steps=(0.5, 0.25))
    assert found.size == 0
    assert list(found.tried) == ["0.5", "0.25"]
    assert all(torch.equal(value, parent[name]) for name, value in student.model.state_dict().items())


def test_a_validation_split_that_says_nothing_leaves_the_student_half_way(monkeypatch, student, corpus):
    """Two images of one class have no AUC: what was trained is not thrown away for it."""
    parent, candidate = ends(student)
    alike = Predictions({"ct": predictions(0.0)["ct"].take(np.array([0, 2]))}, "test@1")
    monkeypatch.setattr(interpolating, "predict", lambda *_: alike)
    found = run(student, parent, candidate, corpus)
    assert (found.size, found.tried) == (0.5, {})
    moved = float(student.model.logit_scale.detach() - parent["logit_scale"])
    assert moved == pytest.approx(0.5, abs=1e-6)
