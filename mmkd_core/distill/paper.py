"""The published scheme, for comparison: one aligned space, one random trusted teacher per sample, no heads.

As MMKD-CLIP's released code does it (facts in its repository at 127544c): an autoencoder over all teachers' features
gives each teacher a linear map into a common space of the student's dimension; in every step each sample draws one of
its trusted teachers; the shared embedding is regressed on the aligned features (FD, mean square) and contrasted with
them (ICL). The recipe ``paper`` has the weights of the released code, 50 x FD + ICL + CLIP; ``paper-published`` those
of the paper, FD + ICL + 0.1 x CLIP. Other aligners (``align``) and the other form of FD can be put in their place.

Two departures, because the released code contradicts its own comments there: aligned features are L2-normalised before
the losses, and the logit scale of the contrast is exponentiated and trained.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mmkd_core.distill import losses as loss
from mmkd_core.distill.align import Alignment
from mmkd_core.distill.config import DistillConfig
from mmkd_core.distill.objective import Samples
from mmkd_core.distill.sources import Mask, Source
from mmkd_core.student.batches import Rows
from mmkd_core.student.model import Student
from mmkd_core.student.pretrain import clip_loss
from mmkd_core.student.step import Embedded, Losses, Share
from mmkd_core.student.views import Views


@dataclass(frozen=True)
class PaperBatch:
    """The rows of a step, and a share of its images and caption tokens (B, L)."""

    step: int
    share: Share
    rows: Rows
    views: Views
    tokens: Tensor


class PaperObjective:
    """Losses of a step of the published scheme, as ``training.fit`` wants them."""

    def __init__(
        self,
        student: Student,
        scale: nn.ParameterDict,
        alignment: Alignment,
        sources: Sequence[Source],
        samples: Samples,
        batches: Callable[[int], Rows],
        config: DistillConfig,
        seed: int,
    ) -> None:
        self.student, self.scale, self.alignment, self.sources = student, scale, alignment, sources
        self.samples, self.batches, self.config, self.seed = samples, batches, config, seed

    def batch(self, step: int, share: Share) -> PaperBatch:
        """Read the share's images and captions; the teachers are drawn for everybody."""
        rows = self.batches(step)
        views = Views.of(self.samples.pixels, rows, share, self.config.crop, self.seed, step)
        drawn = self._captions(rows[share.of(len(rows))], step)
        tokens = self.samples.tokens[torch.from_numpy(drawn)]
        return PaperBatch(step, share, rows, views, tokens)

    def _captions(self, rows: Rows, step: int) -> Rows:
        return self.samples.captions.drawn(rows, self.seed, step)

    def embed(self, batch: PaperBatch, piece: Share) -> Embedded:
        """Unit-norm embeddings of images (b, D) and captions (b, D)."""
        text = self.student.texts(batch.tokens[piece.of(len(batch.tokens))])
        return batch.views.embed(self.student, piece), F.normalize(text, dim=-1)

    def losses(self, batch: PaperBatch, embedded: Embedded) -> Losses:
        """Weighted losses of the share."""
        weights, (image, text), share = self.config.factors, embedded, batch.share
        parts: dict[str, Tensor] = {}
        if weights.clip:
            scale = self.student.model.logit_scale.exp()
            parts["clip"] = weights.clip * clip_loss(image, text, scale, share=share)
        if weights.fd or weights.icl:
            whole = self._taught(batch.rows, image, text, batch.step)
            parts |= {name: loss / share.count for name, loss in whole.items()}
        # The optimiser wants a gradient also where nobody teaches and captions do not count.
        return parts or {"fd": 0.0 * (image.sum() + text.sum())}

    def _taught(self, rows: Rows, image: Tensor, text: Tensor, step: int) -> dict[str, Tensor]:
        """FD and ICL over the samples that somebody teaches; nothing if they are fewer than two."""
        weights = self.config.factors
        taught, *drawn = self._draw(rows, step)
        t_image, t_text = (features.to(image.device) for features in drawn)
        parts: dict[str, Tensor] = {}
        if len(taught) < 2:
            return parts
        s_image, s_text = image[taught], text[taught]
        if weights.fd:
            distance = {"cosine": loss.feature_distillation, "mse": loss.mse_distillation}[self.config.parts.fd]
            fd = distance(s_image, t_image) + distance(s_text, t_text)
            parts["fd"] = weights.fd * fd
        if weights.icl:
            contrast = loss.interactive_contrast(s_image, s_text, t_image, t_text, self.scale["cross"].exp())
            parts["icl"] = weights.icl * contrast
        return parts

    def teaching(self, rows: Rows, step: int) -> Mask:
        """(T, B) samples that each source teaches in a step: one trusted teacher per row, drawn at random."""
        trusted = np.stack([source.mask[rows] for source in self.sources])
        noise = np.random.default_rng([self.seed, step, 3]).uniform(size=trusted.shape)
        choice = np.where(trusted.any(axis=0), np.where(trusted, noise, -1).argmax(axis=0), -1)
        chosen: Mask = choice == np.arange(len(self.sources))[:, None]
        return chosen

    def _draw(self, rows: Rows, step: int) -> tuple[Rows, Tensor, Tensor]:
        """Rows that are taught, and the aligned features (B', latent) of their teachers."""
        taught, images, texts = [], [], []
        for source, chosen in zip(self.sources, self.teaching(rows, step), strict=True):
            mine = np.flatnonzero(chosen)
            taught.append(mine)
            images.append(self.alignment.aligned(source.name, source.images(rows[mine])))
            captions = self._captions(rows[mine], step)
            texts.append(self.alignment.aligned(source.name, source.texts(captions)))
        return np.concatenate(taught), torch.cat(images), torch.cat(texts)
