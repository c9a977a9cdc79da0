"""Both recipes: the losses of all shares add up to those of the whole batch, over any number of processes."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from mmkd_core.distill import align
from mmkd_core.distill.align import fit_alignment
from mmkd_core.distill.config import BankConfig, DistillConfig
from mmkd_core.distill.objective import Objective
from mmkd_core.distill.paper import PaperObjective
from mmkd_core.distill.run import warm_head
from mmkd_core.student.step import Share, losses_of

BATCH = np.array([7, 0, 3, 4, 9, 2, 11])


@pytest.fixture
def build(student, samples, bank, source, monkeypatch):
    monkeypatch.setattr(align, "STEPS", 2)

    def make(recipe, **parts):
        student.model.eval()  # so that a batch norm does not make samples see one another
        sources = [source("a", range(12)), source("b", [0, 2, 4, 9], dim=4), source("old", [3, 7], dim=16, heads=False)]
        config = DistillConfig(recipe=recipe, **parts, bank=BankConfig(per_step=3), crop=0.8)
        if recipe == "paper":
            scale = nn.ParameterDict({"cross": nn.Parameter(torch.tensor(2.0))})
            alignment = fit_alignment("autoencoder", sources, 16, seed=0)
            return PaperObjective(student, scale, alignment, sources, samples, lambda step: BATCH, config, 3)
        heads = {s.name: warm_head(student, s, samples)[0] for s in sources if s.heads}
        for head in heads.values():
            head.fuse(0)
        return Objective(student, heads, sources, samples, bank, lambda step: BATCH, config, 3)

    return make


ALL_TERMS = {"weights": {"crd": 1, "gd": 1, "afd": 1}, "teacher_balance": "dropping"}


@pytest.mark.parametrize(("recipe", "parts"), [("mmkd", {}), ("mmkd", ALL_TERMS), ("paper", {})])
@pytest.mark.parametrize("count", [2, 5])
def test_losses_of_all_shares_add_up(build, recipe, parts, count):
    objective = build(recipe, **parts)
    whole = losses_of(objective, 3)
    batches = [objective.batch(3, Share(i, count)) for i in range(count)]
    pieces = [objective.embed(batch, Share(j, 2)) for batch in batches for j in range(2)]
    embedded = tuple(torch.cat(tower) for tower in zip(*pieces, strict=True))
    parts = [objective.losses(batch, embedded) for batch in batches]
    assert all(part.keys() == whole.keys() for part in parts)
    for name, loss in whole.items():
        assert sum(part[name].item() for part in parts) == pytest.approx(loss.item(), rel=1e-5), name
