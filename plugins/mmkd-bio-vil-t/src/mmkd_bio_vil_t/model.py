"""BioViL-T's towers without its code: torchvision's ResNet-50 and transformers' BertModel, each with a small network.

The image tower compares a radiograph with an earlier one through a transformer. Without an earlier one, as here, a
learnt vector takes the place of the comparison, and the transformer is not used: its weights are left out.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from mmkd_bio_vil_t import IMAGE, TEXT, VOCABULARY
from mmkd_core.contract import TeacherSpec
from mmkd_core.plugins.loaders import checkpoint, folder, towers
from mmkd_core.plugins.loaders.preprocess import preprocess, require_8_bits, short_side_and_crop

OF_TWO_IMAGES = ("encoder.vit_pooler.",)
UNUSED = ["encoder.encoder.fc.weight", "encoder.encoder.fc.bias"]  # of the ResNet, for the classes of ImageNet
OF_OTHER_TASKS = ("cls.", "bert.pooler.")  # masked words, and a pooling that it does not use
BERT, HEAD = "bert.", "cls_projection_head."


class SingleImage(nn.Module):
    """The image tower for one radiograph; attributes are called as in the published file."""

    def __init__(self, resnet: Any, channels: int, dim: int) -> None:
        super().__init__()
        layers = OrderedDict(list(resnet.named_children())[:-2])  # without pooling and classes
        self.encoder = nn.Module()
        self.encoder.encoder = nn.Sequential(layers)
        self.encoder.backbone_to_vit = nn.Conv2d(resnet.fc.in_features, channels, 1, bias=False)
        self.encoder.missing_previous_emb = nn.Parameter(torch.zeros(1, channels, 1, 1))
        self.projector = nn.Module()
        self.projector.model = nn.Sequential(
            nn.Conv2d(2 * channels, dim, 1, bias=False), nn.BatchNorm2d(dim), nn.ReLU(), nn.Conv2d(dim, dim, 1)
        )

    def forward(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) to (B, D): the mean over patches of what each becomes."""
        encoder: Any = self.encoder
        patches = encoder.backbone_to_vit(encoder.encoder(images))  # (B, channels, h, w)
        patches = torch.cat([patches, encoder.missing_previous_emb.expand_as(patches)], dim=1)
        projector: Any = self.projector
        features: Tensor = projector.model(patches).mean(dim=(2, 3))
        return features


class Head(nn.Module):
    """What CXR-BERT makes of the state of [CLS]."""

    def __init__(self, width: int, dim: int) -> None:
        super().__init__()
        self.dense_to_hidden = nn.Linear(width, dim)
        self.LayerNorm = nn.LayerNorm(dim, eps=1e-12)
        self.dense_to_output = nn.Linear(dim, dim)

    def forward(self, states: Tensor) -> Tensor:
        """(B, width) to (B, D)."""
        hidden = nn.functional.gelu(self.dense_to_hidden(states))
        features: Tensor = self.dense_to_output(self.LayerNorm(hidden))
        return features


class Towers(nn.Module):
    """Both towers."""

    def __init__(self, vision: nn.Module, text: Any, head: nn.Module, pad: int) -> None:
        super().__init__()
        self.vision = vision
        self.text = text
        self.head = head
        self._pad = pad

    def encode_image(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) to (B, D), not normalised."""
        features: Tensor = self.vision(images)
        return features

    def encode_text(self, tokens: Tensor) -> Tensor:
        """(B, L) to (B, D), not normalised."""
        mask = (tokens != self._pad).long()
        features: Tensor = self.head(self.text(input_ids=tokens, attention_mask=mask).last_hidden_state[:, 0])
        return features


def load(spec: TeacherSpec, weights: Mapping[str, Path], device: str) -> towers.Pair:
    """Build both towers and fill them with the published files, all of it but what one image does not need."""
    files = weights["model"]
    folder.require(spec, weights, files, IMAGE, TEXT, VOCABULARY)
    vision = _vision(spec, files / IMAGE)
    text, head = _text(spec, files / TEXT)
    tokens = towers.Tokens(spec, weights, _tokenizer(spec, files / VOCABULARY))
    model = Towers(vision, text, head, tokens.pad)
    return towers.Pair(spec, model, partial(_prepared, spec=spec), tokens, spec.logit_scale, device)


def _vision(spec: TeacherSpec, file: Path) -> nn.Module:
    from torchvision.models.resnet import Bottleneck, ResNet

    settings: Any = spec.arch
    with torch.random.fork_rng(devices=[]):  # the initialisation must not move the caller's random numbers
        vision = SingleImage(ResNet(Bottleneck, **settings["resnet"]), settings["channels"], spec.embed_dim)
    checkpoint.fit(spec, vision, _without(checkpoint.read(spec, file), OF_TWO_IMAGES), file, ignore=UNUSED)
    return vision


def _text(spec: TeacherSpec, file: Path) -> tuple[Any, nn.Module]:
    from transformers import BertConfig, BertModel

    settings: Any = spec.arch
    config = BertConfig(**settings["bert"])
    state = _without(checkpoint.read(spec, file), OF_OTHER_TASKS)
    bert = towers.filled(spec, BertModel, config, checkpoint.part(state, BERT), file, add_pooling_layer=False)
    with torch.random.fork_rng(devices=[]):
        head = Head(config.hidden_size, spec.embed_dim)
    rest = {name: value for name, value in state.items() if not name.startswith(BERT)}
    checkpoint.fit(spec, nn.ModuleDict({HEAD.rstrip("."): head}), rest, file)
    return bert, head


def _tokenizer(spec: TeacherSpec, vocabulary: Path) -> Any:
    from transformers import BertTokenizer

    return BertTokenizer(vocab=str(vocabulary), do_lower_case=spec.arch["lower_case"])


def _without(state: Mapping[str, Tensor], prefixes: tuple[str, ...]) -> dict[str, Tensor]:
    return {name: value for name, value in state.items() if not name.startswith(prefixes)}


def _prepared(image: Image.Image, spec: TeacherSpec) -> Tensor:
    """(3, 448, 448) float32: darkest to 0 and brightest to 255, gray, short side to 512, the middle of that."""
    require_8_bits(image)
    if image.mode not in ("L", "RGB"):
        image = image.convert("RGB")
    side: Any = spec.arch["resize"]
    gray = Image.fromarray(_stretched(np.array(image))).convert("L")
    return preprocess(short_side_and_crop(gray, side, spec.image), spec.image)


def _stretched(values: np.ndarray) -> np.ndarray:
    """The whole range of 8 bits; an image of one value only stays as it is."""
    low, high = float(values.min()), float(values.max())
    if low == high:
        return values
    stretched: np.ndarray = ((values.astype(np.float64) - low) / (high - low) * 255).astype(np.uint8)
    return stretched
