from __future__ import annotations

from copy import deepcopy
from functools import partial

import numpy as np
import pytest
import torch

from feature_store import FeatureStore
from mmkd_core.distill import paper
from mmkd_core.distill.config import BankConfig, DistillConfig
from mmkd_core.distill.run import distill, interpolate, warm_head
from mmkd_core.distill.sources import Source
from mmkd_core.student import training
from mmkd_core.student.model import Student
from mmkd_core.student.training import epoch_batch

ALL = list(range(12))
CONFIG = DistillConfig(steps=6, batch_size=6, warmup=1, lr=3e-3, precision="fp32", bank=BankConfig(per_step=3))
BATCHES = partial(epoch_batch, np.arange(12), 6, 0)


class KilledError(Exception):
    """Stands for a kill."""


def copy_of(student):
    return Student(deepcopy(student.model), student.tokenizer, student.model_config, student.preprocess)


@pytest.fixture
def teach(samples, bank, tmp_path):
    def run(student, sources, name, config=CONFIG, batches=BATCHES, **options):
        options = {"seed": 0, "identity": "x", "label": "distil"} | options
        return distill(student, sources, samples, bank, batches, config, tmp_path / name, **options)

    return run


def test_a_killed_run_ends_as_one_that_was_not(built, source, teach, monkeypatch):
    sources = [source("a", ALL), source("b", ALL[:7], dim=4)]
    whole, broken, resumed = (copy_of(built) for _ in range(3))
    taught = teach(whole, sources, "whole")

    monkeypatch.setattr(training, "CHECKPOINT_SECONDS", -1.0)

    def dies(step):
        if step == 3:
            raise KilledError
        return BATCHES(step)

    with pytest.raises(KilledError):
        teach(broken, sources, "broken", batches=dies)
    again = teach(resumed, sources, "broken")
    ours, theirs = whole.model.state_dict(), resumed.model.state_dict()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    assert again.log == taught.log
    assert again.fidelity == taught.fidelity
    for name, head in taught.heads.items():
        other = again.heads[name].state_dict()
        assert all(torch.equal(value, other[key]) for key, value in head.state_dict().items())


def test_student_and_heads_are_taught(built, source, teach, samples):
    student, teacher = copy_of(built), source("a", ALL)
    before, _ = warm_head(built, teacher, samples)
    taught = teach(student, [teacher], "run", CONFIG.model_copy(update={"steps": 25}))
    assert taught.log[-1]["loss"] < taught.log[0]["loss"]
    assert set(taught.log[0]) == {"step", "loss", "clip", "relation", "fd", "icl"}
    assert not torch.equal(taught.heads["a"].image.weight, before.image.weight)
    for tower in ("visual", "text"):
        ours, theirs = (getattr(s.model, tower).parameters() for s in (student, built))
        assert any(not torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))
    assert -1 <= taught.fidelity["a"] <= 1


def test_heads_of_earlier_teachers_are_kept_and_go_on(built, source, teach, samples):
    """An incremental run: the old head is not fitted again, and one without a source in this run is not touched."""
    old, new = source("old", ALL), source("new", ALL, dim=4)
    earlier = {"old": warm_head(built, old, samples)[0], "idle": warm_head(built, source("idle", ALL), samples)[0]}
    with torch.no_grad():
        earlier["old"].image.weight.fill_(0.25)
    idle = deepcopy(earlier["idle"].state_dict())
    taught = teach(copy_of(built), [old, new], "run", CONFIG.model_copy(update={"steps": 1, "lr": 1e-9}), heads=earlier)
    assert set(taught.heads) == {"old", "new", "idle"}
    assert set(taught.fidelity) == {"new"}
    torch.testing.assert_close(taught.heads["old"].image.weight, torch.full((6, 16), 0.25))
    assert all(torch.equal(value, idle[key]) for key, value in taught.heads["idle"].state_dict().items())


def test_who_may_not_have_a_head_has_none(built, source, teach):
    sources = [source("a", ALL), source("parent", ALL, heads=False), source("one", [3]), source("nobody", [])]
    taught = teach(copy_of(built), sources, "run", CONFIG.model_copy(update={"steps": 2}))
    assert set(taught.heads) == {"a"}


def test_freeze_norms(built, source, teach):
    student = copy_of(built)
    teach(student, [source("a", ALL)], "run", CONFIG.model_copy(update={"steps": 2}), freeze_norms=True)
    norms = [m for m in student.model.modules() if isinstance(m, torch.nn.BatchNorm2d)]
    assert norms
    assert all(int(m.num_batches_tracked) == 0 for m in norms)


def test_warm_head_fits_trusted_samples_only(built, source, samples):
    teacher = source("a", ALL[:8])
    one, _ = warm_head(built, teacher, samples)
    for tower in teacher.store.features.values():
        tower[8:] = 50
    two, _ = warm_head(built, teacher, samples)
    assert all(torch.equal(value, two.state_dict()[key]) for key, value in one.state_dict().items())
    assert torch.equal(one.normalisers["image"].mean, two.normalisers["image"].mean)


def test_the_papers_recipe_leaves_no_heads(built, source, teach, monkeypatch):
    monkeypatch.setattr(paper, "ALIGN_STEPS", 5)
    student = copy_of(built)
    config = CONFIG.model_copy(update={"recipe": "paper", "steps": 3})
    taught = teach(student, [source("a", ALL), source("b", ALL[:5], dim=4)], "run", config)
    assert (taught.heads, taught.fidelity) == ({}, {})
    assert {"clip", "fd", "icl"} <= set(taught.log[0])


@pytest.mark.parametrize("recipe", ["mmkd", "paper"])
def test_features_from_a_real_store(built, source, teach, tmp_path, monkeypatch, recipe):
    """Also the sizes that a store could refuse: batches in which a teacher counts for nobody."""
    monkeypatch.setattr(paper, "ALIGN_STEPS", 2)
    memory = source("a", [1, 2])
    with FeatureStore.open(tmp_path / "store", "w") as store:
        for tower in ("image", "text"):
            rows = store.add_ids(tower, [f"{i}" for i in ALL])
            store.put("f" * 32, tower, rows, memory.store.features[tower], dtype="float32")
    config = CONFIG.model_copy(update={"recipe": recipe, "steps": 3, "batch_size": 4})
    batches = [np.array([0, 3, 4, 5]), np.array([1, 2, 3, 4]), np.array([1, 7, 8, 9])]
    logs = []
    with FeatureStore.open(tmp_path / "store") as store:
        for kept in (memory.store, store):
            teacher = Source(**{**vars(memory), "store": kept})
            logs.append(teach(copy_of(built), [teacher], f"run {len(logs)}", config, batches=batches.__getitem__).log)
    assert logs[0] == logs[1]


@pytest.mark.parametrize("keep", [0.0, 0.25, 1.0])
def test_interpolation_is_linear_in_every_weight_and_spares_the_parent(built, keep):
    parent, child = copy_of(built), copy_of(built)
    with torch.no_grad():
        for parameter in child.model.parameters():
            parameter.add_(1.0)
    before = deepcopy(parent.model.state_dict())
    interpolate(child, parent, keep)
    for name, value in child.model.named_parameters():
        torch.testing.assert_close(value, before[name] + (1 - keep), rtol=0, atol=1e-5)
    for name, value in parent.model.state_dict().items():
        assert torch.equal(value, before[name])
