"""Balancing teachers: how much the FD of each counts, so that no teacher drowns the others.

``dispersion``  by how far a teacher's targets spread around their mean direction: where all point one way, an angle of
                the same size means more. After C-RADIOv4 (NVIDIA 2026), which divides its summary loss by that
                dispersion; here it is measured once, because a moving target looks like forgetting.
``dropping``    for each sample the teacher that is learnt worst always counts, each of the others in half of the steps.
                Teacher dropping of UNIC (Sariyildiz et al., ECCV 2024, arXiv 2408.05088), for all samples at once.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

DROPPED = 0.5


def dispersion(targets: Tensor) -> float:
    """Mean square of the angle (radians) between targets (N, D) and their mean direction."""
    unit = F.normalize(targets.double(), dim=-1)
    mean = F.normalize(unit.mean(0), dim=-1)
    return float((unit @ mean).clamp(-1, 1).acos().square().mean())


def shares(dispersions: Mapping[str, float]) -> dict[str, float]:
    """Factors of mean 1, in inverse proportion to the dispersion; one of 0 (a constant teacher) counts as the least."""
    least = min((value for value in dispersions.values() if value > 0), default=1.0)
    inverse = {name: 1 / max(value, least) for name, value in dispersions.items()}
    mean = sum(inverse.values()) / max(1, len(inverse))
    return {name: value / mean for name, value in inverse.items()}


def dropping(losses: Tensor, seed: int, step: int) -> Tensor:
    """1 where a teacher counts for a sample, 0 where it is dropped.

    Args:
        losses: (T, B) of each teacher for each sample; -inf where it does not teach.
    """
    draw = np.random.default_rng([seed, step, 17]).random(tuple(losses.shape), dtype=np.float32)
    kept = torch.from_numpy(draw).to(losses.device) >= DROPPED
    return kept.scatter(0, losses.argmax(0, keepdim=True), True).to(losses.dtype)
