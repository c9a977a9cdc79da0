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
from mmkd_core.student.training import random_crops


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


class Objective:
    """Losses of a step, as ``training.fit`` wants them.

    Args:
        student: trained in place.
        heads: per source with ``heads=True``, its ``TeacherHead``.
        sources: the teachers (and, in an incremental run, the parent).
        batches: rows of the corpus for a step.
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
    ) -> None:
        self.student, self.heads, self.sources = student, heads, sources
        self.samples, self.bank, self.batches, self.config, self.seed = samples, bank, batches, config, seed
        self.bank_tokens = {domain: student.tokenize(texts) for domain, texts in bank.texts.items()}

    def __call__(self, step: int) -> dict[str, Tensor]:
        """Weighted losses of one step."""
        config, weights, student = self.config, self.config.factors, self.student
        rows = self.batches(step)
        pixels = random_crops(student.prepare(self.samples.pixels[rows]), config.crop, self.seed, step)
        image = F.normalize(student.images(pixels), dim=-1)
        draw = self.bank.draw(config.bank.per_step, self.seed, step) if weights.relation else {}
        text, bank = self._texts(rows, draw)
        scale = student.model.logit_scale.exp()
        parts = {}
        if weights.clip or weights.untaught:
            parts["clip"] = clip_loss(image, text, scale, self._captions(rows))
        if weights.relation:
            parts["relation"] = weights.relation * self._relation(rows, image, bank, draw, scale)
        if weights.fd or weights.icl:
            fd, icl = self._heads(rows, image, text)
            parts |= {"fd": weights.fd * fd} if weights.fd else {}
            parts |= {"icl": weights.icl * icl} if weights.icl else {}
        return parts

    def _texts(self, rows: Rows, draw: Mapping[str, Rows]) -> tuple[Tensor, Tensor]:
        """Unit-norm captions (B, D) and, domain by domain, the drawn texts of the bank (K x domains, D).

        People's captions repeat, so each is embedded once; the bank goes through the tower with them.
        """
        captions, which = torch.unique(self.samples.tokens[torch.from_numpy(rows)], dim=0, return_inverse=True)
        drawn = [self.bank_tokens[domain][index] for domain, index in draw.items()]
        embedded = F.normalize(self.student.texts(torch.cat([captions, *drawn])), dim=-1)
        return embedded[which], embedded[len(captions) :]

    def _captions(self, rows: Rows) -> Tensor:
        """Factor (B,) of each sample's own caption: the only thing that teaches a sample nobody else teaches."""
        taught = np.any([source.mask[rows] for source in self.sources], axis=0)
        weights = self.config.factors
        return torch.from_numpy(np.where(taught, weights.clip, weights.untaught).astype(np.float32))

    def _relation(self, rows: Rows, image: Tensor, texts: Tensor, draw: Mapping[str, Rows], scale: Tensor) -> Tensor:
        """Mean over all (sample, trusted source) pairs of KL(source || student) over the bank of their domain."""
        texts = texts.reshape(len(draw), -1, image.shape[1])
        domain = self.samples.domain[torch.from_numpy(rows)]
        total, pairs = image.new_zeros(()), 0.0
        for source in self.sources:
            chosen = np.flatnonzero(source.mask[rows] & (domain.numpy() >= 0))
            if not len(chosen):
                continue
            where = domain[chosen]
            logits = scale * torch.einsum("bd,bkd->bk", image[chosen], texts[where])
            bank = torch.stack([source.bank[name][index] for name, index in draw.items()])
            with torch.autocast("cpu", enabled=False):  # a teacher's posterior is the target: in full precision
                teacher = source.logit_scale * torch.einsum("bd,bkd->bk", source.images(rows[chosen]), bank[where])
            divergence = loss.relation(logits.float(), teacher.softmax(-1), torch.ones(len(chosen)))
            total = total + source.factor * len(chosen) * divergence
            pairs += source.factor * len(chosen)
        return total / max(pairs, 1.0)

    def _heads(self, rows: Rows, image: Tensor, text: Tensor) -> tuple[Tensor, Tensor]:
        """FD and ICL, each a mean over the teachers that count for at least two samples of the batch."""
        fd, icl = [image.new_zeros(())], [image.new_zeros(())]
        for source in self.sources:
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
