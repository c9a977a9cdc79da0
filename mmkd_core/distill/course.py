"""What accompanies a run of stage 2 from step to step: the forgetting budget and the running average of weights.

A module, because both have a state that a checkpoint must hold; a run that was killed goes on with the same
multipliers and the same average.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn

from mmkd_core.distill.averaging import Kind, RunningAverage
from mmkd_core.distill.bank import Bank
from mmkd_core.distill.budget import Budget, Watch, named
from mmkd_core.distill.config import BudgetConfig
from mmkd_core.distill.objective import Samples
from mmkd_core.distill.sources import Source
from mmkd_core.student.batches import Rows
from mmkd_core.student.model import Student
from mmkd_core.student.pretrain import clamp_logit_scale
from mmkd_core.student.training import Remark


class Course(nn.Module):
    """Called after every step.

    Args:
        averaged: of what is trained, what is averaged. Heads of earlier teachers are not: they hardly move, and a step
            must not take longer for all of them.
        average: how.
        steps: of the whole run.
        watch: measures what is forgotten; nothing is watched if left out.
    """

    def __init__(
        self,
        student: Student,
        averaged: nn.Module,
        average: Kind,
        steps: int,
        watch: Watch | None = None,
        config: BudgetConfig | None = None,
    ) -> None:
        super().__init__()
        self.student, self.watch, self.config = student, watch, config or BudgetConfig()
        self._told = False
        strata = watch.strata if watch else []
        parent = watch.everywhere() if watch else torch.zeros(0)
        self.budget = Budget(strata, parent, watch.ignorant if watch else torch.zeros(0), self.config)
        self.steps = steps
        self.average = RunningAverage(averaged, average, steps) if average != "none" else None

    def __call__(self, done: int) -> Remark | None:
        """Take in the weights after step ``done`` (counted from 1)."""
        clamp_logit_scale(self.student)
        if self.average is not None:
            self.average.update()
        if self.watch is None or not self.budget.strata:
            return None
        return self._remark(done, self._check(done) if done % self.config.every == 0 else [])

    def _check(self, done: int) -> list[str]:
        """What is to be said of a check: the first bound of a run that is broken. The progress line names the worst."""
        assert self.watch
        places = self.watch.turn(done // self.config.every - 1)
        broken = self.budget.update(places, self.watch.losses(places), done)
        if not broken or self._told:
            return []
        self._told = True
        name = named(broken[0])
        facts = self.budget.facts()[name]
        return [
            f"{name} is beyond its bound, its loss is {facts['loss']:.3f} of at most {facts['bound']:.3f}; "
            "replay of what breaks its bound weighs more until it keeps it (usual while the learning rate is high)"
        ]

    def _remark(self, done: int, warnings: list[str]) -> Remark:
        worst = self.budget.worst()
        assert worst
        stratum, ratio = worst
        heaviest = float(self.budget.multiplier.max())
        facts = {"forgetting": round(ratio, 4), "multiplier": round(heaviest, 4)}
        note = f"{named(stratum)} at {ratio:.2f} of its bound" if ratio > 1 else ""
        lost = self.budget.lost(done, self.steps)
        stop = ""
        if lost:
            share = f"{100 * self.config.patience:.0f} % of the steps"
            stop = f"stopped early, because the student knew nothing of {named(lost)} any more for {share}"
        return Remark(facts, note, tuple(warnings), stop)

    def finish(self) -> None:
        """Leave the averaged weights in what was trained, if they are averaged."""
        if self.average is not None:
            self.average.into_model()

    def verdict(self) -> str:
        """Look at every stratum once more, with the weights that are kept; what there is to say of it."""
        if self.watch is None or not self.budget.strata:
            return ""
        self.budget.level.copy_(self.watch.everywhere())
        ratio = self.budget.ratio
        broken = [place for place in ratio.argsort(descending=True).tolist() if ratio[place] > 1]
        if not broken:
            return f"all {len(ratio)} bounds of the forgetting budget are kept"
        worst = ", ".join(f"{named(self.budget.strata[place])} {ratio[place]:.2f}" for place in broken[:3])
        return (
            f"{len(broken)} of {len(ratio)} bounds of the forgetting budget are broken at the end, "
            f"loss over bound: {worst} (the audit decides whether anything was lost)"
        )


def urgent(sources: Sequence[Source], budget: Budget, samples: Samples, bank: Bank) -> list[Source]:
    """The sources, with the rows of each stratum weighing what the budget says."""

    def weigh(teacher: str) -> Callable[[Rows], Tensor]:
        def urgency(index: Rows) -> Tensor:
            by_domain = torch.tensor([*(budget.weight((teacher, domain)) for domain in bank.domains), 1.0])
            return by_domain[samples.domain[torch.from_numpy(index)]]  # domain -1, without a bank, is the last place

        return urgency

    watched = {teacher for teacher, _ in budget.strata}
    return [replace(source, urgency=weigh(source.name)) if source.name in watched else source for source in sources]
