"""One explicit training loop for both stages: stateless batches, checkpoints by time, exact resume.

A step sees nothing but its own number: batches, crops and draws are functions of (seed, step). So a run that was
killed and resumed from its last checkpoint takes the same path, bit for bit, as one that was not.

Does not: know what a loss is. The caller gives an ``Objective`` (``step``).
"""

from __future__ import annotations

import io
import json
import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from torch import nn

from mmkd_core.data.files import replacing
from mmkd_core.errors import TrainingError
from mmkd_core.progress import Progress, Silent
from mmkd_core.student.config import TrainConfig
from mmkd_core.student.model import precision_dtype
from mmkd_core.student.step import Batch, Objective, backward

LOG_EVERY = 10
CHECKPOINT = "checkpoint.pt"
CHECKPOINT_SECONDS = 15.0
GOLDEN_RATIO = 0.6180339887498949


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
) -> list[dict[str, float]]:
    """Train ``modules`` in place for ``config.steps`` steps and return the log.

    Args:
        modules: everything that is trained and saved in checkpoints.
        objective: the sum of its losses is minimised. Must depend on nothing but the step's number and the modules.
        folder: where ``checkpoint.pt`` and ``log.jsonl`` live; a run that finds its own checkpoint there goes on. It
            stays until ``forget_checkpoint``, which the caller does when it has kept the result.
        identity: a hash of all that determines the result; a checkpoint of another identity is not used.
        freeze_norms: batch norms keep their running statistics and use them.
        after_step: called after every optimiser step with the number of steps done (to clamp a logit scale, say). Must
            depend on nothing but that and the modules, like the losses.

    Raises:
        TrainingError: when a loss is not finite.
    """
    folder.mkdir(parents=True, exist_ok=True)
    optimizer = optimizer_for(modules, config)
    checkpoint, log_file = folder / CHECKPOINT, folder / "log.jsonl"
    start, log = _resume(checkpoint, log_file, identity, modules, optimizer)
    dtype = precision_dtype(config.precision)
    modules.train()
    if freeze_norms:
        for module in modules.modules():
            if isinstance(module, nn.modules.batchnorm._BatchNorm):
                module.eval()
    saved, watcher = time.monotonic(), progress or Silent()
    with watcher.task(label, config.steps, "steps", done=start) as advance, log_file.open("a") as lines:
        for step in range(start, config.steps):
            for group in optimizer.param_groups:
                group["lr"] = learning_rate(config, step)
            optimizer.zero_grad(set_to_none=True)
            parts = backward(objective, step, pieces=config.accumulate, dtype=dtype, key=identity)
            total = torch.stack(list(parts.values())).sum()
            if not torch.isfinite(total):
                raise TrainingError(
                    f"the loss is not finite at step {step}", where=label, next="Lower lr in mmkd.yaml and start again"
                )
            nn.utils.clip_grad_norm_(modules.parameters(), config.clip_norm)
            optimizer.step()
            done = step + 1  # the log and its readers count finished steps
            remark = (after_step(done) if after_step else None) or Remark()
            if step == 0 or done % LOG_EVERY == 0 or done == config.steps or remark.stop:
                row = {"step": float(done), "loss": total.item()} | {name: part.item() for name, part in parts.items()}
                log.append(row | remark.facts)
                lines.write(json.dumps(log[-1]) + "\n")
            advance(1, ", ".join(filter(None, [f"loss {total.item():.3f}", remark.note])))
            for line in filter(None, [*remark.warnings, remark.stop]):
                watcher.say(f"{label}, step {done}: {line}")
            if remark.stop:
                break
            if time.monotonic() - saved > CHECKPOINT_SECONDS:
                lines.flush()
                _save(checkpoint, identity, done, modules, optimizer)
                saved = time.monotonic()
    modules.eval()
    _save(checkpoint, identity, config.steps, modules, optimizer)  # a kill before the result is kept costs nothing
    return log


def forget_checkpoint(folder: Path) -> None:
    """Drop the checkpoint of a run whose result has been kept."""
    (folder / CHECKPOINT).unlink(missing_ok=True)


def _save(path: Path, identity: str, step: int, modules: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    state = {"identity": identity, "step": step, "modules": modules.state_dict(), "optimizer": optimizer.state_dict()}
    whole = io.BytesIO()  # torch's own writer turns a full disk into an exception that does not say so
    torch.save(state, whole)
    with replacing(path) as file:
        file.write(whole.getbuffer())


def _resume(
    checkpoint: Path, log_file: Path, identity: str, modules: nn.Module, optimizer: torch.optim.Optimizer
) -> tuple[int, list[dict[str, float]]]:
    """Load a checkpoint of the same identity, cut the log to its step, and return both."""
    state: dict[str, Any] = torch.load(checkpoint, weights_only=True) if checkpoint.exists() else {}
    if state.get("identity") != identity:
        log_file.unlink(missing_ok=True)
        return 0, []
    modules.load_state_dict(state["modules"])
    optimizer.load_state_dict(state["optimizer"])
    log = [row for row in read_log(log_file) if row["step"] <= state["step"]]
    log_file.write_text("".join(json.dumps(row) + "\n" for row in log))
    return int(state["step"]), log


def read_log(path: Path) -> list[dict[str, float]]:
    """The rows of a ``log.jsonl``; a last line that was cut off by a kill is left out."""
    rows = []
    for line in path.read_text().splitlines() if path.exists() else []:
        try:
            rows.append(json.loads(line))
        except json.JSONDecodeError:
            break
    return rows


def epoch_batch(rows: np.ndarray[Any, Any], batch_size: int, seed: int, step: int) -> np.ndarray[Any, Any]:
    """The batch of a step: no row twice in an epoch, in an order that is a function of (seed, epoch).

    Batches are of one size; the fewer rows than a batch that are left over are others in each epoch.
    """
    size = min(batch_size, len(rows))
    per_epoch = max(1, len(rows) // size)
    epoch, place = divmod(step, per_epoch)
    order = np.random.default_rng([seed, epoch]).permutation(len(rows))
    return rows[order[place * size : (place + 1) * size]]


class Batches:
    """Batches of a run in which each domain has a fixed share; a function of (seed, step) alone.

    A small domain seen in proportion to its size is hardly seen at all: with the square root it is seen more often and
    does not yet crowd out the others.

    Args:
        rows: (M,) rows to draw from.
        domain: (M,) domain of each.
        config: ``batch_size`` and ``balance``.

    Raises:
        TrainingError: there are no rows.
    """

    POWER: ClassVar[dict[str, float]] = {"natural": 1.0, "sqrt": 0.5, "uniform": 0.0}

    def __init__(
        self, rows: np.ndarray[Any, Any], domain: np.ndarray[Any, Any], config: TrainConfig, seed: int
    ) -> None:
        if not len(rows):
            raise TrainingError(
                "there is nothing to train on: no sample is in the train split",
                next="Give the data training samples and import it again; `mmkd data check` shows what is there",
            )
        self.seed = seed
        self.pools = [rows[domain == name] for name in sorted(set(domain))]
        share = np.array([float(len(pool)) for pool in self.pools]) ** self.POWER[config.balance]
        edges = np.concatenate([[0.0], np.cumsum(share / share.sum())]) * min(config.batch_size, len(rows))
        edges[-1] = min(config.batch_size, len(rows))  # a whole number, which a sum of shares need not be
        self.edges = edges

    def __call__(self, step: int) -> np.ndarray[Any, Any]:
        """Rows of a step: always ``batch_size``. Shares that are no whole numbers hold on the average of steps."""
        # The edges are moved by another fraction in each step (systematic sampling) and rounded down.
        moved = ((np.arange(step + 1) + 0.5) * GOLDEN_RATIO % 1)[:, None]
        counts = np.diff(np.floor(self.edges + moved), axis=1).astype(int)
        before, now = counts[:-1].sum(axis=0), counts[-1]
        parts = [self._walk(pool, i, int(before[i]), int(before[i] + now[i])) for i, pool in enumerate(self.pools)]
        return np.concatenate(parts)

    def _walk(self, pool: np.ndarray[Any, Any], number: int, start: int, stop: int) -> np.ndarray[Any, Any]:
        places = np.arange(start, stop)
        epochs = np.unique(places // len(pool))
        orders = {int(e): np.random.default_rng([self.seed, number, int(e)]).permutation(len(pool)) for e in epochs}
        index = [orders[int(place // len(pool))][place % len(pool)] for place in places]
        return pool[np.array(index, np.int64)]
