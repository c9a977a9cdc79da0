"""Stage 1: the CLIP loss on image-caption pairs (Radford et al. 2021, arXiv 2103.00020)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from mmkd_core.progress import Progress
from mmkd_core.student.batches import Batches
from mmkd_core.student.captions import ONE_EACH, Captions
from mmkd_core.student.config import PretrainConfig
from mmkd_core.student.model import Student
from mmkd_core.student.step import Embedded, Losses, Share
from mmkd_core.student.training import fit
from mmkd_core.student.views import Pixels, Views

MAX_LOGIT_SCALE = 4.6052  # ln 100, as CLIP


def clip_loss(
    image: Tensor, text: Tensor, logit_scale: Tensor, weight: Tensor | None = None, share: Share | None = None
) -> Tensor:
    """Symmetric InfoNCE over a batch: the mean over pairs, or a share's part of it.

    Args:
        image: unit-norm embeddings (B, D).
        text: unit-norm embeddings (B, D); row i belongs to image i.
        logit_scale: scalar factor on cosines, already exponentiated.
        weight: (B,) how much each pair counts as an anchor; all are negatives of the others. 1 by default.
        share: anchors to count; all by default. The parts of all shares add up to the whole.
    """
    share = share or Share()
    mine = share.of(len(image))
    target = torch.arange(len(image), device=image.device)[mine]
    logits = logit_scale * image[mine] @ text.T
    transposed = logits.T if share.count == 1 else logit_scale * text[mine] @ image.T
    image_to_text = F.cross_entropy(logits, target, reduction="none")
    text_to_image = F.cross_entropy(transposed, target, reduction="none")
    pair = (image_to_text + text_to_image) / 2
    return (pair if weight is None else weight[mine].to(pair.device) * pair).sum() / len(image)


@dataclass(frozen=True)
class PairBatch:
    """A share of the pairs of a step: images, and caption tokens (B, L)."""

    share: Share
    views: Views
    tokens: Tensor


class ClipObjective:
    """The CLIP loss of stage 1, as ``training.fit`` wants it.

    Args:
        pixels: uint8 (N, H, W, 3).
        tokens: (M, L) of all captions.
        batches: rows of a step.
        captions: which of them are whose; one is drawn in each step.
    """

    def __init__(
        self,
        student: Student,
        pixels: Pixels,
        tokens: Tensor,
        batches: Callable[[int], np.ndarray[Any, Any]],
        crop: float,
        seed: int,
        captions: Captions = ONE_EACH,
    ) -> None:
        self.student, self.pixels, self.tokens, self.captions = student, pixels, tokens, captions
        self.batches, self.crop, self.seed = batches, crop, seed

    def batch(self, step: int, share: Share) -> PairBatch:
        """Read the share's images and captions."""
        rows = self.batches(step)
        views = Views.of(self.pixels, rows, share, self.crop, self.seed, step)
        drawn = self.captions.drawn(rows[share.of(len(rows))], self.seed, step)
        return PairBatch(share, views, self.tokens[torch.from_numpy(drawn)])

    def embed(self, batch: PairBatch, piece: Share) -> Embedded:
        """Unit-norm embeddings of images (b, D) and captions (b, D)."""
        text = self.student.texts(batch.tokens[piece.of(len(batch.tokens))])
        return batch.views.embed(self.student, piece), F.normalize(text, dim=-1)

    def losses(self, batch: PairBatch, embedded: Embedded) -> Losses:
        """``clip``."""
        image, text = embedded
        return {"clip": clip_loss(image, text, self.student.model.logit_scale.exp(), share=batch.share)}


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
    whose: Captions = ONE_EACH,
    progress: Progress | None = None,
    label: str = "stage 1",
    trackers: Sequence[str] = (),
) -> list[dict[str, float]]:
    """Train ``student`` in place on pairs and return the log.

    Args:
        pixels: uint8 (N, H, W, 3).
        captions: M texts.
        domains: (N,) of each sample.
        rows: which of the N samples to train on.
        whose: which captions are of which sample.
        identity: hash of everything that determines the result; see ``training.fit``.
        trackers: see ``training.fit``.
    """
    batches = Batches(rows, domains[rows], config, seed)
    objective = ClipObjective(student, pixels, student.tokenize(captions), batches, config.crop, seed, whose)
    return fit(
        student.model,
        objective,
        config,
        folder,
        identity=identity,
        label=label,
        progress=progress,
        trackers=trackers,
        after_step=lambda done: clamp_logit_scale(student),
    )


def clamp_logit_scale(student: Student) -> None:
    """Keep the logit scale between 1 and 100."""
    with torch.no_grad():
        student.model.logit_scale.clamp_(0, MAX_LOGIT_SCALE)
