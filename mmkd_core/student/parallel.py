"""Data parallelism by hand: which process this is, and the two exchanges that a step needs.

Alone, everything here is the identity. Accelerate or torchrun start the processes; see docs/decisions.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch import distributed as dist


def world() -> int:
    """Number of processes that train together; 1 alone."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def rank() -> int:
    """Number of this process; 0 is the leader, which alone writes."""
    return dist.get_rank() if world() > 1 else 0


def gather(own: Sequence[Tensor]) -> list[tuple[Tensor, slice]]:
    """For each tensor (n, D) of this process, everybody's in the order of ranks (N, D), and the places of its own.

    Lengths may differ between processes. No gradient flows.
    """
    if world() == 1:
        return [(x, slice(0, len(x))) for x in own]
    lengths = torch.tensor([len(x) for x in own], device=own[0].device)
    all_lengths = [torch.empty_like(lengths) for _ in range(world())]
    dist.all_gather(all_lengths, lengths)
    counts = torch.stack(all_lengths).tolist()
    return [_gathered(x, [row[i] for row in counts]) for i, x in enumerate(own)]


def _gathered(own: Tensor, lengths: list[int]) -> tuple[Tensor, slice]:
    padded = own.new_zeros(max(lengths), *own.shape[1:])  # a collective wants equal shapes
    padded[: len(own)] = own
    parts = [torch.empty_like(padded) for _ in lengths]
    dist.all_gather(parts, padded)
    start = sum(lengths[: rank()])
    whole = torch.cat([part[:length] for part, length in zip(parts, lengths, strict=True)])
    return whole, slice(start, start + len(own))


def total(own: Sequence[Tensor]) -> list[Tensor]:
    """Sums over processes of tensors that have the same shapes everywhere, in one exchange."""
    if world() == 1:
        return list(own)
    flat = torch.cat([x.detach().float().reshape(-1) for x in own])
    dist.all_reduce(flat)
    parts: tuple[Tensor, ...] = flat.split([x.numel() for x in own])  # type: ignore[no-untyped-call]
    return [part.reshape(x.shape).to(x.dtype) for part, x in zip(parts, own, strict=True)]
