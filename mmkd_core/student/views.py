"""What a step shows the student of its images: a random window of each, the same whoever computes it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from mmkd_core.student.model import Student, to_device
from mmkd_core.student.step import Share

Pixels = np.ndarray[Any, np.dtype[np.uint8]]


@dataclass(frozen=True)
class Views:
    """One process's share of the images of a step.

    Attributes:
        pixels: uint8 (B, H, W, 3).
        windows: (B, 3), as ``crop_windows`` draws them.
    """

    pixels: Pixels
    windows: Tensor

    @classmethod
    def of(
        cls, pixels: Pixels, rows: np.ndarray[Any, Any], share: Share, smallest: float, seed: int, step: int
    ) -> Views:
        """The share of a step's ``rows`` of the corpus's ``pixels``; each sees the window that it would see alone."""
        mine = share.of(len(rows))
        return cls(pixels[rows[mine]], crop_windows(len(rows), smallest, seed, step)[mine])

    def embed(self, student: Student, piece: Share) -> Tensor:
        """Unit-norm embeddings (b, D) of one piece, with gradient."""
        part = piece.of(len(self.pixels))
        images = crop(student.prepare(self.pixels[part]), self.windows[part])
        return F.normalize(student.images(images), dim=-1)


def crop_windows(count: int, smallest: float, seed: int, step: int) -> Tensor:
    """Side (as a share of the image's, at least ``smallest``) and shifts to the right and down: float (B, 3)."""
    draw = np.random.default_rng([seed, step, 1]).uniform(size=(count, 3)).astype(np.float32)
    windows = torch.from_numpy(draw)
    side = min(smallest, 1.0) + (1 - min(smallest, 1.0)) * windows[:, :1]
    return torch.cat([side, (1 - side) * (2 * windows[:, 1:] - 1)], dim=1)


def crop(images: Tensor, windows: Tensor) -> Tensor:
    """Cut a window out of each image (B, 3, H, W) and scale it back.

    No mirror images: "left" and "right" are findings in medicine, and cached features do not turn with them.
    """
    if bool((windows[:, 0] >= 1).all()):
        return images
    theta = torch.zeros(len(images), 2, 3)
    theta[:, 0, 0] = theta[:, 1, 1] = windows[:, 0]
    theta[:, :, 2] = windows[:, 1:]
    grid = F.affine_grid(to_device(theta, images.device), list(images.shape), align_corners=False)
    return F.grid_sample(images, grid, mode="bilinear", padding_mode="reflection", align_corners=False)
