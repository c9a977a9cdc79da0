"""Weights between others: running averages along a run, mixtures of parent and candidate, and their batch norms.

A running average of the weights is steadier than the last ones. Uniform over the tail of a run it is stochastic weight
averaging (Izmailov et al. 2018, arXiv 1803.05407); exponential it is Polyak's. Between a model and its fine-tuned child
lies one that keeps most of what the child learnt and of what it lost (WiSE-FT, Wortsman et al. 2022, arXiv 2109.01903).

The running statistics of batch norms belong to weights. Where a run froze them, all weights on its way share them.
Elsewhere those of an average are measured anew, because the statistics of an average are no average of statistics.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.optim.swa_utils import update_bn

from mmkd_core.student.model import Student

Kind = Literal["none", "tail", "ema"]
TAIL = 0.25
"""Share of the steps, at their end, that a tail average covers."""
WINDOW = 0.1
"""Share of the steps after which what an exponential average remembers has fallen to 1 / e."""
Weights = Mapping[str, Tensor]


class RunningAverage(nn.Module):
    """The average of a model's weights along a run; a checkpoint that holds this module holds all it knows.

    What ``torch.optim.swa_utils.AveragedModel`` computes, without its walk through all modules at every step: that was
    6 % of a small student's.

    Args:
        model: whose parameters are averaged. Nothing of it is registered here.
        steps: of the whole run.
    """

    step: Tensor

    def __init__(self, model: nn.Module, kind: Literal["tail", "ema"], steps: int) -> None:
        super().__init__()
        self.kind, self.decay = kind, 1 - 1 / max(1.0, WINDOW * steps)
        self.start = steps - max(1, round(TAIL * steps)) if kind == "tail" else 0
        self.weights: list[Tensor] = list(model.parameters())
        self.averaged = nn.ParameterList(nn.Parameter(p.detach().clone(), requires_grad=False) for p in self.weights)
        self.means: list[Tensor] = list(self.averaged)
        self.register_buffer("step", torch.zeros((), dtype=torch.int64))

    @torch.no_grad()
    def update(self) -> None:
        """Take in the weights after a step."""
        self.step += 1
        count = int(self.step) - self.start
        if count > 0:
            towards = 1.0 if count == 1 else 1 / count if self.kind == "tail" else 1 - self.decay
            torch._foreach_lerp_(self.means, self.weights, towards)

    @torch.no_grad()
    def into_model(self) -> None:
        """Give the model the averaged weights; before the first one it stays as it is. Its buffers stay."""
        if int(self.step) > self.start:
            for mine, theirs in zip(self.means, self.weights, strict=True):
                theirs.copy_(mine)


@torch.no_grad()
def mix(student: Student, parent: Weights, candidate: Weights, step: float) -> None:
    """Put ``parent + step * (candidate - parent)`` into ``student``; 0 and 1 give the two themselves, bit for bit.

    Statistics of batch norms are mixed as well. Between a model and its child that is as good as measuring them anew
    (decision 32).

    Args:
        parent, candidate: state dicts of the student's model.
    """
    for name, value in student.model.state_dict().items():
        old, new = parent[name].to(value.device), candidate[name].to(value.device)
        if step in (0, 1) or not value.is_floating_point():
            value.copy_(new if step else old)
        else:
            value.copy_(old.lerp(new, step))


def measure_norms(student: Student, batches: Iterable[Tensor]) -> None:
    """Set the running statistics of the image tower's batch norms to those of ``batches`` (B, 3, H, W), prepared."""
    model = student.model.visual
    if any(isinstance(module, _BatchNorm) for module in model.modules()):
        with torch.no_grad():
            update_bn((batch.contiguous(memory_format=torch.channels_last) for batch in batches), model)
