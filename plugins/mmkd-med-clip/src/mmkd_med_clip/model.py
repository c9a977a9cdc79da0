"""MedCLIP's towers: transformers' SwinModel and BertModel, each with a linear projection without a bias.

The text embedding is the mean over all tokens of three hidden states: after the first, the second and the last layer.
MedCLIP's own code also averages over padding, as much of it as the longest text of the batch brings along. Here padding
is left out, so that a text's embedding does not depend on its neighbours; it equals MedCLIP's for a text by itself.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor, nn

from mmkd_core.contract import TeacherSpec
from mmkd_core.plugins.loaders import checkpoint, folder, towers
from mmkd_core.plugins.loaders.preprocess import preprocess, require_8_bits

CHECKPOINT = "pytorch_model.bin"
VISION, TEXT, SCALE = "vision_model.model.", "text_model.model.", "logit_scale"


class Towers(nn.Module):
    """Both towers with their projections."""

    def __init__(self, vision: Any, text: Any, projections: Mapping[str, nn.Module], pad: int) -> None:
        super().__init__()
        self.vision = vision
        self.text = text
        self.projections = nn.ModuleDict(projections)
        self._pad = pad

    def encode_image(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) to (B, D), not normalised."""
        features: Tensor = self.projections["vision_projection"](self.vision(images).pooler_output)
        return features

    def encode_text(self, tokens: Tensor) -> Tensor:
        """(B, L) to (B, D), not normalised."""
        pooled = towers.mean_of_states(self.text, tokens, self._pad, (1, 2, -1))
        features: Tensor = self.projections["text_projection"](pooled)
        return features


def load(spec: TeacherSpec, weights: Mapping[str, Path], device: str) -> towers.Pair:
    """Build both towers and fill them with the published checkpoint, all of it."""
    from transformers import BertModel, SwinConfig, SwinModel

    file = weights["model"] / CHECKPOINT
    folder.require(spec, weights, weights["model"], CHECKPOINT)
    state = checkpoint.read(spec, file)
    settings: dict[str, Any] = dict(spec.arch)
    swin = SwinConfig(image_size=spec.image.size, **settings)
    vision = towers.filled(spec, SwinModel, swin, checkpoint.part(state, VISION), file)
    text = towers.filled(spec, BertModel, towers.bert_config(spec, weights), checkpoint.part(state, TEXT), file)
    with torch.random.fork_rng(devices=[]):  # the initialisation must not move the caller's random numbers
        projections = {
            "vision_projection": nn.Linear(vision.num_features, spec.embed_dim, bias=False),
            "text_projection": nn.Linear(text.config.hidden_size, spec.embed_dim, bias=False),
        }
    rest = {name: value for name, value in state.items() if not name.startswith((VISION, TEXT))}
    names = {"vision_model.projection_head.": "vision_projection.", "text_model.projection_head.": "text_projection."}
    checkpoint.fit(spec, nn.ModuleDict(projections), checkpoint.renamed(rest, names), file, ignore=[SCALE])
    scale = float(state[SCALE].exp()) if SCALE in state else spec.logit_scale
    tokens = towers.Tokens(spec, weights)
    model = Towers(vision, text, projections, tokens.pad)
    return towers.Pair(spec, model, partial(_prepared, spec=spec), tokens, scale, device)


def _prepared(image: Image.Image, spec: TeacherSpec) -> Tensor:
    """(3, 224, 224) float32: gray, on a black square of at least 224 pixels, then resized."""
    return preprocess(_squared(image, spec.image.size), spec.image)


def _squared(image: Image.Image, least: int) -> Image.Image:
    """The image in gray, in the middle of a black square that is as large as its longer side."""
    require_8_bits(image)
    size = max(least, *image.size)
    square = Image.new("L", (size, size), 0)
    square.paste(image.convert("L"), (int((size - image.width) / 2), int((size - image.height) / 2)))
    return square
