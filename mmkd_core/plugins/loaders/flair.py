"""FLAIR's layout, in which FLAIR and KeepFIT are published: torchvision's ResNet-50 and transformers' BertModel.

Each tower is normalised, then projected without a bias. Images are resized as numbers between 0 and 1 and put into the
upper left corner of a black canvas. The layout normalises once more after the projection, which mmkd does itself. Its
text tower averages over padding, as much of it as the longest text of a batch brings along; here padding is left out,
which equals it for a text by itself.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F

from mmkd_core.contract import TeacherSpec
from mmkd_core.plugins.loaders import checkpoint, folder, towers
from mmkd_core.plugins.loaders.preprocess import require_8_bits

VISION, TEXT, SCALE = "vision_model.model.", "text_model.model.", "logit_scale"
PROJECTIONS = {
    "vision_model.projection_head_vision.projection.": "vision_projection.",
    "text_model.projection_head_text.projection.": "text_projection.",
}


class Towers(nn.Module):
    """Both towers with their projections."""

    def __init__(self, vision: nn.Module, text: nn.Module, projections: Mapping[str, nn.Module], pad: int) -> None:
        super().__init__()
        self.vision = vision
        self.text = text
        self.projections = nn.ModuleDict(projections)
        self._pad = pad

    def encode_image(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) to (B, D), not normalised."""
        return self._projected("vision_projection", self.vision(images))

    def encode_text(self, tokens: Tensor) -> Tensor:
        """(B, L) to (B, D), not normalised."""
        return self._projected("text_projection", towers.mean_of_states(self.text, tokens, self._pad, (1, 2, -1)))

    def _projected(self, name: str, pooled: Tensor) -> Tensor:
        features: Tensor = self.projections[name](pooled / pooled.norm(dim=-1, keepdim=True))
        return features


def load(
    spec: TeacherSpec, weights: Mapping[str, Path], device: str, name: str, ignore: Iterable[str] = ()
) -> towers.Pair:
    """Build both towers and fill them with the published checkpoint, all of it.

    Args:
        spec: the teacher; ``arch`` holds torchvision's ``layers`` and ``width_per_group``.
        weights: role to folder, with the text tower's configuration and vocabulary in role ``text_tower``.
        device: where it runs.
        name: the checkpoint's file name.
        ignore: weights that only its training needed.

    Raises:
        PluginError: a file is missing or undeclared, or a weight is missing, left over or of another shape.
    """
    from torchvision.models.resnet import Bottleneck, ResNet
    from transformers import BertModel

    file = weights["model"] / name
    folder.require(spec, weights, weights["model"], name)
    state = checkpoint.read(spec, file)
    text = towers.filled(spec, BertModel, towers.bert_config(spec, weights), checkpoint.part(state, TEXT), file)
    settings: dict[str, Any] = dict(spec.arch)
    with torch.random.fork_rng(devices=[]):  # the initialisation must not move the caller's random numbers
        vision = ResNet(Bottleneck, **settings)
        width = vision.fc.in_features
        vision.fc = nn.Identity()
        projections = {
            "vision_projection": nn.Linear(width, spec.embed_dim, bias=False),
            "text_projection": nn.Linear(text.config.hidden_size, spec.embed_dim, bias=False),
        }
    checkpoint.fit(spec, vision, checkpoint.part(state, VISION), file)
    rest = {key: value for key, value in state.items() if not key.startswith((VISION, TEXT))}
    renamed = checkpoint.renamed(rest, PROJECTIONS)
    checkpoint.fit(spec, nn.ModuleDict(projections), renamed, file, ignore=[SCALE, *ignore])
    scale = float(state[SCALE].exp()) if SCALE in state else spec.logit_scale
    tokens = towers.Tokens(spec, weights)
    model = Towers(vision, text, projections, tokens.pad)
    return towers.Pair(spec, model, partial(_on_canvas, size=spec.image.size), tokens, scale, device)


def _on_canvas(image: Image.Image, size: int) -> Tensor:
    """(3, size, size) float32: longest side to size, black right and below, between 0 and 1."""
    require_8_bits(image)
    pixels = torch.from_numpy(np.array(image.convert("RGB"))).permute(2, 0, 1).float() / 255  # (3, H, W)
    scale = max(image.size) / size
    height, width = max(1, int(image.height / scale)), max(1, int(image.width / scale))
    if (height, width) != (image.height, image.width):
        pixels = F.interpolate(pixels[None], (height, width), mode="bilinear", align_corners=False, antialias=True)[0]
    return F.pad(pixels, (0, size - width, 0, size - height))
