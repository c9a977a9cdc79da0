"""CXR-CLIP's towers: transformers' SwinModel and BertModel, each with a linear projection.

Of the image it takes the first of the last states, as one would of a ViT with a [CLS] token. A Swin transformer has
none, so this is the state of the upper left patch; the model was trained that way. Of the text it takes the last state
that is no padding, that of [SEP].
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from mmkd_core.contract import TeacherSpec
from mmkd_core.plugins.loaders import checkpoint, folder, towers
from mmkd_core.plugins.loaders.preprocess import preprocess
from mmkd_cxr_clip import CHECKPOINT

VISION, TEXT, SCALE = "image_encoder.image_encoder.", "text_encoder.text_encoder.", "logit_scale"
PROJECTIONS = {
    "image_projection.projection.": "image_projection.",
    "text_projection.projection.": "text_projection.",
}


class Towers(nn.Module):
    """Both towers with their projections."""

    def __init__(self, vision: Any, text: Any, projections: nn.ModuleDict, pad: int) -> None:
        super().__init__()
        self.vision = vision
        self.text = text
        self.projections = projections
        self._pad = pad

    def encode_image(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) to (B, D), not normalised."""
        states = self.vision(pixel_values=images).last_hidden_state  # (B, patches, width)
        features: Tensor = self.projections["image_projection"](states[:, 0])
        return features

    def encode_text(self, tokens: Tensor) -> Tensor:
        """(B, L) to (B, D), not normalised."""
        mask = (tokens != self._pad).long()
        states = self.text(input_ids=tokens, attention_mask=mask).last_hidden_state  # (B, L, width)
        rows = torch.arange(len(tokens), device=tokens.device)
        features: Tensor = self.projections["text_projection"](states[rows, mask.sum(dim=1) - 1])
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
        projections = nn.ModuleDict(
            {
                "image_projection": nn.Linear(vision.num_features, spec.embed_dim),
                "text_projection": nn.Linear(text.config.hidden_size, spec.embed_dim),
            }
        )
    rest = {name: value for name, value in state.items() if not name.startswith((VISION, TEXT))}
    checkpoint.fit(spec, projections, checkpoint.renamed(rest, PROJECTIONS), file, ignore=[SCALE])
    scale = float(state[SCALE].exp()) if SCALE in state else spec.logit_scale
    tokens = towers.Tokens(spec, weights)
    model = Towers(vision, text, projections, tokens.pad)
    return towers.Pair(spec, model, partial(preprocess, spec=spec.image), tokens, scale, device)
