"""Which weights a run trains: all, the last layers of both towers, or LoRA adapters that are merged when it ends.

Fewer trained weights mean less to forget, a smaller state of the optimiser and, from the frozen end on, no backward
pass. Heads and the logit scale are trained in any case. The student leaves as it came: with the same names and shapes.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from typing import Any

import torch
from torch import nn

from mmkd_core import advice
from mmkd_core.errors import TrainingError
from mmkd_core.student.model import Student

BLOCKS = ("transformer.resblocks", "transformer.encoder.layer", "trunk.blocks", "trunk.stages")
"""Where towers of open_clip, transformers and timm keep their layers; a ResNet has groups called layer1 and so on."""
TAIL = ("ln_post", "proj", "ln_final", "text_projection", "attn_pool", "attnpool", "trunk.norm", "head")
"""What comes after the last layer."""
RANK, SCALE = 8, 2.0
"""Of LoRA: the rank unless one is given, and alpha as a multiple of it."""


@contextmanager
def tuned(student: Student, train: str, seed: int) -> Iterator[None]:
    """Inside, only what ``train`` names (``full``, ``last-N``, ``lora``, ``lora-RANK``) wants a gradient.

    Modules and optimisers must be gathered inside. At the end, adapters are merged into the weights that they adapt.

    Args:
        seed: of the adapters' random halves; the other halves are zero, so nothing changes at first.

    Raises:
        TrainingError: peft is missing, or a tower has no layers that can be told apart.
    """
    kind, _, number = train.partition("-")
    try:
        if kind == "lora":
            with _adapted(student.model, int(number or RANK), seed):
                yield
        else:
            if kind == "last":
                _freeze(student.model, int(number))
            yield
    finally:
        student.model.requires_grad_(True)


def _freeze(model: nn.Module, last: int) -> None:
    """Freeze both towers but for their ``last`` layers and what comes after them."""
    model.requires_grad_(False)
    model.get_parameter("logit_scale").requires_grad_(True)
    for tower in (model.get_submodule("visual"), model.get_submodule("text")):
        for block in layers(tower)[-last:]:
            block.requires_grad_(True)
        for name, parameter in tower.named_parameters():
            if any(name == tail or name.startswith(f"{tail}.") for tail in TAIL):
                parameter.requires_grad_(True)


def layers(tower: nn.Module) -> list[nn.Module]:
    """The layers of a tower, first to last.

    Raises:
        TrainingError: it keeps them where nobody looks.
    """
    for name in BLOCKS:
        try:
            return list(tower.get_submodule(name).children())
        except AttributeError:
            continue
    trunk = getattr(tower, "trunk", tower)
    groups = [module for name, module in trunk.named_children() if name.startswith("layer")]
    if not groups:
        raise TrainingError(
            f"the layers of a {type(tower).__name__} cannot be told apart", next="Set `train: full` or `train: lora`"
        )
    return groups


@contextmanager
def _adapted(model: nn.Module, rank: int, seed: int) -> Iterator[None]:
    """Low-rank adapters (Hu et al. 2021, arXiv 2106.09685) on every linear, attention and convolution layer."""
    if find_spec("peft") is None:
        raise TrainingError("`train: lora` wants the package peft, which is not installed", next=advice.install("lora"))
    from peft import LoraConfig, LoraModel

    config = LoraConfig(r=rank, lora_alpha=SCALE * rank, lora_dropout=0.0, target_modules=_targets(model))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        adapters: Any = LoraModel(model, {"default": config}, "default")
    model.get_parameter("logit_scale").requires_grad_(True)
    try:
        yield
    finally:
        adapters.merge_and_unload()


def _targets(model: nn.Module) -> list[str]:
    attention = [name for name, module in model.named_modules() if isinstance(module, nn.MultiheadAttention)]
    plain = [
        name
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear) or (isinstance(module, nn.Conv2d) and module.groups == 1)
    ]
    return attention + [name for name in plain if not any(name.startswith(f"{outer}.") for outer in attention)]
