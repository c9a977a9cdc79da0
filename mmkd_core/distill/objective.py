"""The mmkd recipe: every trusted teacher of a sample teaches in every step.

Per-teacher heads learn the teachers' features (FD, ICL); the shared embedding learns from captions (0.1 x CLIP, and
1 x CLIP for samples that nobody teaches) and from the relation of images to a bank of texts.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from mmkd_core.data.manifest import Corpus
from mmkd_core.distill import losses as loss
from mmkd_core.distill.balance import dropping
from mmkd_core.distill.bank import Bank
from mmkd_core.distill.config import DistillConfig
from mmkd_core.distill.heads import TeacherHead
from mmkd_core.distill.sources import Reader, Reading, Source
from mmkd_core.distill.streamed import PAIRED, TERMS, Lesson, Method, fd_of_samples, taught
from mmkd_core.student.batches import Rows
from mmkd_core.student.captions import Captions
from mmkd_core.student.model import Student, evaluating, to_device
from mmkd_core.student.pretrain import clip_loss
from mmkd_core.student.step import Embedded, Losses, Share
from mmkd_core.student.views import Views


@dataclass(frozen=True)
class Samples:
    """The student's side of a corpus of N samples: pixels, caption tokens, and the number of each sample's domain.

    Attributes:
        pixels: uint8 (N, H, W, 3).
        tokens: (M, L) of all captions, in the order of ``Corpus.texts``.
        domain: (N,).
        captions: which captions are whose.
    """

    pixels: np.ndarray[Any, np.dtype[np.uint8]]
    tokens: Tensor
    domain: Tensor
    captions: Captions

    @classmethod
    def of(cls, student: Student, pixels: np.ndarray[Any, np.dtype[np.uint8]], corpus: Corpus, bank: Bank) -> Samples:
        """Tokenize all captions and number domains as the bank does; -1 is a domain without a bank."""
        number = {domain: i for i, domain in enumerate(bank.domains)}
        domains = torch.tensor([number.get(str(domain), -1) for domain in corpus.domain])
        return cls(pixels, student.tokenize(corpus.texts), domains, Captions.of(corpus))


@dataclass(frozen=True)
class StepBatch:
    """What a step reads.

    Attributes:
        rows: (B,) rows of the corpus, everybody's.
        views: the share's images.
        tokens: the share's part of the step's distinct texts: captions, then the bank's domain by domain.
        which: (B,) the place of each row's caption among all of the step's texts.
        captions: how many of those texts are captions.
        reading: what T sources say.
        relation: what they say of the share's images and the bank, if that is asked for.
        frozen: the towers take no gradient in this step.
    """

    step: int
    share: Share
    rows: Rows
    views: Views
    tokens: Tensor
    which: Tensor
    captions: int
    reading: Reading
    relation: Relation | None
    frozen: bool


@dataclass(frozen=True)
class Relation:
    """Targets of the relation for P pairs of a source and an image of a share that it teaches.

    Attributes:
        domain: (b,) number of each image's domain; 0 where it has no bank.
        image: (P,) the place of each pair's image in the share.
        posterior: (P, K) of the source over the drawn texts of that image's domain.
        weight: (P,) factor of the pair; over all shares they sum to 1, or to more where something is urgent.
    """

    domain: Tensor
    image: Tensor
    posterior: Tensor
    weight: Tensor


class Objective:
    """Losses of a step, as ``training.fit`` wants them.

    Args:
        student: trained in place.
        heads: per source with ``heads=True``, its ``TeacherHead``.
        sources: the teachers (and, in an incremental run, the parent).
        batches: rows of the corpus for a step.
        frozen: steps at the beginning in which only heads learn, so that a new one does not push the student about.
        shares: per source the factor of its FD; 1 where left out.
    """

    def __init__(
        self,
        student: Student,
        heads: Mapping[str, TeacherHead],
        sources: Sequence[Source],
        samples: Samples,
        bank: Bank,
        batches: Callable[[int], Rows],
        config: DistillConfig,
        seed: int,
        frozen: int = 0,
        shares: Mapping[str, float] | None = None,
    ) -> None:
        self.student, self.heads, self.sources, self.frozen = student, heads, sources, frozen
        self.samples, self.bank, self.batches, self.config, self.seed = samples, bank, batches, config, seed
        self.bank_tokens = {domain: student.tokenize(texts) for domain, texts in bank.texts.items()}
        self.reader, self.shares, self.parts = Reader(sources), shares or {}, config.parts
        weights = self.parts.weights
        asked = sources if weights.relation and bank.texts else ()
        self.bank_features = {source.name: torch.cat([source.bank[d] for d in bank.texts]) for source in asked}
        self.single = Method(weights.model_copy(update=dict.fromkeys(PAIRED, 0.0)), self.parts.fd)
        self.paired = Method(weights.model_copy(update={"fd": 0.0, "icl": 0.0}))

    def batch(self, step: int, share: Share) -> StepBatch:
        """Read the share's images; captions and the texts drawn from the bank are one list, shared out like images.

        Of a sample with several captions one is drawn, the same for the student and for all teachers. Captions repeat,
        so each is embedded once; the bank goes through the tower with them.
        """
        config, weights, rows = self.config, self.parts.weights, self.batches(step)
        views = Views.of(self.samples.pixels, rows, share, config.crop, self.seed, step)
        draw = self.bank.draw(config.bank.per_step, self.seed, step) if weights.relation else {}
        drawn = self.samples.captions.drawn(rows, self.seed, step)
        captions, which = torch.unique(self.samples.tokens[torch.from_numpy(drawn)], dim=0, return_inverse=True)
        tokens = torch.cat([captions, *(self.bank_tokens[domain][index] for domain, index in draw.items())])
        asked = self._asked(step)
        reading = self.reader.read(asked, rows, drawn if self._heads else None)
        relation = self._targets(reading, rows, share, draw) if weights.relation and asked else None
        own = tokens[share.of(len(tokens))]
        frozen = step < self.frozen
        return StepBatch(step, share, rows, views, own, which, len(captions), reading, relation, frozen)

    def teaching(self, rows: Rows, step: int) -> np.ndarray[Any, np.dtype[np.bool_]]:
        """(T, B) samples that each source teaches in a step: those of its mask, if it is asked then."""
        asked = {source.name for source in self._asked(step)}
        return np.stack([source.mask[rows] & (source.name in asked) for source in self.sources])

    @property
    def _heads(self) -> bool:
        return any(getattr(self.parts.weights, term) for term in TERMS)

    def _asked(self, step: int) -> list[Source]:
        """Sources that a step reads: those that have their turn, if the recipe has any use for them."""
        useful = self._heads or self.parts.weights.relation
        return [source for source in self.sources if source.teaches(step)] if useful else []

    def _targets(self, reading: Reading, rows: Rows, share: Share, draw: Mapping[str, Rows]) -> Relation:
        """Posteriors over the drawn texts, from cached features: a matrix product for each source.

        Every pair (sample, trusted source) weighs its source's factor. What is urgent adds to it and takes nothing from
        the others.
        """
        domain, mine = self.samples.domain[torch.from_numpy(rows)], share.of(len(rows))
        counts = torch.from_numpy(reading.trusted) & (domain >= 0)
        factors = torch.tensor([source.factor for source in reading.sources])
        whole = (factors * counts.sum(1)).sum().clamp_min(1.0)
        where, chosen = domain[mine].clamp_min(0), self._drawn(draw)
        image, posterior, weight = [], [], []
        for source, factor, features, asked in zip(
            reading.sources, factors, reading.images, counts[:, mine], strict=True
        ):
            own = asked.nonzero().squeeze(1)
            logits = source.logit_scale * features[mine][own] @ self.bank_features[source.name][chosen].T
            image.append(own)
            posterior.append(_of_domain(logits, where[own], len(draw)).softmax(-1))
            weight.append(factor * source.weights(rows[mine][own.numpy()]) / whole)
        return Relation(where, torch.cat(image), torch.cat(posterior), torch.cat(weight))

    def _drawn(self, draw: Mapping[str, Rows]) -> Tensor:
        """Places of the drawn texts among those of all domains."""
        starts = np.cumsum([0, *(len(texts) for texts in self.bank.texts.values())])
        return torch.from_numpy(
            np.concatenate([start + row for start, row in zip(starts, draw.values(), strict=False)])
        )

    def embed(self, batch: StepBatch, piece: Share) -> Embedded:
        """Unit-norm embeddings of images (b, D) and of texts (t, D)."""
        if batch.frozen:  # batch norms are left alone too
            with torch.no_grad(), evaluating(self.student.model):
                return self._embed(batch, piece)
        return self._embed(batch, piece)

    def _embed(self, batch: StepBatch, piece: Share) -> Embedded:
        text = self.student.texts(batch.tokens[piece.of(len(batch.tokens))])
        return batch.views.embed(self.student, piece), F.normalize(text, dim=-1)

    def losses(self, batch: StepBatch, embedded: Embedded) -> Losses:
        """Weighted losses of the share."""
        weights, share = self.parts.weights, batch.share
        image, texts = embedded
        text, bank = texts[batch.which], texts[batch.captions :]
        scale = self.student.model.logit_scale.exp()
        scale = scale.detach() if batch.frozen else scale
        parts = {}
        if weights.clip or weights.untaught:
            parts["clip"] = clip_loss(image, text, scale, self._captions(batch), share)
        if batch.relation:
            parts["relation"] = weights.relation * self._relation(batch.relation, share, image, bank, scale)
        parts |= taught(image, text, self._balanced(batch, image, text), self.single)
        parts |= taught(image, text, self._lessons(batch, Share(), 1 / share.count), self.paired)
        return parts

    def _captions(self, batch: StepBatch) -> Tensor:
        """Factor (B,) of each sample's own caption: the only thing that teaches a sample nobody else teaches."""
        masks = [source.mask[batch.rows] for source in self.sources if source.teaches(batch.step)]
        helped = np.any([np.zeros(len(batch.rows), bool), *masks], axis=0)
        weights = self.parts.weights
        return torch.from_numpy(np.where(helped, weights.clip, weights.untaught).astype(np.float32))

    @staticmethod
    def _relation(targets: Relation, share: Share, image: Tensor, texts: Tensor, scale: Tensor) -> Tensor:
        """KL(source || student) over the bank of each image's domain, in the mean over pairs of image and source."""
        domain, of, posterior, weight = (
            x.to(image.device) for x in (targets.domain, targets.image, targets.posterior, targets.weight)
        )
        logits = scale * image[share.of(len(image))] @ texts.T
        own = _of_domain(logits.float(), domain, len(texts) // posterior.shape[-1])
        return (weight * loss.relation(own[of], posterior)).sum()

    def _balanced(self, batch: StepBatch, image: Tensor, text: Tensor) -> list[Lesson]:
        """The share's lessons, their FD weighed sample by sample as the recipe says."""
        lessons = self._lessons(batch, batch.share)
        if self.parts.teacher_balance == "dropping" and lessons:
            losses = image.new_full((len(lessons), len(batch.rows)), -torch.inf)
            for row, lesson, found in zip(
                losses, lessons, fd_of_samples(image, text, lessons, self.parts.fd), strict=True
            ):
                row[lesson.rows] = found
            kept = dropping(losses, self.seed, batch.step)
            return [replace(x, sample_factor=row[x.rows]) for x, row in zip(lessons, kept, strict=True)]
        return lessons

    def _lessons(self, batch: StepBatch, share: Share, factor: float = 1.0) -> list[Lesson]:
        """Of the teachers that count for at least two samples of the batch; the losses are means over them."""
        read, mine, device = batch.reading, share.of(len(batch.rows)), self.student.device
        lessons = []
        for source, trusted, image, text in zip(read.sources, read.trusted, read.images, read.texts, strict=False):
            chosen = np.flatnonzero(trusted)
            if not source.heads or len(chosen) < 2:
                continue
            own = np.flatnonzero((chosen >= mine.start) & (chosen < mine.stop))
            rows, places = torch.from_numpy(chosen), torch.from_numpy(own)
            pair = (image, text) if trusted.all() else (image[rows], text[rows])
            features = {tower: to_device(x, device) for tower, x in zip(("image", "text"), pair, strict=True)}
            rows, places = to_device(rows[places], device), to_device(places, device)
            share_of_fd = self.shares.get(source.name)
            even = None if share_of_fd is None else torch.full((len(own),), share_of_fd, device=device)
            head = self.heads[source.name]
            lessons.append(Lesson(head, rows, features, places, source.logit_scale, sample_factor=even))
        return [replace(lesson, factor=factor / len(lessons)) for lesson in lessons]


def _of_domain(logits: Tensor, domain: Tensor, domains: int) -> Tensor:
    """From logits (b, domains x K) over the texts of all domains, those (b, K) of each row's own."""
    each = logits.view(len(logits), domains, logits.shape[1] // domains)
    return each[torch.arange(len(logits), device=logits.device), domain]
