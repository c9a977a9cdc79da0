"""Stage 1: the CLIP loss on image-caption pairs (Radford et al. 2021, arXiv 2103.00020)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from mmkd_core.progress import Progress
from mmkd_core.student.config import PretrainConfig
from mmkd_core.student.model import Student
from mmkd_core.student.training import Batches, fit, random_crops

MAX_LOGIT_SCALE = 4.6052  # ln 100, as CLIP


def clip_loss(image: Tensor, text: Tensor, logit_scale: Tensor, weight: Tensor | None = None) -> Tensor:
    """Symmetric InfoNCE over a batch.

    Args:
        image: unit-norm embeddings (B, D).
        text: unit-norm embeddings (B, D); row i belongs to image i.
        logit_scale: scalar factor on cosines, already exponentiated.
        weight: (B,) how much each pair counts as an anchor; all are negatives of the others. 1 by default.
    """
    logits = logit_scale * image @ text.T
    target = torch.arange(len(logits))
    image_to_text = F.cross_entropy(logits, target, reduction="none")
    text_to_image = F.cross_entropy(logits.T, target, reduction="none")
    pair = (image_to_text + text_to_image) / 2
    return (pair if weight is None else weight * pair).mean()


def pretrain(
    student: Student,
    pixels: np.ndarray[Any, np.dtype[np.uint8]],
    captions: list[str],
    domains: np.ndarray[Any, Any],
    rows: np.ndarray[Any, Any],
    config: PretrainConfig,
    folder: Path,
    *,
    seed: int,
    identity: str,
    progress: Progress | None = None,
    label: str = "stage 1",
) -> list[dict[str, float]]:
    """Train ``student`` in place on pairs and return the log.

    Args:
        pixels: uint8 (N, H, W, 3).
        captions, domains: N texts, and the domain of each sample.
        rows: which of the N pairs to train on.
        identity: hash of everything that determines the result; see ``training.fit``.
    """
    tokens = student.tokenize(captions)
    batches = Batches(rows, domains[rows], config, seed)

    def losses(step: int) -> dict[str, Tensor]:
        batch = batches(step)
        images = random_crops(student.prepare(pixels[batch]), config.crop, seed, step)
        image = F.normalize(student.images(images), dim=-1)
        text = F.normalize(student.texts(tokens[batch]), dim=-1)
        return {"clip": clip_loss(image, text, student.model.logit_scale.exp())}

    return fit(
        student.model,
        losses,
        config,
        folder,
        identity=identity,
        label=label,
        progress=progress,
        after_step=lambda: clamp_logit_scale(student),
    )


def clamp_logit_scale(student: Student) -> None:
    """Keep the logit scale between 1 and 100."""
    with torch.no_grad():
        student.model.logit_scale.clamp_(0, MAX_LOGIT_SCALE)
