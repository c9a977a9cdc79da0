"""What a run did is read off its steps: which samples were drawn, and how many each source taught."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from mmkd_core.distill import align
from mmkd_core.distill.config import BankConfig, DistillConfig
from mmkd_core.distill.lessons import lessons
from mmkd_core.distill.objective import Objective
from mmkd_core.distill.run import distill, warm_head

BATCHES = [np.array([0, 1, 2]), np.array([2, 3, 4]), np.array([9, 10, 11])]
WHOLE = list(range(12))


@pytest.fixture
def sources(source):
    every_other_step = replace(source("turns", [0, 2, 3, 10], dim=4), turn=lambda step: step % 2 == 0)
    return [source("a", [1, 2, 3, 4, 5]), every_other_step, source("parent", [0, 9], heads=False)]


def test_a_sample_counts_once_and_only_where_its_source_has_its_turn(student, sources, samples, bank):
    def taught(steps, **weights):
        heads = {s.name: warm_head(student, s, samples)[0] for s in sources if s.heads}
        config = DistillConfig(weights=weights, bank=BankConfig(per_step=3))
        objective = Objective(student, heads, sources, samples, bank, BATCHES.__getitem__, config, 0)
        return lessons(objective, sources, BATCHES.__getitem__, steps)

    first, second, third = taught(1), taught(2), taught(3)
    assert first.taught == {"a": 2, "turns": 2, "parent": 1}
    assert second.taught == {"a": 4, "turns": 2, "parent": 1}, "2 and 3 are the teacher's, but it has no turn"
    assert third.taught == {"a": 4, "turns": 3, "parent": 2}
    assert np.flatnonzero(second.drawn).tolist() == [0, 1, 2, 3, 4]
    captions_alone = taught(3, fd=0, icl=0, relation=0)
    assert captions_alone.taught == {"a": 0, "turns": 0, "parent": 0}, "nobody is asked"
    assert captions_alone.drawn.sum() == 8


@pytest.mark.parametrize("recipe", ["mmkd", "paper"])
def test_a_run_leaves_what_it_did(student, source, samples, bank, tmp_path, monkeypatch, recipe):
    monkeypatch.setattr(align, "STEPS", 2)
    config = DistillConfig(recipe=recipe, steps=3, batch_size=3, warmup=1, bank=BankConfig(per_step=3))
    given = [source("a", WHOLE[:6]), source("b", WHOLE[:3], dim=4)]
    found = distill(
        student, given, samples, bank, BATCHES.__getitem__, config, tmp_path, seed=0, identity="x", label="x"
    )
    assert found.steps == 3
    assert np.flatnonzero(found.lessons.drawn).tolist() == [0, 1, 2, 3, 4, 9, 10, 11]
    if recipe == "mmkd":
        assert found.lessons.taught == {"a": 5, "b": 3}
    else:  # one teacher for each sample of a step; sample 2 comes twice
        both = found.lessons.taught
        assert 5 <= both["a"] + both["b"] <= 6
        assert both["b"] <= 3
