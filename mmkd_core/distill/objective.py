"""The mmkd recipe: every trusted teacher of a sample teaches in every step.

Per-teacher heads learn the teachers' features (FD, ICL); the shared embedding learns from captions (0.1 x CLIP, and
1 x CLIP for samples that nobody teaches) and from the relation of images to a bank of texts.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mmkd_core.distill import losses as loss
from mmkd_core.distill.bank import Bank
from mmkd_core.distill.config import DistillConfig
from mmkd_core.distill.heads import TeacherHead
from mmkd_core.distill.sources import Rows, Source
from mmkd_core.student.model import Student
from mmkd_core.student.pretrain import clip_loss
from mmkd_core.student.step import Embedded, Losses, Share
from mmkd_core.student.views import Views


@dataclass(frozen=True)
class Samples:
    """The student's side of a corpus of N samples: pixels, caption tokens, and the number of each sample's domain."""

    pixels: np.ndarray[Any, np.dtype[np.uint8]]
    tokens: Tensor
    domain: Tensor

    @classmethod
    def of(
        cls,
        student: Student,
        pixels: np.ndarray[Any, np.dtype[np.uint8]],
        captions: Sequence[str],
        domains: Sequence[str],
        bank: Bank,
    ) -> Samples:
        """Tokenize captions (N) and number domains as the bank does; -1 is a domain without a bank."""
        number = {domain: i for i, domain in enumerate(bank.domains)}
        return cls(pixels, student.tokenize(list(captions)), torch.tensor([number.get(d, -1) for d in domains]))


@dataclass(frozen=True)
class StepBatch:
    """What a step reads.

    Attributes:
        rows: (B,) rows of the corpus, everybody's.
        views: the share's images.
        tokens: the share's part of the step's distinct texts: captions, then the bank's domain by domain.
        which: (B,) the place of each row's caption among all of the step's texts.
        captions: how many of those texts are captions.
        draw: per domain, which texts of the bank follow.
        sources: who teaches in this step.
        frozen: the towers take no gradient in this step.
    """

    share: Share
    rows: Rows
    views: Views
    tokens: Tensor
    which: Tensor
    captions: int
    draw: Mapping[str, Rows]
    sources: tuple[Source, ...]
    frozen: bool


class Objective:
    """Losses of a step, as ``training.fit`` wants them.

    Args:
        student: trained in place.
        heads: per source with ``heads=True``, its ``TeacherHead``.
        sources: the teachers (and, in an incremental run, the parent).
        batches: rows of the corpus for a step.
        frozen: steps at the beginning in which only heads learn, so that a new one does not push the student about.
    """

    def __init__(
        self,
        student: Student,
        heads: Mapping[str, nn.Module],
        sources: Sequence[Source],
        samples: Samples,
        bank: Bank,
        batches: Callable[[int], Rows],
        config: DistillConfig,
        seed: int,
        frozen: int = 0,
    ) -> None:
        self.student, self.heads, self.sources, self.frozen = student, heads, sources, frozen
        self.samples, self.bank, self.batches, self.config, self.seed = samples, bank, batches, config, seed
        self.bank_tokens = {domain: student.tokenize(texts) for domain, texts in bank.texts.items()}

    def batch(self, step: int, share: Share) -> StepBatch:
        """Read the share's images; captions and the texts drawn from the bank are one list, shared out like images.

        People's captions repeat, so each is embedded once; the bank goes through the tower with them.
        """
        config, rows = self.config, self.batches(step)
        views = Views.of(self.samples.pixels, rows, share, config.crop, self.seed, step)
        draw = self.bank.draw(config.bank.per_step, self.seed, step) if config.factors.relation else {}
        captions, which = torch.unique(self.samples.tokens[torch.from_numpy(rows)], dim=0, return_inverse=True)
        tokens = torch.cat([captions, *(self.bank_tokens[domain][index] for domain, index in draw.items())])
        own = tokens[share.of(len(tokens))]
        sources = tuple(source for source in self.sources if source.teaches(step))
        return StepBatch(share, rows, views, own, which, len(captions), draw, sources, step < self.frozen)

    def embed(self, batch: StepBatch, piece: Share) -> Embedded:
        """Unit-norm embeddings of images (b, D) and of texts (t, D)."""
        with torch.set_grad_enabled(torch.is_grad_enabled() and not batch.frozen):
            text = self.student.texts(batch.tokens[piece.of(len(batch.tokens))])
            return batch.views.embed(self.student, piece), F.normalize(text, dim=-1)

    def losses(self, batch: StepBatch, embedded: Embedded) -> Losses:
        """Weighted losses of the share."""
        weights, share = self.config.factors, batch.share
        image, texts = embedded
        text, bank = texts[batch.which], texts[batch.captions :]
        scale = self.student.model.logit_scale.exp()
        scale = scale.detach() if batch.frozen else scale
        parts = {}
        if weights.clip or weights.untaught:
            parts["clip"] = clip_loss(image, text, scale, self._captions(batch), share)
        if weights.relation:
            parts["relation"] = weights.relation * self._relation(batch, image, bank, scale) / share.count
        if weights.fd or weights.icl:
            fd, icl = self._heads(batch, image, text)
            parts |= {"fd": weights.fd * fd / share.count} if weights.fd else {}
            parts |= {"icl": weights.icl * icl / share.count} if weights.icl else {}
        return parts

    def _captions(self, batch: StepBatch) -> Tensor:
        """Factor (B,) of each sample's own caption: the only thing that teaches a sample nobody else teaches."""
        taught = np.any([source.mask[batch.rows] for source in batch.sources], axis=0)
        weights = self.config.factors
        return torch.from_numpy(np.where(taught, weights.clip, weights.untaught).astype(np.float32))

    def _relation(self, batch: StepBatch, image: Tensor, texts: Tensor, scale: Tensor) -> Tensor:
        """Mean over all (sample, trusted source) pairs of KL(source || student) over the bank of their domain.

        What is urgent adds to it and takes nothing from the others.
        """
        rows, draw = batch.rows, batch.draw
        texts = texts.reshape(len(draw), -1, image.shape[1])
        domain = self.samples.domain[torch.from_numpy(rows)]
        total, pairs = image.new_zeros(()), 0.0
        for source in batch.sources:
            chosen = np.flatnonzero(source.mask[rows] & (domain.numpy() >= 0))
            if not len(chosen):
                continue
            where = domain[chosen]
            logits = scale * torch.einsum("bd,bkd->bk", image[chosen], texts[where])
            bank = torch.stack([source.bank[name][index] for name, index in draw.items()])
            with torch.autocast("cpu", enabled=False):  # a teacher's posterior is the target: in full precision
                teacher = source.logit_scale * torch.einsum("bd,bkd->bk", source.images(rows[chosen]), bank[where])
            urgency = source.weights(rows[chosen])
            divergence = loss.relation(logits.float(), teacher.softmax(-1), urgency)
            total = total + source.factor * urgency.sum() * divergence
            pairs += source.factor * len(chosen)
        return total / max(pairs, 1.0)

    def _heads(self, batch: StepBatch, image: Tensor, text: Tensor) -> tuple[Tensor, Tensor]:
        """FD and ICL, each a mean over the teachers that count for at least two samples of the batch."""
        rows = batch.rows
        fd, icl = [image.new_zeros(())], [image.new_zeros(())]
        for source in batch.sources:
            chosen = np.flatnonzero(source.mask[rows])
            if not source.heads or len(chosen) < 2:
                continue
            head = self.heads[source.name]
            assert isinstance(head, TeacherHead)
            t_image, t_text = source.images(rows[chosen]), source.texts(rows[chosen])
            p_image, p_text = head(image[chosen], "image"), head(text[chosen], "text")
            towers = ((p_image, t_image, "image"), (p_text, t_text, "text"))
            fd += [loss.feature_distillation(p, head.normalisers[w].forward(t)) / 2 for p, t, w in towers]
            contrast = loss.interactive_contrast(
                head.native(p_image, "image"), head.native(p_text, "text"), t_image, t_text, head.log_scale.exp()
            )
            icl.append(contrast)
        teachers = max(1, len(icl) - 1)
        return torch.stack(fd).sum() / teachers, torch.stack(icl).sum() / teachers
