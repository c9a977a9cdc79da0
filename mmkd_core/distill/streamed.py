"""Losses of any number of teachers in the memory of one: a teacher at a time, its samples in chunks of rows.

A plain loop keeps, for every teacher, predictions, targets and two matrices of logits until the backward pass. Here the
gradient is computed with the loss and only the gradient is kept: (B, S) per tower and that of the heads' parameters.
FD and ICL never hold more than a chunk of logits; CRD, GD and AFD, which pair the student with itself, hold those of
one teacher. Under autocast matrices are multiplied in its dtype; softmax and sums are in fp32.

The formulas are those of ``losses``.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from mmkd_core.distill import losses
from mmkd_core.distill.config import Weights
from mmkd_core.distill.heads import TeacherHead, full
from mmkd_core.distill.normalise import PhiS

TERMS = ("fd", "icl", "crd", "gd", "afd")
PAIRED = ("crd", "gd", "afd")
"""Terms that pair the student's images with the student's texts."""
TOWERS = ("image", "text")
CHUNK_LOGITS = {"cpu": 1 << 21, "cuda": 1 << 25}
"""Logits of a chunk: what a processor's cache holds, what keeps a GPU busy."""
Pair = dict[str, Tensor]
"""One tensor per tower."""


@dataclass(frozen=True)
class Lesson:
    """What one teacher teaches in a step.

    Attributes:
        head: from the student's embedding to the teacher's space.
        rows: (n,) rows of the student's embeddings that the teacher counts for.
        features: per tower unit-norm features (m, D) of all samples that it counts for. With several processes these
            are the samples of all of them, m >= n, so that the negatives are those of the whole batch.
        own: (n,) where each of ``rows`` lies in ``features``.
        logit_scale: the teacher's own, already exponentiated.
        factor: of all its losses.
        sample_factor: (n,) of its FD, sample by sample; None is 1.
    """

    head: TeacherHead
    rows: Tensor
    features: Pair
    own: Tensor
    logit_scale: float = 1.0
    factor: float = 1.0
    sample_factor: Tensor | None = None


@dataclass(frozen=True)
class Method:
    """How the terms are computed.

    Attributes:
        weights: of the terms; what weighs 0 is not computed.
        fd: which of the two forms of FD, see ``losses``.
    """

    weights: Weights
    fd: Literal["cosine", "mse"] = "cosine"


def taught(image: Tensor, text: Tensor, lessons: Sequence[Lesson], method: Method) -> dict[str, Tensor]:
    """Weighted FD, ICL, CRD, GD and AFD: each the sum over lessons of ``factor`` times the mean over its m samples.

    A process that holds n of the m samples gets its share of the mean of FD and ICL. The other terms need all samples.

    Args:
        image, text: the student's unit-norm embeddings (B, S), with gradient.
        lessons: of teachers that count for at least one sample.

    Returns:
        Terms by name. Only their sum is meant to be minimised: all of the gradient hangs on the last one.

    Raises:
        ValueError: CRD, GD or AFD is asked for samples of which some are elsewhere.
    """
    names = [term for term in TERMS if getattr(method.weights, term)]
    if not names:
        return {}
    parameters = {id(p): p for lesson in lessons for p in lesson.head.parameters() if p.requires_grad}
    total, *parts = _Streamed.apply(image, text, lessons, method, names, *parameters.values())
    *first, last = names
    named = dict(zip(first, parts, strict=False))
    return named | {last: total - sum(named.values())}


@torch.no_grad()
def fd_of_samples(image: Tensor, text: Tensor, lessons: Sequence[Lesson], fd: str) -> list[Tensor]:
    """FD (n,) of each lesson's samples, in the mean over towers; without gradient."""
    found = []
    for lesson in lessons:
        total = torch.zeros(len(lesson.rows), device=image.device)
        for tower, embedding in (("image", image), ("text", text)):
            target = lesson.head.normalisers[tower].forward(lesson.features[tower][lesson.own])
            value, _ = FD[fd](lesson.head(embedding[lesson.rows], tower), full(target))
            total += value.squeeze(1) / 2
        found.append(total)
    return found


@dataclass
class _Sums:
    """Weighted losses by term and the gradient of their sum, as far as lessons have been given."""

    values: dict[str, Tensor]
    embeddings: Pair
    parameters: dict[int, Tensor] = field(default_factory=dict)

    def keep(self, parameters: Sequence[Tensor], gradients: Sequence[Tensor | None]) -> None:
        for parameter, gradient in zip(parameters, gradients, strict=True):
            if gradient is not None:  # contiguous, or autograd would copy it when it hands it over
                kept = self.parameters.get(id(parameter))
                self.parameters[id(parameter)] = gradient.contiguous() if kept is None else kept.add_(gradient)


class _Streamed(torch.autograd.Function):
    """Computes the gradient in the forward pass; the backward pass only scales it."""

    @staticmethod
    def forward(
        ctx: Any,
        image: Tensor,
        text: Tensor,
        lessons: Sequence[Lesson],
        method: Method,
        names: Sequence[str],
        *parameters: Tensor,
    ) -> Any:
        zeros = {"image": torch.zeros_like(image), "text": torch.zeros_like(text)}
        sums = _Sums({name: image.new_zeros(()) for name in names}, zeros)
        device = image.device.type
        dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else None
        with torch.autocast(device, enabled=False):
            for lesson in lessons:
                _Teaching(lesson, {"image": image.detach(), "text": text.detach()}, method, dtype, sums).teach()
        ctx.gradients = (*sums.embeddings.values(), *(sums.parameters.get(id(p)) for p in parameters))
        parts = tuple(sums.values.values())
        ctx.mark_non_differentiable(*parts)
        return torch.stack(parts).sum(), *parts

    @staticmethod
    def backward(ctx: Any, grad: Tensor, *_: Tensor) -> Any:
        # In place and once: a copy would be as large as all else together.
        gradients, ctx.gradients = ctx.gradients, None
        if gradients is None:
            raise RuntimeError("the streamed losses keep one gradient, and it has been taken: compute them again")
        image, text, *parameters = (None if g is None else g.mul_(grad) for g in gradients)
        return image, text, None, None, None, *parameters


class _Teaching:
    """One lesson on its way into the sums."""

    def __init__(
        self, lesson: Lesson, embeddings: Pair, method: Method, dtype: torch.dtype | None, sums: _Sums
    ) -> None:
        self.lesson, self.head, self.method, self.dtype, self.sums = lesson, lesson.head, method, dtype, sums
        self.embeddings = embeddings
        self.device, self.count = embeddings["image"].device.type, len(lesson.features["image"])
        self.parameters = [p for p in lesson.head.parameters() if p.requires_grad]
        self.contrast = bool(method.weights.icl) and self.count > 1
        with torch.no_grad():
            self.scale = lesson.head.scale()
        self.d_scale = torch.zeros_like(self.scale)

    def teach(self) -> None:
        """Tower by tower, chunk by chunk."""
        paired = any(getattr(self.method.weights, term) for term in PAIRED) and self.count > 1
        pulls = self._paired() if paired else {}
        for tower in TOWERS:
            self._tower(tower, pulls.get(tower))
        with torch.enable_grad():
            scale = self.head.scale()
        self.sums.keep(self.parameters, torch.autograd.grad(scale, self.parameters, self.d_scale, allow_unused=True))

    def _tower(self, tower: str, pull: Tensor | None) -> None:
        image, text = self._turned(self.head.normalisers[tower]).chunk(2)
        targets, keys = (image, text) if tower == "image" else (text, image)
        for part in self._chunks():
            gradient = self._chunk(tower, targets, keys, part, pull)
            self.sums.embeddings[tower].index_add_(0, self.lesson.rows[part], gradient)

    def _turned(self, phi: PhiS) -> Tensor:
        """``PhiS.turned`` of images and texts (2m, D): both in one product, without a copy beside what it takes."""
        features = self.lesson.features
        centred = features["image"].new_empty(2 * self.count, len(phi.mean))
        for half, tower in zip(centred.chunk(2), TOWERS, strict=True):
            torch.sub(features[tower], phi.mean, out=half)
        with self._multiplying():
            return centred @ phi.rotation.T

    def _chunks(self) -> Iterator[slice]:
        rows = max(1, CHUNK_LOGITS["cpu" if self.device == "cpu" else "cuda"] // max(1, self.count))
        return (slice(start, start + rows) for start in range(0, len(self.lesson.rows), rows))

    def _chunk(self, tower: str, targets: Tensor, keys: Tensor, part: slice, pull: Tensor | None) -> Tensor:
        """Gradient (rows, S) with respect to the student's embeddings of some rows.

        All in the teacher's space as the normaliser rotates it: features are rotated once, and the student's
        predictions, which are there already, need no way back. That the keys are centred as well changes no posterior:
        all logits of a row are moved alike.
        """
        lesson, phi = self.lesson, self.head.normalisers[tower]
        with torch.enable_grad(), self._multiplying():
            x = self.embeddings[tower][lesson.rows[part]].requires_grad_()
            output = self.head(x, tower)
        predicted = output.detach()
        push = (
            self._fd(predicted, phi.scale * full(targets[lesson.own[part]]), part)
            if self.method.weights.fd
            else torch.zeros_like(predicted)
        )
        if self.contrast or pull is not None:
            turned = phi.turned_back(predicted)
            length = turned.norm(dim=1, keepdim=True).clamp_min(1e-12)
            turned /= length
            away = torch.zeros_like(turned) if pull is None else pull[part] @ phi.rotation.T
            if self.contrast:
                away += self._icl(turned, keys, lesson.own[part])
            # Of the gradient at a unit vector, what lies along it is lost.
            away.addcmul_(turned, (turned * away).sum(1, keepdim=True), value=-1)
            push += away.div_(length)
        gradient, *others = torch.autograd.grad(output, [x, *self.parameters], push, allow_unused=True)
        self.sums.keep(self.parameters, others)
        return gradient

    def _fd(self, predicted: Tensor, targets: Tensor, part: slice) -> Tensor:
        """Gradient of FD with respect to predictions (rows, D)."""
        lesson = self.lesson
        value, push = FD[self.method.fd](predicted, targets)
        share = lesson.factor * self.method.weights.fd / (2 * self.count)
        if lesson.sample_factor is not None:
            value, push = (x * lesson.sample_factor[part].unsqueeze(1) for x in (value, push))
        self.sums.values["fd"] += share * value.sum()
        return push.mul_(share)

    def _icl(self, turned: Tensor, keys: Tensor, own: Tensor) -> Tensor:
        """Gradient of ICL with respect to unit-norm predictions (rows, D)."""
        value, away, d_scale = _contrast(turned, keys, own, self.scale)
        share = self.lesson.factor * self.method.weights.icl / (2 * self.count)
        self.sums.values["icl"] += share * value
        self.d_scale += share * d_scale
        return away.mul_(share)

    def _paired(self) -> Pair:
        """CRD, GD and AFD by autograd of the plain formulas; returns their gradient (n, D) per tower."""
        lesson, weights, head = self.lesson, self.method.weights, self.head
        if len(lesson.rows) != self.count:
            raise ValueError("crd, gd and afd pair all samples of a batch, and some of these are elsewhere")
        with self._multiplying():
            embedded = {tower: self.embeddings[tower][lesson.rows] for tower in TOWERS}
            student = {tower: head.native(head(x, tower), tower) for tower, x in embedded.items()}
        teacher = {tower: lesson.features[tower][lesson.own] for tower in TOWERS}
        both = (teacher["image"], teacher["text"])
        with torch.enable_grad(), self._multiplying():
            image, text, scale = (x.requires_grad_() for x in (*student.values(), self.scale.clone()))
            scales, terms = (scale, scale.new_tensor(lesson.logit_scale)), {}
            if weights.crd:
                terms["crd"] = weights.crd * losses.contrastive_relation(image, text, *both, *scales)
            if weights.gd:
                terms["gd"] = weights.gd * losses.gradient_distillation(image, text, *both, *scales)
            if weights.afd:
                assert head.fusion is not None
                terms["afd"] = weights.afd * losses.clip_contrast(*head.fusion(image, text, *both))
            total = lesson.factor * torch.stack(list(terms.values())).sum()
        for name, value in terms.items():
            self.sums.values[name] += lesson.factor * value.detach()
        leaves = [image, text, scale, *self.parameters]
        d_image, d_text, d_scale, *others = torch.autograd.grad(total, leaves, allow_unused=True)
        self.sums.keep(self.parameters, others)
        self.d_scale += 0 if d_scale is None else d_scale
        return {"image": d_image, "text": d_text}

    def _multiplying(self) -> torch.autocast:
        return torch.autocast(self.device, self.dtype, enabled=self.dtype is not None, cache_enabled=False)


def _cosine(student: Tensor, teacher: Tensor) -> tuple[Tensor, Tensor]:
    """``losses.feature_distillation`` per sample (n, 1), and its gradient (n, D)."""
    inverse_s, inverse_t = (x.norm(dim=1, keepdim=True).clamp_min(1e-8).reciprocal() for x in (student, teacher))
    cosine = (student * teacher).sum(1, keepdim=True) * inverse_s * inverse_t
    share, rest = losses.COSINE_SHARE, 1 - losses.COSINE_SHARE
    smooth = F.smooth_l1_loss(student, teacher, reduction="none").mean(1, keepdim=True)
    gradient = (student - teacher).clamp_(-1, 1).mul_(rest / student.shape[1])  # of smooth L1
    gradient.addcmul_(student, cosine * inverse_s.square(), value=share)
    gradient.addcmul_(teacher, inverse_s * inverse_t, value=-share)
    return share * (1 - cosine) + rest * smooth, gradient


def _squares(student: Tensor, teacher: Tensor) -> tuple[Tensor, Tensor]:
    """``losses.mse_distillation`` per sample (n, 1), and its gradient (n, D)."""
    difference = student - teacher
    return difference.square().mean(1, keepdim=True), difference.mul_(2 / student.shape[1])


FD = {"cosine": _cosine, "mse": _squares}


def _contrast(student: Tensor, keys: Tensor, own: Tensor, scale: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Cross entropy of unit-norm rows (n, D) against all keys (m, D), summed over rows, and its gradients.

    Args:
        keys: in the dtype in which matrices are multiplied.
        own: (n,) the place of each row's own key.

    Returns:
        The sum, and its gradients with respect to ``student`` and to ``scale``.
    """
    logits = (scale * student).to(keys.dtype) @ keys.T
    highest, right = full(logits.amax(1)), full(logits.gather(1, own.unsqueeze(1)))
    posterior = logits.softmax(1)
    # The log of the sum, from the largest entry: unlike the positive's, its posterior cannot be 0.
    total = highest - full(posterior.amax(1)).log()
    away = full(posterior @ keys) - full(keys[own])
    d_scale = (student * away).sum()
    return (total - right.squeeze(1)).sum(), away.mul_(scale), d_scale
