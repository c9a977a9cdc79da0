"""Data parallelism by hand: who this process is, and the few exchanges that training needs.

torchrun or ``accelerate launch`` start the processes, Accelerate joins them and finds the device; alone, everything
here is the identity. There is no wrapper around the model: see docs/decisions.
"""

from __future__ import annotations

import atexit
import json
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import TypeVar

import torch
from torch import Tensor
from torch import distributed as dist

from mmkd_core.errors import TrainingError

T = TypeVar("T")

PATIENCE = timedelta(days=1)
"""How long a process waits for another. One that dies is noticed at once; this is for one that prepares."""


class PeerError(TrainingError):
    """Another process of this run ended before its time."""


def start() -> None:
    """Join the processes that were launched beside this one; alone, do nothing."""
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        from accelerate import PartialState

        PartialState(cpu=not _accelerated(), timeout=PATIENCE)
        atexit.register(_leave)


def _leave() -> None:
    if dist.is_initialized():
        dist.destroy_process_group()


def _accelerated() -> bool:
    forbidden = os.environ.get("ACCELERATE_USE_CPU", "").lower() in ("1", "true", "yes")
    return torch.accelerator.is_available() and not forbidden


def device() -> torch.device:
    """Where this process trains: its own GPU if there are any."""
    from accelerate import PartialState

    return torch.device(PartialState(cpu=not _accelerated()).device)


def world() -> int:
    """Number of processes that train together; 1 alone."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def rank() -> int:
    """Number of this process; 0 is the leader."""
    return dist.get_rank() if world() > 1 else 0


def leads() -> bool:
    """Whether this process is the leader: the only one that writes, holds the workspace and speaks."""
    return rank() == 0


@contextmanager
def leader_first() -> Iterator[None]:
    """The leader runs the block, then the others do: they find in the caches what it has left there."""
    if not leads():
        _wait()
    yield
    if leads():
        _wait()
    _wait()


def by_leader(work: Callable[[], T]) -> T:
    """What the leader's work comes to (plain JSON), in every process.

    The others wait, before it and after it: what they have read of the workspace until here is not changed under their
    eyes, and what they read from here on is as the work has left it. Must not hold another exchange.
    """
    if world() == 1:
        return work()
    _wait()
    text = json.dumps(work()).encode() if leads() else b""
    size = torch.tensor([len(text)], device=device())
    as_leader([size])
    told = torch.zeros(int(size), dtype=torch.uint8, device=device())
    if leads():
        told.copy_(torch.frombuffer(bytearray(text), dtype=torch.uint8))
    as_leader([told])
    _wait()
    result: T = json.loads(told.cpu().numpy().tobytes())
    return result


def only_leader() -> None:
    """The other processes end here: what follows is not shared."""
    if not leads():
        raise SystemExit(0)


def _wait() -> None:
    if world() > 1:
        with _together():
            dist.barrier()


def gather(own: Sequence[Tensor]) -> list[tuple[Tensor, slice]]:
    """For each tensor (n, D) of this process, everybody's in the order of ranks (N, D), and the places of its own.

    Lengths may differ between processes. No gradient flows.
    """
    if world() == 1:
        return [(x, slice(0, len(x))) for x in own]
    lengths = torch.tensor([len(x) for x in own], device=own[0].device)
    everybody = [torch.empty_like(lengths) for _ in range(world())]
    with _together():
        dist.all_gather(everybody, lengths)
    counts = torch.stack(everybody).tolist()
    return [_gathered(x, [row[i] for row in counts]) for i, x in enumerate(own)]


def _gathered(own: Tensor, lengths: list[int]) -> tuple[Tensor, slice]:
    padded = own.new_zeros(max(lengths), *own.shape[1:])  # a collective wants equal shapes
    padded[: len(own)] = own
    parts = [torch.empty_like(padded) for _ in lengths]
    with _together():
        dist.all_gather(parts, padded)
    first = sum(lengths[: rank()])
    whole = torch.cat([part[:length] for part, length in zip(parts, lengths, strict=True)])
    return whole, slice(first, first + len(own))


def total(own: Sequence[Tensor]) -> list[Tensor]:
    """Sums over processes of tensors that have the same shapes everywhere, in one exchange, added in float32."""
    if world() == 1:
        return list(own)
    flat = torch.cat([x.detach().float().reshape(-1) for x in own])
    with _together():
        dist.all_reduce(flat)
    return _apart(flat, own)


def as_leader(own: Sequence[Tensor]) -> None:
    """Overwrite tensors in place with those of the leader."""
    if world() > 1:
        for x in own:
            with _together():
                dist.broadcast(x.detach(), src=0)


def _apart(flat: Tensor, like: Sequence[Tensor]) -> list[Tensor]:
    parts = torch.split(flat, [x.numel() for x in like])
    return [part.reshape(x.shape).to(x.dtype) for part, x in zip(parts, like, strict=True)]


@contextmanager
def _together() -> Iterator[None]:
    try:
        yield
    except RuntimeError as error:  # gloo and NCCL have no word for it but this
        raise PeerError(
            "another process of this run has ended",
            where=f"process {rank()} of {world()}",
            next="See what it said, and run the same command again: training goes on from its last checkpoint",
        ) from error
