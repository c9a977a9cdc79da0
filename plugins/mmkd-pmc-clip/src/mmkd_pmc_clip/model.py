"""PMC-CLIP's towers: open_clip's ModifiedResNet, transformers' BertModel, and a matrix without a bias.

The text embedding is the last hidden state of [CLS] times the matrix. The text tower was trained and is published
without an attention mask: it reads its padding, so each text is padded to the full context length.
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

IMAGE, TEXT, PROJECTION = "image_encoder(resnet50).pth", "text_encoder.pth", "text_projection_layer.pth"


class Towers(nn.Module):
    """Both towers and the matrix."""

    def __init__(self, visual: Any, bert: Any, projection: Tensor) -> None:
        super().__init__()
        self.visual = visual
        self.bert = bert
        self.projection = nn.Parameter(projection)

    def encode_image(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) to (B, D), not normalised."""
        features: Tensor = self.visual(images)
        return features

    def encode_text(self, tokens: Tensor) -> Tensor:
        """(B, L) to (B, D), not normalised."""
        hidden: Tensor = self.bert(input_ids=tokens).last_hidden_state  # (B, L, width)
        return hidden[:, 0] @ self.projection


def load(spec: TeacherSpec, weights: Mapping[str, Path], device: str) -> towers.Pair:
    """Build both towers and fill them with the published files, all of each."""
    from open_clip.modified_resnet import ModifiedResNet
    from transformers import BertModel

    files = weights["model"]
    folder.require(spec, weights, files, IMAGE, TEXT, PROJECTION)
    settings: dict[str, Any] = {name: spec.arch[name] for name in ("layers", "width", "heads")}
    with torch.random.fork_rng(devices=[]):
        visual = ModifiedResNet(output_dim=spec.embed_dim, image_size=spec.image.size, **settings)
    checkpoint.fit(spec, visual, checkpoint.read(spec, files / IMAGE), files / IMAGE)
    bert = towers.filled(
        spec, BertModel, towers.bert_config(spec, weights), checkpoint.read(spec, files / TEXT), files / TEXT
    )
    projection = checkpoint.read_tensor(spec, files / PROJECTION).float()
    model, tokens = Towers(visual, bert, projection), towers.Tokens(spec, weights)
    return towers.Pair(spec, model, partial(preprocess, spec=spec.image), tokens, spec.logit_scale, device)
