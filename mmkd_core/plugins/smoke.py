"""Does a teacher do what its spec says? One synthetic image and two texts, on the CPU, in a second.

Notices: wrong shapes, other types than float32, NaN, dropout left on, gradients left on, another embedding dimension,
and, where the spec declares golden values, weights or preprocessing that load without complaint and are wrong.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from mmkd_core.contract import Teacher, TeacherSpec, golden_image
from mmkd_core.errors import PluginError

if TYPE_CHECKING:
    from torch import Tensor, nn

    from mmkd_core.plugins.host import PluginHost

TEXTS = ("a medical image", "a much longer text, so that the two differ in their number of tokens")


def smoke_check(host: PluginHost, spec: TeacherSpec) -> None:
    """Load a teacher on the CPU and check it.

    Raises:
        PluginError: names the teacher, the step, what the spec says and what the model gave.
    """
    teacher = host.load(spec, "cpu")
    for module in _modules(teacher):
        training = [name or "the model" for name, part in module.named_modules() if part.training]
        if training:
            raise _failed(spec, "eval mode", f"{training[0]} is in training mode")
        learning = [name for name, parameter in module.named_parameters() if parameter.requires_grad]
        if learning:
            raise _failed(spec, "frozen", f"parameter {learning[0]} requires a gradient")
    _check_inputs(teacher, spec)
    seed, prompt = (spec.golden.seed, spec.golden.prompt) if spec.golden else (0, TEXTS[0])
    image = teacher.preprocess(golden_image(seed)).unsqueeze(0)
    tokens = teacher.tokenize([prompt, TEXTS[1]])
    first = {"image": teacher.encode_image(image), "text": teacher.encode_text(tokens)}
    again = {"image": teacher.encode_image(image), "text": teacher.encode_text(tokens)}
    for tower, rows in (("image", 1), ("text", 2)):
        _check_embedding(spec, tower, first[tower], again[tower], rows)
    if spec.golden:
        _check_golden(spec, "image", first["image"][0].tolist(), spec.golden.image, spec.golden.tolerance)
        _check_golden(spec, "text", first["text"][0].tolist(), spec.golden.text, spec.golden.tolerance)


def _modules(teacher: Teacher) -> list[nn.Module]:
    from torch import nn

    held = [teacher, *getattr(teacher, "__dict__", {}).values()]
    return [part for part in held if isinstance(part, nn.Module)]


def _check_inputs(teacher: Teacher, spec: TeacherSpec) -> None:
    import torch

    image = teacher.preprocess(golden_image(0))
    expected = (3, spec.image.size, spec.image.size)
    if tuple(image.shape) != expected or image.dtype != torch.float32:
        raise _failed(spec, "preprocess", f"spec says float32 {expected}, it gives {image.dtype} {tuple(image.shape)}")
    tokens = teacher.tokenize(TEXTS)
    if tokens.ndim != 2 or tokens.shape[0] != 2 or tokens.shape[1] > spec.text.context_length:
        says = f"(2, at most {spec.text.context_length})"
        raise _failed(spec, "tokenize", f"spec says {says}, it gives {tuple(tokens.shape)}")


def _check_embedding(spec: TeacherSpec, tower: str, first: Tensor, again: Tensor, rows: int) -> None:
    import torch

    step = f"encode_{tower}"
    if first.ndim != 2 or first.shape[0] != rows:
        raise _failed(spec, step, f"{rows} inputs give shape {tuple(first.shape)}, not ({rows}, D)")
    if first.shape[1] != spec.embed_dim:
        raise _failed(spec, "embed_dim", f"spec says {spec.embed_dim}, {step} gives {first.shape[1]}")
    if first.dtype != torch.float32:
        raise _failed(spec, step, f"embeddings are {first.dtype}, not float32")
    if first.requires_grad:
        raise _failed(spec, step, "embeddings carry a gradient")
    if not bool(torch.isfinite(first).all()):
        raise _failed(spec, step, "embeddings hold NaN or infinity")
    if not torch.allclose(first, again, rtol=1e-4, atol=1e-6):
        raise _failed(spec, step, "the same input gives different embeddings: dropout is on or the model is random")


def _check_golden(
    spec: TeacherSpec, tower: str, found: list[float], golden: tuple[float, ...], tolerance: float
) -> None:
    if len(golden) > len(found):
        raise _failed(spec, f"golden {tower} values", f"{len(golden)} are declared, the embedding has {len(found)}")
    worst = max(abs(a - b) for a, b in zip(found, golden, strict=False)) / (max(map(abs, golden)) or 1.0)
    if not worst <= tolerance:
        raise _failed(
            spec,
            f"golden {tower} values",
            f"off by {worst:.2g} of the largest, {tolerance:.2g} is allowed; weights or preprocessing differ",
        )


def _failed(spec: TeacherSpec, step: str, reason: str) -> PluginError:
    return PluginError(
        f"{spec.name}: smoke check failed at {step}: {reason}",
        next=f"Mend the plugin, then run `mmkd teachers add {spec.name}`",
    )
