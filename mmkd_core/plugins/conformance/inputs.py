"""Checks of the way into a model: images become pixels, texts become tokens."""

from __future__ import annotations

from typing import Any

from mmkd_core.contract import Teacher, golden_image
from mmkd_core.plugins.conformance.subject import FailedError, Subject
from mmkd_core.plugins.record import describe

LONG = "a report " * 400
OTHER_LETTERS = "πνεύμων 肺 🫁"


def it_preprocesses(subject: Subject) -> None:
    """An image becomes a finite float32 tensor of the declared size, on the CPU."""
    _check_pixels(subject, subject.answer("pixels")[0])


def it_normalises_pixels_once(subject: Subject) -> None:
    """Black and white become what mean and std say: normalised once, neither twice nor not at all."""
    from PIL import Image

    spec = subject.spec.image
    for name, level, value in (("black", 0, 0.0), ("white", 255, 1.0)):
        picture = Image.new("RGB", (2 * spec.size, 2 * spec.size), (level, level, level))
        found = subject.teacher.preprocess(picture)
        for channel, (mean, std) in enumerate(zip(spec.mean, spec.std, strict=True)):
            expected = (value - mean) / std
            pixel = found[channel].mean().item()
            if abs(pixel - expected) <= 1e-3 * max(1, abs(expected)):
                continue
            looks = {
                "normalised twice": (expected - mean) / std,
                "scaled to 0..1 and not normalised": value,
                "not scaled to 0..1": float(level),
                "not scaled to 0..1 before it was normalised": (level - mean) / std,
            }
            hint = next((f": it is {say}" for say, wrong in looks.items() if abs(pixel - wrong) < 1e-2), "")
            raise FailedError(f"mean and std make {name} {expected:.4g}, preprocess makes it {pixel:.4g}{hint}")


def it_tokenizes(subject: Subject) -> None:
    """Texts become int64 ids of shape (B, at most context_length), on the CPU, the same each time."""
    import torch

    tokens, limit = subject.answer("tokens"), subject.spec.text.context_length
    if tokens.ndim != 2 or tokens.shape[0] != len(subject.texts) or tokens.shape[1] > limit:
        says = f"({len(subject.texts)}, at most {limit})"
        raise FailedError(f"spec says {says}, it gives {tuple(tokens.shape)}")
    if tokens.dtype != torch.int64 or tokens.device.type != "cpu":
        raise FailedError(f"ids must be torch.int64 on cpu, not {tokens.dtype} on {tokens.device}")
    again = [subject.teacher.tokenize(subject.texts) for _ in range(2)]  # twice: see it_is_deterministic
    if not all(torch.equal(tokens, one) for one in again):
        raise FailedError("the same texts give different ids")


def any_8_bit_image_will_do(subject: Subject) -> None:
    """Grey, palette and transparent images and extreme shapes are preprocessed as well."""
    teacher, picture = subject.teacher, golden_image(0)
    for mode in ("L", "LA", "P", "RGBA", "1"):
        _try_image(subject, teacher, f"an image of mode {mode}", picture.convert("RGBA").convert(mode))
    for size in ((1, 1), (1000, 20), (20, 1000)):
        _try_image(subject, teacher, f"an image of {size[0]} x {size[1]} pixels", picture.resize(size))


def any_text_will_do(subject: Subject) -> None:
    """A text that is too long is cut, and an empty or a foreign one is no error."""
    teacher, limit = subject.teacher, subject.spec.text.context_length
    for name, text in (("a text that is too long", LONG), ("an empty text", ""), ("other letters", OTHER_LETTERS)):
        try:
            tokens = teacher.tokenize([text, subject.texts[0]])
            found = teacher.encode_text(tokens)
        except Exception as error:
            raise FailedError(f"{name}: {describe(error)}") from error
        if tokens.shape[1] > limit:
            raise FailedError(f"{name}: {tokens.shape[1]} ids, context_length is {limit}")
        if not bool(found.isfinite().all()):
            raise FailedError(f"{name}: the embedding holds NaN or infinity")


def _check_pixels(subject: Subject, found: Any) -> None:
    import torch

    expected = (3, subject.spec.image.size, subject.spec.image.size)
    if tuple(found.shape) != expected or found.dtype != torch.float32:
        raise FailedError(f"spec says float32 {expected}, it gives {found.dtype} {tuple(found.shape)}")
    if found.device.type != "cpu":
        raise FailedError(f"pixels must be on the CPU, not on {found.device}")
    if not bool(torch.isfinite(found).all()):
        raise FailedError("pixels hold NaN or infinity")


def _try_image(subject: Subject, teacher: Teacher, name: str, image: Any) -> None:
    try:
        found = teacher.preprocess(image)
    except Exception as error:
        raise FailedError(f"{name}: {describe(error)}") from error
    try:
        _check_pixels(subject, found)
    except FailedError as error:
        raise FailedError(f"{name}: {error}") from None
