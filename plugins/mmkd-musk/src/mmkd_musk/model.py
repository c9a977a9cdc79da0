"""MUSK's checkpoint in its two towers, and its tokenizer.

The published names are those of torchscale's BEiT3 under ``beit3.``: ``.A.`` belongs to the image, ``.B.`` to the text
tower. The tokenizer is a SentencePiece model whose ids XLM-RoBERTa moves up by one.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor, nn

from mmkd_core.contract import TeacherSpec
from mmkd_core.plugins.loaders import checkpoint, folder, sentencepiece
from mmkd_core.plugins.loaders.preprocess import preprocess
from mmkd_musk.towers import ImageTower, TextTower

CHECKPOINT, TOKENIZER = "model.safetensors", "tokenizer.spm"
START, PAD, END, UNKNOWN = 0, 1, 2, 3
MOVED = 1
SCALE = "logit_scale"
SET_ASIDE = ("beit3.vision_embed.mask_token",)
"""Stands for hidden patches while it learns, and nowhere else."""
NAMES = {
    "beit3.vision_embed.": "image.",
    "beit3.text_embed.": "text.embed.",
    "vision_head.": "image.head.",
    "language_head.": "text.head.",
}
_TOWERS = {"A": "image", "B": "text"}
_TWICE = re.compile(r"^beit3\.encoder\.(?P<module>.+)\.(?P<tower>[AB])\.(?P<rest>.+)$")


class Musk:
    """The two towers as a ``Teacher``."""

    def __init__(self, spec: TeacherSpec, model: nn.ModuleDict, scale: float, pieces: Any, device: str) -> None:
        self.spec = spec
        self.logit_scale = scale
        self.model: Any = model.eval().requires_grad_(False).to(device)
        self._pieces = pieces
        self._device = torch.device(device)

    def preprocess(self, image: Image.Image) -> Tensor:
        """(3, 384, 384) float32 on the CPU."""
        return preprocess(image, self.spec.image)

    def tokenize(self, texts: Sequence[str]) -> Tensor:
        """(B, 100) int64 on the CPU."""
        length = self.spec.text.context_length
        tokens = torch.full((len(texts), length), PAD)
        for row, text in zip(tokens, texts, strict=True):
            found = self._pieces.encode(text).ids[: length - 2]
            ids = [START, *(number + MOVED if number else UNKNOWN for number in found), END]
            row[: len(ids)] = torch.tensor(ids)
        return tokens

    @torch.no_grad()
    def encode_image(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) to (B, D), not normalised."""
        features: Tensor = self.model["image"].encode(images.to(self._device, torch.float32))
        return features

    @torch.no_grad()
    def encode_text(self, tokens: Tensor) -> Tensor:
        """(B, 100) to (B, D), not normalised."""
        features: Tensor = self.model["text"].encode(tokens.to(self._device))
        return features


def load(spec: TeacherSpec, weights: Mapping[str, Path], device: str) -> Musk:
    """Build both towers and fill them with the published checkpoint, all of it."""
    file = weights["model"] / CHECKPOINT
    folder.require(spec, weights, weights["model"], CHECKPOINT)
    folder.require(spec, weights, weights["tokenizer"], TOKENIZER)
    state = checkpoint.read(spec, file)
    with torch.random.fork_rng(devices=[]):  # the initialisation must not move the caller's random numbers
        model = build(spec)
    checkpoint.fit(spec, model, checkpoint.renamed(apart(state), NAMES), file, ignore=[SCALE])
    scale = float(state[SCALE].exp()) if SCALE in state else spec.logit_scale
    pieces = sentencepiece.read(spec, weights["tokenizer"] / TOKENIZER)
    return Musk(spec, model, scale, pieces, device)


def build(spec: TeacherSpec) -> nn.ModuleDict:
    """Both towers with any weights: image, text."""
    arch: Any = spec.arch
    shape = {name: arch[name] for name in ("width", "heads", "hidden", "layers")} | {"dim": spec.embed_dim}
    image = ImageTower(size=spec.image.size, patch=arch["patch"], **shape)
    text = TextTower(words=arch["words"], positions=arch["text_positions"], pad=PAD, **shape)
    return nn.ModuleDict({"image": image, "text": text})


def apart(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The encoder's weights under the tower that they belong to; the others as they are, without those set aside."""
    found = {}
    for name, value in state.items():
        twice = _TWICE.match(name)
        if twice:
            name = f"{_TOWERS[twice['tower']]}.{twice['module']}.{twice['rest']}"
        if name not in SET_ASIDE:
            found[name] = value
    return found
