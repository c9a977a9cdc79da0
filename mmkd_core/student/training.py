"""One explicit training loop for both stages: stateless batches, checkpoints by time, exact resume.

A step sees nothing but its own number: batches, crops and draws are functions of (seed, step). So a run that was
killed and resumed from its last checkpoint takes the same path, bit for bit, as one that was not.

Does not: know what a loss is. The caller gives an ``Objective`` (``step``).
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from mmkd_core.errors import TrainingError
from mmkd_core.progress import Progress, Silent
from mmkd_core.student import parallel
from mmkd_core.student.checkpoint import Checkpoints
from mmkd_core.student.config import TrainConfig
from mmkd_core.student.interrupts import interrupts
from mmkd_core.student.model import precision_dtype
from mmkd_core.student.step import Batch, Objective, backward
from mmkd_core.student.trackers import tracking

LOG_EVERY = 10


def learning_rate(config: TrainConfig, step: int) -> float:
    """Linear warm-up, then a cosine down to ``final_lr`` of the peak. ``step`` counts from 0."""
    if step < config.warmup:
        return config.lr * (step + 1) / config.warmup
    done = (step - config.warmup) / max(1, config.steps - config.warmup)
    floor = config.final_lr
    return config.lr * (floor + (1 - floor) * 0.5 * (1 + math.cos(math.pi * min(1.0, done))))


def optimizer_for(modules: nn.Module, config: TrainConfig) -> torch.optim.AdamW:
    """AdamW without decay on vectors and scalars (norms, biases, logit scales)."""
    decay = [p for p in modules.parameters() if p.requires_grad and p.ndim >= 2]
    plain = [p for p in modules.parameters() if p.requires_grad and p.ndim < 2]
    groups = [{"params": decay, "weight_decay": config.weight_decay}, {"params": plain, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=config.lr, betas=(0.9, 0.98), eps=1e-6, fused=True)


@dataclass(frozen=True)
class Remark:
    """What somebody who watches a run has to say after a step.

    Attributes:
        facts: go into the log.
        note: stands at the end of the progress line.
        warnings: lines that are said once.
        stop: why the run ends with this step; empty if it goes on.
    """

    facts: dict[str, float] = field(default_factory=dict)
    note: str = ""
    warnings: tuple[str, ...] = ()
    stop: str = ""


def fit(
    modules: nn.Module,
    objective: Objective[Batch],
    config: TrainConfig,
    folder: Path,
    *,
    identity: str,
    label: str,
    progress: Progress | None = None,
    after_step: Callable[[int], Remark | None] | None = None,
    freeze_norms: bool = False,
    trackers: Sequence[str] = (),
) -> list[dict[str, float]]:
    """Train ``modules`` in place for ``config.steps`` steps and return the log.

    Args:
        modules: everything that is trained and saved in checkpoints. What an objective carries from step to step
            (running averages, dual variables) belongs here too, as buffers.
        objective: the sum of its losses is minimised. Must depend on nothing but the step's number and the modules.
        folder: where ``checkpoint.pt`` and ``log.jsonl`` live; a run that finds its own checkpoint there goes on. It
            stays until ``forget_checkpoint``, which the caller does when it has kept the result.
        identity: a hash of all that determines the result; a checkpoint of another identity is not used.
        freeze_norms: batch norms keep their running statistics and use them.
        after_step: called after every optimiser step with the number of steps done (to clamp a logit scale, say). Must
            depend on nothing but that and the modules, like the losses.

        trackers: who else gets the log: tensorboard, wandb, mlflow, trackio (``trackers.tracking``).

    Raises:
        TrainingError: when a loss is not finite, another process has died, batch norms would see parts of a batch, or
            a tracker's package is missing.
        KeyboardInterrupt: after Ctrl-C, when the step is finished and a checkpoint is written.
    """
    modules.to(parallel.device()).train()
    _place_norms(modules, freeze_norms, config)
    parallel.as_leader([*modules.parameters(), *modules.buffers()])
    optimizer = optimizer_for(modules, config)
    checkpoints = Checkpoints(folder, identity, modules, optimizer)
    start, log = checkpoints.resume()
    if checkpoints.damaged and progress:
        progress.say(f"{label}: the checkpoint is damaged; the run begins again")
    # Once: walking through the heads of many teachers takes a per cent of a small student's step.
    trained = [p for p in modules.parameters() if p.requires_grad]
    step, watcher = _Step(objective, trained, optimizer, config, identity, label), progress or Silent()
    with (
        watcher.task(label, config.steps, "steps", done=start) as advance,
        open(checkpoints.log if parallel.leads() else os.devnull, "a") as lines,
        tracking(trackers, folder, label, config.model_dump(mode="json"), identity) as tell,
        interrupts() as asked,
    ):
        for number in range(start, config.steps):
            losses, interrupted = step(number, asked)
            done = number + 1  # the log and its readers count finished steps
            remark = (after_step(done) if after_step else None) or Remark()
            if number == 0 or done % LOG_EVERY == 0 or done == config.steps or remark.stop:
                log.append({"step": float(done), **losses, **remark.facts})
                lines.write(json.dumps(log[-1]) + "\n")
                tell(log[-1])
            advance(1, ", ".join(filter(None, [f"loss {losses['loss']:.3f}", remark.note])))
            for line in filter(None, [*remark.warnings, remark.stop]):
                watcher.say(f"{label}, step {done}: {line}")
            if remark.stop:
                break
            if interrupted or checkpoints.due():
                lines.flush()
                checkpoints.save(done)
            if interrupted:
                raise KeyboardInterrupt(f"stopped after step {done:,} of {config.steps:,} of {label}, which is kept")
    modules.eval()
    checkpoints.save(config.steps)  # a kill before the result is kept costs nothing
    return log


@dataclass(frozen=True)
class _Step:
    """One step of one process: gradient, exchange, clipping, optimiser."""

    objective: Objective[Any]
    trained: Sequence[nn.Parameter]
    optimizer: torch.optim.Optimizer
    config: TrainConfig
    identity: str
    label: str

    def __call__(self, number: int, asked: Callable[[], bool]) -> tuple[dict[str, float], bool]:
        """Take the step; return ``loss`` and its parts over the whole batch, and whether anybody asked to stop."""
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate(self.config, number)
        self.optimizer.zero_grad(set_to_none=True)
        parts = backward(
            self.objective,
            number,
            pieces=self.config.accumulate,
            dtype=precision_dtype(self.config.precision),
            device=parallel.device(),
            key=self.identity,
        )
        values, stop = self._exchange(torch.stack(list(parts.values())), asked)
        total = values.sum()
        if not torch.isfinite(total):
            raise TrainingError(
                f"the loss is not finite at step {number}",
                where=self.label,
                next="Lower lr in mmkd.yaml and start again",
            )
        nn.utils.clip_grad_norm_(self.trained, self.config.clip_norm)
        self.optimizer.step()
        return dict(zip(["loss", *parts], [total.item(), *values.tolist()], strict=True)), stop

    def _exchange(self, values: Tensor, asked: Callable[[], bool]) -> tuple[Tensor, bool]:
        """Sum gradients and losses over processes, in one exchange; who asked to stop asks for everybody."""
        if parallel.world() == 1:
            return values, asked()
        used = torch.tensor([p.grad is not None for p in self.trained], dtype=torch.float32, device=values.device)
        gradients = [torch.zeros_like(p) if p.grad is None else p.grad for p in self.trained]
        wish = torch.tensor(float(asked()), device=values.device)
        *gradients, used, values, wish = parallel.total([*gradients, used, values, wish])
        for p, gradient, anybody in zip(self.trained, gradients, used.tolist(), strict=True):
            p.grad = gradient if anybody else None  # the optimiser leaves alone what nobody used, as one process would
        return values, bool(wish)


def _place_norms(modules: nn.Module, frozen: bool, config: TrainConfig) -> None:
    """Put batch norms into the mode that is asked for.

    Raises:
        TrainingError: they would take their statistics from parts of a batch, so that the step is another one.
    """
    norms = [m for m in modules.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    if frozen:
        for norm in norms:
            norm.eval()
    elif norms and (parallel.world() > 1 or config.accumulate > 1):
        raise TrainingError(
            "this student has batch norms, which see only a part of a batch when it is split over processes or pieces",
            next="Train it in one process with `accumulate: 1`, or take a vision tower without them, as vit-tiny; "
            "an integration can keep the parent's statistics: `norms: keep` under incremental",
        )
