"""Checks of what a model answers: shapes, types, values, and whether they depend on what they should."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from mmkd_core.plugins.conformance.subject import FailedError, SkippedError, Subject, Tower

if TYPE_CHECKING:
    from torch import Tensor, nn

UNIT = 1e-3
"""How near to 1 all lengths must be before they are taken for normalised."""
SAME = 1e-5
"""Relative difference below which two embeddings are one; rounding stays under it."""


def it_loads(subject: Subject) -> None:
    """Its files are the declared ones, and the model is built from them."""
    if subject.load_error:
        raise FailedError(subject.load_error)


def it_answers(subject: Subject) -> None:
    """It preprocesses, tokenizes and encodes without raising."""
    if subject.load_error:
        raise SkippedError("it could not be loaded")
    if subject.errors:
        raise FailedError("; ".join(subject.errors))


def it_is_frozen(subject: Subject) -> None:
    """The model is in evaluation mode and none of its parameters wants a gradient."""
    for module in _modules(subject.teacher):
        training = [name or "the model" for name, part in module.named_modules() if part.training]
        if training:
            raise FailedError(f"{training[0]} is in training mode")
        learning = [name for name, parameter in module.named_parameters() if parameter.requires_grad]
        if learning:
            raise FailedError(f"parameter {learning[0]} requires a gradient")


def it_has_the_declared_shape(subject: Subject) -> None:
    """Both towers give (B, embed_dim)."""
    for tower, found in subject.towers():
        rows = len(subject.texts)
        if found.ndim != 2 or found.shape[0] != rows:
            raise FailedError(f"encode_{tower}: {rows} inputs give shape {tuple(found.shape)}, not ({rows}, D)")
        if found.shape[1] != subject.spec.embed_dim:
            raise FailedError(f"spec says embed_dim {subject.spec.embed_dim}, encode_{tower} gives {found.shape[1]}")


def it_gives_float32(subject: Subject) -> None:
    """Embeddings are float32 and carry no gradient."""
    import torch

    for tower, found in subject.towers():
        if found.dtype != torch.float32:
            raise FailedError(f"encode_{tower}: embeddings are {found.dtype}, not float32")
        if found.requires_grad:
            raise FailedError(f"encode_{tower}: embeddings carry a gradient")


def it_is_finite(subject: Subject) -> None:
    """No embedding holds NaN or infinity."""
    import torch

    for tower, found in subject.towers():
        if not bool(torch.isfinite(found).all()):
            raise FailedError(f"encode_{tower}: embeddings hold NaN or infinity")


def it_is_deterministic(subject: Subject) -> None:
    """The same input gives the same embedding."""
    for tower, found in subject.towers():
        for _ in range(2):  # twice, because random numbers were put back since the first answer
            again = subject.encode(tower)
            if found.shape != again.shape or not _near(found, again):
                raise FailedError(
                    f"encode_{tower}: the same input gives different embeddings: dropout is on or the model is random"
                )


def it_does_not_normalise(subject: Subject) -> None:
    """Embeddings are raw: normalising them is done elsewhere, once."""
    for tower, found in subject.towers():
        lengths = found.flatten(1).norm(dim=1)
        if bool(((lengths - 1).abs() < UNIT).all()):
            raise FailedError(f"encode_{tower}: all embeddings have length 1: return them before they are normalised")


def its_logit_scale_is_a_number(subject: Subject) -> None:
    """The learnt logit scale, if the teacher tells it, is positive and finite."""
    learnt = getattr(subject.teacher, "logit_scale", None)
    if learnt is None:
        raise SkippedError("the teacher tells none; the spec's is used")
    if not (math.isfinite(learnt) and learnt > 0):
        raise FailedError(f"the model's own is {learnt}")


def images_differ(subject: Subject) -> None:
    """Two different images do not get the same embedding."""
    _distinct(subject, "image", "images")


def texts_differ(subject: Subject) -> None:
    """Two different texts do not get the same embedding."""
    tokens = subject.answer("tokens")
    if bool((tokens[0] == tokens[1]).all()):
        raise FailedError(f"tokenize gives the same ids for {subject.texts[0]!r} and {subject.texts[1]!r}")
    _distinct(subject, "text", "texts")


def batches_do_not_matter(subject: Subject) -> None:
    """An input gets the same embedding alone, in a batch, and beside longer texts."""
    import torch

    for tower, found in subject.towers():
        alone = torch.cat([subject.encode(tower, slice(i, i + 1)) for i in range(len(subject.texts))])
        if not _near(found, alone, 1e-3):
            raise FailedError(
                f"encode_{tower}: alone an input gets another embedding than in a batch (batch statistics or padding)"
            )


def _distinct(subject: Subject, tower: Tower, plural: str) -> None:
    found = subject.answer(tower)
    for i in range(len(found)):
        for k in range(i):
            if _near(found[i], found[k], SAME):
                raise FailedError(f"encode_{tower}: two different {plural} get the same embedding")


def _near(a: Tensor, b: Tensor, tolerance: float = 1e-4) -> bool:
    """Whether no entry differs by more than the tolerance, relative to the largest entry."""
    largest = a.abs().max().item()
    worst = (a - b).abs().max().item()
    return math.isfinite(worst) and worst <= tolerance * (largest or 1.0)


def _modules(teacher: Any) -> list[nn.Module]:
    from torch import nn

    held = [teacher, *getattr(teacher, "__dict__", {}).values()]
    return [part for part in held if isinstance(part, nn.Module)]
