"""One optimiser step in three phases, so that many processes, or little memory, take the step of the whole batch.

    batch     what the step reads: no gradient, a function of (step, share) alone
    embed     the towers, piece by piece
    losses    of this process's rows against everybody's embeddings

A contrastive loss wants all embeddings of a batch at once, but its gradient reaches the towers only through them. So
the embeddings are made first, without a graph; then the losses and the gradient at the embeddings; then each piece once
more, with a graph, which carries its part of that gradient into the towers (GradCache, Gao et al. 2021, arXiv
2101.06983). Between processes the embeddings are gathered before the losses, and the gradients at them summed after:
nothing else of the batch has to travel, because teachers' features are cached and everybody can read them.

Does not: know what a loss is, or step an optimiser.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from hashlib import blake2b
from typing import Protocol, TypeVar

import torch
from torch import Tensor

from mmkd_core.student import parallel

Losses = dict[str, Tensor]
Embedded = tuple[Tensor, ...]
Batch = TypeVar("Batch")
CPU = torch.device("cpu")


@dataclass(frozen=True)
class Share:
    """Part ``index`` of ``count`` nearly equal, contiguous parts: of a batch by process, or of that by piece."""

    index: int = 0
    count: int = 1

    def of(self, total: int) -> slice:
        """Places of this part among ``total``; the parts follow one another and leave nothing out."""
        return slice(total * self.index // self.count, total * (self.index + 1) // self.count)


class Objective(Protocol[Batch]):
    """What a stage of training minimises. Knows nothing of processes beyond its ``Share``."""

    def batch(self, step: int, share: Share) -> Batch:
        """What the step needs, read and drawn; without gradient, and a function of (step, share) alone.

        The rows of the step are the same for everybody. ``share`` says which of them this process embeds, and which
        anchors' losses it computes.
        """
        ...

    def embed(self, batch: Batch, piece: Share) -> Embedded:
        """Tensors (n, D) of one piece of this process's share, with gradient.

        Concatenated along the first dimension, piece after piece and process after process, they are the embeddings of
        the whole batch.
        """
        ...

    def losses(self, batch: Batch, embedded: Embedded) -> Losses:
        """Weighted losses of this process's share, given everybody's embeddings; the same names for everybody.

        Summed over processes they are the losses of the whole batch: sums over this share's anchors, divided by what
        the whole batch would be divided by. What cannot be split is computed whole and divided by ``share.count``.
        """
        ...


def losses_of(objective: Objective[Batch], step: int) -> Losses:
    """The losses of a step with their graph, as one process and in one piece: for tests and measurements."""
    batch = objective.batch(step, Share())
    return objective.losses(batch, objective.embed(batch, Share()))


def backward(
    objective: Objective[Batch],
    step: int,
    *,
    pieces: int = 1,
    dtype: torch.dtype = torch.float32,
    device: torch.device = CPU,
    key: str = "",
) -> Losses:
    """Add this process's part of the gradient of a step to the parameters; return its part of the losses.

    Args:
        pieces: how many pieces this process's share is embedded in; memory falls with it, the result does not change.
        dtype: of matrix products (autocast), bfloat16 or float32.
        key: what is random in a tower (dropout) is a function of (key, step, piece).
    """
    share = Share(parallel.rank(), parallel.world())
    batch = objective.batch(step, share)

    def embed(piece: int) -> Embedded:
        with _noise(f"{key} {step} {share} {piece}", device), _autocast(dtype, device):
            return objective.embed(batch, Share(piece, pieces))

    with torch.no_grad():
        made = [embed(piece) for piece in range(pieces - 1)]
    made.append(embed(pieces - 1))  # the last one keeps its graph and is not computed twice
    gathered = parallel.gather([torch.cat([x.detach() for x in tower]) for tower in zip(*made, strict=True)])
    leaves = [x.requires_grad_() for x, _ in gathered]
    with _autocast(dtype, device):
        losses = objective.losses(batch, tuple(leaves))
    torch.stack(list(losses.values())).sum().backward()  # type: ignore[no-untyped-call]
    gradients = parallel.total([torch.zeros_like(x) if x.grad is None else x.grad for x in leaves])
    sizes = zip(*([len(x) for x in piece] for piece in made), strict=True)
    own = [torch.split(g[place], list(n)) for g, (_, place), n in zip(gradients, gathered, sizes, strict=True)]
    back = list(zip(*own, strict=True))
    _carry(made[-1], back[-1])
    for piece in range(pieces - 1):
        _carry(embed(piece), back[piece])
    return {name: value.detach() for name, value in losses.items()}


def _carry(embedded: Embedded, gradients: Embedded) -> None:
    """Push the gradient at the embeddings into the towers. A frozen tower takes none."""
    pairs = [(x, g) for x, g in zip(embedded, gradients, strict=True) if x.requires_grad]
    if pairs:
        torch.autograd.backward([x for x, _ in pairs], [g for _, g in pairs])


def _autocast(dtype: torch.dtype, device: torch.device) -> AbstractContextManager[None]:
    # One context per phase: autocast keeps its casts of the weights until it ends, and those made without a graph
    # would cut the towers off from their gradient.
    return torch.autocast(device.type, dtype, enabled=dtype != torch.float32)


@contextmanager
def _noise(key: str, device: torch.device) -> Iterator[None]:
    """Torch draws as a function of ``key`` inside, and goes on outside as if nothing had been drawn."""
    seed = int.from_bytes(blake2b(key.encode(), digest_size=8).digest(), "big", signed=True)
    with torch.random.fork_rng(devices=[] if device.type == "cpu" else [device], device_type=device.type):
        torch.manual_seed(seed)
        yield
