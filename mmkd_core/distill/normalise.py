"""PHI-S: centre, rotate and scale a teacher's features so that every dimension has variance one.

One scalar for all dimensions keeps the teacher's geometry (distances are only multiplied); the rotation spreads the
variance evenly, so that no dimension dominates a loss that treats dimensions alike. RADIO uses a Hadamard matrix, which
exists for few dimensions; plane rotations that set one diagonal entry of the covariance after another to the mean (the
constructive proof of the Schur-Horn theorem) do the same for any dimension in at most D - 1 steps.
Source: Ranzinger et al., PHI-S, arXiv 2410.01680.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

Matrix = np.ndarray[Any, np.dtype[np.float64]]


@dataclass(frozen=True)
class PhiS:
    """A fitted normaliser: ``forward(x) = scale * (x - mean) @ rotation.T``."""

    mean: Tensor
    rotation: Tensor
    scale: float

    @classmethod
    def fit(cls, features: np.ndarray[Any, np.dtype[np.float32]]) -> PhiS:
        """Fit to features (N, D) in float64. Constant features get scale 1."""
        data = features.astype(np.float64)
        mean = data.mean(axis=0)
        covariance = np.cov(data, rowvar=False, bias=True).reshape(data.shape[1], data.shape[1])
        variance = float(np.trace(covariance)) / data.shape[1]
        rotation = _equalise(covariance)
        scale = 1 / np.sqrt(variance) if variance > 1e-12 else 1.0
        return cls(
            torch.from_numpy(mean.astype(np.float32)), torch.from_numpy(rotation.astype(np.float32)), float(scale)
        )

    @classmethod
    def identity(cls, dim: int) -> PhiS:
        """One that changes nothing: aligner ``none``."""
        return cls(torch.zeros(dim), torch.eye(dim), 1.0)

    def turned(self, features: Tensor) -> Tensor:
        """Teacher's space, centred and rotated as the normalised space is but not scaled, (..., D)."""
        return (features - self.mean) @ self.rotation.T

    def turned_back(self, features: Tensor) -> Tensor:
        """Normalised space to the teacher's, rotated and times ``scale``, (..., D): angles are those of ``inverse``."""
        return features + self.scale * (self.mean @ self.rotation.T)

    def forward(self, features: Tensor) -> Tensor:
        """Teacher's space to normalised space, (..., D)."""
        return self.scale * (features - self.mean) @ self.rotation.T

    def inverse(self, features: Tensor) -> Tensor:
        """Normalised space to teacher's space, (..., D)."""
        return features / self.scale @ self.rotation + self.mean

    def moved(self, move: Callable[[Tensor], Tensor]) -> PhiS:
        """The same normaliser with its tensors somewhere else."""
        return replace(self, mean=move(self.mean), rotation=move(self.rotation))

    def state(self, prefix: str) -> dict[str, Tensor]:
        """Tensors for a safetensors file."""
        return {
            f"{prefix}.mean": self.mean,
            f"{prefix}.rotation": self.rotation,
            f"{prefix}.scale": torch.tensor([self.scale], dtype=torch.float64),
        }

    @classmethod
    def from_state(cls, state: dict[str, Tensor], prefix: str) -> PhiS:
        """Read what ``state`` gave."""
        scale = float(state[f"{prefix}.scale"][0])
        return cls(state[f"{prefix}.mean"], state[f"{prefix}.rotation"], scale)


def _equalise(covariance: Matrix) -> Matrix:
    """An orthogonal R such that all diagonal entries of ``R @ covariance @ R.T`` are equal."""
    size = len(covariance)
    _, vectors = np.linalg.eigh(covariance)
    rotation = vectors.T.copy()
    current = rotation @ covariance @ rotation.T
    target = np.trace(covariance) / size
    for _ in range(size - 1):
        diagonal = np.diag(current)
        low, high = int(diagonal.argmin()), int(diagonal.argmax())
        if diagonal[high] - diagonal[low] <= 1e-9 * max(target, 1e-300):
            break
        # The angle for which the new entry at `high` equals the target, which lies between the two entries.
        angle = _angle(current[high, high], current[low, low], current[high, low], target)
        c, s = np.cos(angle), np.sin(angle)
        plane = np.array([[c, s], [-s, c]])
        rows = [high, low]
        rotation[rows] = plane @ rotation[rows]
        current[rows] = plane @ current[rows]
        current[:, rows] = current[:, rows] @ plane.T
    return rotation


def _angle(a: float, b: float, h: float, target: float) -> float:
    """Angle t with ``a cos^2 t + 2 h sin t cos t + b sin^2 t = target`` for ``b <= target <= a``.

    With half sum m and half difference d, it is ``d cos 2t + h sin 2t = target - m``.
    """
    mid, half = (a + b) / 2, (a - b) / 2
    radius, phase = np.hypot(half, h), np.arctan2(h, half)
    return float((np.arccos(np.clip((target - mid) / radius, -1, 1)) + phase) / 2)
