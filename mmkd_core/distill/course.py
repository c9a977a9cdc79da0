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
from mmkd_core.distill.replay import UNTAUGHT, Mask
from mmkd_core.distill.sources import Rows, Source
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
        # Plain attributes: what is trained is in the checkpoint already.
        self._averaged = [averaged]
        strata = watch.strata if watch else []
        parent = watch.losses(range(len(strata))) if watch else torch.zeros(0)
        self.budget = Budget(strata, parent, self.config)
        self.average = RunningAverage(averaged, average, steps) if average != "none" else None

    def __call__(self, done: int) -> Remark | None:
        """Take in the weights after step ``done`` (counted from 1)."""
        clamp_logit_scale(self.student)
        if self.average is not None:
            self.average.update(self._averaged[0])
        if self.watch is None or not self.budget.strata:
            return None
        return self._remark(self._check(done) if done % self.config.every == 0 else [])

    def _check(self, done: int) -> list[str]:
        assert self.watch
        places = self.watch.turn(done // self.config.every - 1)
        broken = self.budget.update(places, self.watch.losses(places))
        facts = self.budget.facts()
        return [
            f"{name} is being forgotten: its loss is {facts[name]['loss']:.3f}, of at most {facts[name]['bound']:.3f}; "
            "its replay weighs more from here on"
            for name in map(named, broken)
        ]

    def _remark(self, warnings: list[str]) -> Remark:
        worst = self.budget.worst()
        assert worst
        stratum, ratio = worst
        heaviest = float(self.budget.multiplier.max())
        facts = {"forgetting": round(ratio, 4), "multiplier": round(heaviest, 4)}
        note = f"{named(stratum)} at {ratio:.2f} of its bound" if ratio > 1 else ""
        lost = self.budget.lost()
        stop = ""
        if lost:
            many = self.config.patience
            stop = f"stopped early, because {named(lost)} was far above its bound {many} checks in a row"
        return Remark(facts, note, tuple(warnings), stop)

    def finish(self) -> None:
        """Leave the averaged weights in what was trained, if they are averaged."""
        if self.average is not None:
            self.average.put_into(self._averaged[0])


def urgent(
    sources: Sequence[Source], budget: Budget, untaught: Mask, samples: Samples, bank: Bank, parent: str
) -> list[Source]:
    """The sources, with the rows of each stratum weighing what the budget says.

    Args:
        untaught: (N,) samples that nobody taught; there the parent (of that name) stands for the captions.
    """
    free = torch.from_numpy(untaught)

    def weigh(teacher: str, only: Tensor | None) -> Callable[[Rows], Tensor]:
        def urgency(index: Rows) -> Tensor:
            rows = torch.from_numpy(index)
            by_domain = torch.tensor([*(budget.weight((teacher, domain)) for domain in bank.domains), 1.0])
            weights = by_domain[samples.domain[rows]]  # domain -1, without a bank, is the last place
            return weights if only is None else torch.where(only[rows], weights, 1.0)

        return urgency

    watched = {teacher for teacher, _ in budget.strata}
    return [
        replace(source, urgency=weigh(UNTAUGHT, free))
        if source.name == parent
        else replace(source, urgency=weigh(source.name, None))
        if source.name in watched
        else source
        for source in sources
    ]
