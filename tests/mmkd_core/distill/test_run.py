from __future__ import annotations

from copy import deepcopy
from functools import partial
from itertools import count

import numpy as np
import pytest
import torch

from feature_store import FeatureStore
from mmkd_core.distill import align
from mmkd_core.distill.budget import Watch
from mmkd_core.distill.config import BankConfig, BudgetConfig, DistillConfig, IncrementalConfig
from mmkd_core.distill.run import Earlier, distill, warm_head
from mmkd_core.distill.sources import Source
from mmkd_core.progress import Silent
from mmkd_core.student import checkpoint
from mmkd_core.student.batches import Epochs
from mmkd_core.student.model import Student

ALL = list(range(12))
CONFIG = DistillConfig(steps=6, batch_size=6, warmup=1, lr=3e-3, precision="fp32", bank=BankConfig(per_step=3))
BATCHES = partial(Epochs(np.arange(12), 0).batch, size=6)


def known(heads):
    """Earlier heads, and nothing to watch."""
    return Earlier(heads, {})


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

    monkeypatch.setattr(checkpoint, "SECONDS", -1.0)

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
    taught = teach(
        copy_of(built),
        [old, new],
        "run",
        CONFIG.model_copy(update={"steps": 1, "lr": 1e-9}),
        earlier=known(earlier),
    )
    assert set(taught.heads) == {"old", "new", "idle"}
    assert set(taught.fidelity) == {"new"}
    torch.testing.assert_close(taught.heads["old"].image.weight, torch.full((6, 16), 0.25))
    assert all(torch.equal(value, idle[key]) for key, value in taught.heads["idle"].state_dict().items())


def test_who_may_not_have_a_head_has_none(built, source, teach):
    sources = [source("a", ALL), source("parent", ALL, heads=False), source("one", [3]), source("nobody", [])]
    taught = teach(copy_of(built), sources, "run", CONFIG.model_copy(update={"steps": 2}))
    assert set(taught.heads) == {"a"}


@pytest.mark.parametrize("norms", ["learn", "keep"])
def test_batch_norms_of_an_integration(built, source, teach, norms):
    student = copy_of(built)
    config = IncrementalConfig(**CONFIG.model_dump() | {"steps": 2}, norms=norms)
    teach(student, [source("a", ALL)], "run", config, earlier=known({}))
    seen = [int(m.num_batches_tracked) for m in student.model.modules() if isinstance(m, torch.nn.BatchNorm2d)]
    assert seen
    assert all(seen) is (norms == "learn")


def test_warm_head_fits_trusted_samples_only(built, source, samples):
    teacher = source("a", ALL[:8])
    one, _ = warm_head(built, teacher, samples)
    for tower in teacher.store.features.values():
        tower[8:] = 50
    two, _ = warm_head(built, teacher, samples)
    assert all(torch.equal(value, two.state_dict()[key]) for key, value in one.state_dict().items())
    assert torch.equal(one.normalisers["image"].mean, two.normalisers["image"].mean)


def test_the_papers_recipe_leaves_no_heads(built, source, teach, monkeypatch):
    monkeypatch.setattr(align, "STEPS", 5)
    student = copy_of(built)
    config = CONFIG.model_copy(update={"recipe": "paper", "steps": 3})
    taught = teach(student, [source("a", ALL), source("b", ALL[:5], dim=4)], "run", config)
    assert (taught.heads, taught.fidelity) == ({}, {})
    assert {"clip", "fd", "icl"} <= set(taught.log[0])


PARTS = [
    {"heads": "mlp"},
    {"aligner": "none", "teacher_balance": "dispersion"},
    {"teacher_balance": "dropping", "fd": "mse"},
    {"weights": {"crd": 1, "gd": 1, "afd": 1}},
    {"recipe": "paper", "aligner": "procrustes", "fd": "cosine"},
    {"recipe": "paper-published", "aligner": "linear"},
]


@pytest.mark.parametrize("parts", PARTS, ids=lambda parts: "-".join(map(str, parts)))
def test_every_part_can_be_exchanged_and_learns(built, source, teach, parts):
    sources = [source("a", ALL), source("b", ALL[:7], dim=4)]
    config = DistillConfig(**{**dict(CONFIG), "steps": 12} | parts)
    one, two = (teach(copy_of(built), sources, name, config) for name in ("one", "two"))
    assert one.log == two.log  # whatever is drawn is a function of the seed
    assert one.log[-1]["loss"] < one.log[0]["loss"]
    assert set(one.log[0]) - {"step", "loss"} == {
        name for name in type(config.factors).model_fields if getattr(config.factors, name) and name != "untaught"
    }


def test_heads_of_an_earlier_release_learn_to_fuse(built, source, teach):
    first = teach(copy_of(built), [source("a", ALL)], "one")
    assert first.heads["a"].fusion is None
    config = CONFIG.model_copy(update={"weights": {"afd": 1}})
    second = teach(copy_of(built), [source("a", ALL)], "two", config, earlier=known(first.heads))
    assert second.heads["a"].fusion is not None
    assert second.log[-1]["afd"] < second.log[0]["afd"]


@pytest.mark.parametrize("recipe", ["mmkd", "paper"])
def test_features_from_a_real_store(built, source, teach, tmp_path, monkeypatch, recipe):
    """Also the sizes that a store could refuse: batches in which a teacher counts for nobody."""
    monkeypatch.setattr(align, "STEPS", 2)
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


INCREMENTAL = IncrementalConfig(
    **CONFIG.model_dump() | {"steps": 8, "average": "tail"},
    heads_first=0.25,
    norms="keep",
    budget=BudgetConfig(rise=0.0, slack=1e-6, every=2, rows=4, rows_per_check=8, rate=50.0, patience=1.0),
)


def earlier_of(built, source, samples):
    """An old teacher with a head, another one without, a new teacher, and what is watched."""
    old, other = source("old", ALL[:8]), source("other", ALL, dim=4, heads=False)
    heads = {"old": warm_head(built, old, samples)[0]}
    watched = {("old", "ct"): np.array([0, 2]), ("old", "xray"): np.array([1, 3]), ("other", "ct"): np.array([10])}
    sources = [source("new", ALL[6:10], dim=5), old, other]
    return sources, lambda: Earlier(deepcopy(heads), watched)


def test_a_killed_integration_ends_as_one_that_was_not(built, source, samples, teach, monkeypatch):
    """Multipliers, the average of the weights and the phase of the heads are where they were."""
    sources, earlier = earlier_of(built, source, samples)
    whole, broken, resumed = (copy_of(built) for _ in range(3))
    taught = teach(whole, sources, "whole", INCREMENTAL, earlier=earlier())
    assert max(entry["multiplier"] for entry in taught.budget.values()) > 0, "a budget of no effect shows nothing"

    monkeypatch.setattr(checkpoint, "SECONDS", -1.0)

    def dies(step):
        if step == 7:
            raise KilledError
        return BATCHES(step)

    with pytest.raises(KilledError):
        teach(broken, sources, "broken", INCREMENTAL, batches=dies, earlier=earlier())
    again = teach(resumed, sources, "broken", INCREMENTAL, earlier=earlier())
    ours, theirs = whole.model.state_dict(), resumed.model.state_dict()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    assert again.log == taught.log
    assert again.budget == taught.budget
    assert set(taught.log[-1]) >= {"forgetting", "multiplier"}


def test_the_budget_that_is_kept_is_that_of_the_weights_that_are_kept(built, source, samples, bank, teach):
    sources, earlier = earlier_of(built, source, samples)
    student, config = copy_of(built), INCREMENTAL.model_copy(update={"steps": 16})
    taught = teach(student, sources, "run", config, earlier=earlier())
    watch = earlier().watch(student, sources, samples, bank, config.budget)
    assert list(taught.budget) == ["old/ct", "other/ct", "old/xray"]
    losses = watch.losses(range(3)).tolist()
    assert [entry["loss"] for entry in taught.budget.values()] == pytest.approx(losses, abs=1e-4)


def test_at_first_only_heads_learn(built, source, samples, teach):
    sources, earlier = earlier_of(built, source, samples)
    student, known = copy_of(built), earlier()
    before = deepcopy(known.heads["old"].state_dict())
    config = INCREMENTAL.model_copy(update={"steps": 3, "heads_first": 1.0, "average": "none"})
    taught = teach(student, sources, "run", config, earlier=known)
    ours, theirs = student.model.state_dict(), built.model.state_dict()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    assert not torch.equal(taught.heads["old"].image.weight, before["image.weight"])
    taught = teach(student, sources, "run 2", config.model_copy(update={"heads_first": 0.0}), earlier=earlier())
    assert not torch.equal(student.model.logit_scale, built.model.logit_scale)


def test_training_stops_when_something_is_being_lost(built, source, samples, teach, monkeypatch):
    """What was learnt before is lost a little more at every look."""
    sources, earlier = earlier_of(built, source, samples)
    looks = count(1)
    monkeypatch.setattr(Watch, "losses", lambda watch, places: torch.full((len(places),), 10.0 * next(looks)))
    budget = INCREMENTAL.budget.model_copy(update={"patience": 0.1})
    config = INCREMENTAL.model_copy(update={"budget": budget, "steps": 40})
    said = []

    class Heard(Silent):
        def say(self, line):
            said.append(line)

    taught = teach(copy_of(built), sources, "run", config, earlier=earlier(), progress=Heard())
    assert taught.log[-1]["step"] < 40
    assert sum("is beyond its bound" in line for line in said) == 1
    stop, verdict = said[-2:]
    assert "stopped early" in stop
    assert "bounds of the forgetting budget are broken at the end" in verdict
    again = teach(copy_of(built), sources, "run", config, earlier=earlier())
    assert again.log == taught.log, "a run that stopped is over"


def test_a_first_distillation_can_average_too(built, source, teach):
    student = copy_of(built)
    teach(student, [source("a", ALL)], "run", CONFIG.model_copy(update={"average": "ema"}))
    norms = [m for m in student.model.modules() if isinstance(m, torch.nn.BatchNorm2d)]
    assert all(int(m.num_batches_tracked) == CONFIG.steps for m in norms), "measured anew, from as many batches"
