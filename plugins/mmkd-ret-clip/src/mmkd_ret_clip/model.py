"""RET-CLIP's towers: open_clip's vision transformer, transformers' BertModel, and a projection for each eye.

Its fork of Chinese-CLIP kept OpenAI's names for the vision tower, which are open_clip's too.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mmkd_core.contract import TeacherSpec
from mmkd_core.plugins.loaders import checkpoint, folder, towers
from mmkd_core.plugins.loaders.preprocess import preprocess
from mmkd_ret_clip import CHECKPOINT

VISION, TEXT, POOLER = "visual.", "bert.", "bert.pooler."
EYES = ("left", "right")
SCALES = [f"logit_scale_{eye}" for eye in EYES]
STRAIGHT = str.maketrans({"\N{LEFT DOUBLE QUOTATION MARK}": '"', "\N{RIGHT DOUBLE QUOTATION MARK}": '"'})
OF_THE_PATIENT = [
    "global_feature_mapping.weight",
    "logit_scale",
    *(f"text_projection.{layer}.{part}" for layer in (0, 2) for part in ("weight", "bias")),
]


class Tokens(towers.Tokens):
    """The Chinese tokenizer, whose vocabulary has no curly quotation marks: its own code makes them straight first."""

    def __call__(self, texts: Sequence[str]) -> Tensor:
        """(B, context_length) int64 on the CPU."""
        return super().__call__([text.lower().translate(STRAIGHT) for text in texts])


class Towers(nn.Module):
    """Both towers; for each eye a linear map of the image and a small network of the text."""

    def __init__(self, vision: Any, text: Any, heads: nn.ModuleDict, pad: int) -> None:
        super().__init__()
        self.vision = vision
        self.text = text
        self.heads = heads
        self._pad = pad

    def encode_image(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) to (B, D): the left eye's half and the right eye's, each of length 1."""
        return self._of_both_eyes("{}_feature_mapping", self.vision(images))

    def encode_text(self, tokens: Tensor) -> Tensor:
        """(B, L) to (B, D): the left eye's half and the right eye's, each of length 1."""
        mask = (tokens != self._pad).long()
        states = self.text(input_ids=tokens, attention_mask=mask).last_hidden_state  # (B, L, width)
        return self._of_both_eyes("text_projection_{}", states[:, 0])

    def _of_both_eyes(self, head: str, pooled: Tensor) -> Tensor:
        return torch.cat([F.normalize(self.heads[head.format(eye)](pooled), dim=-1) for eye in EYES], dim=-1)


def load(spec: TeacherSpec, weights: Mapping[str, Path], device: str) -> towers.Pair:
    """Build both towers and fill them with the published checkpoint, all of it but the patient's projections."""
    from transformers import BertModel

    file = weights["model"] / CHECKPOINT
    folder.require(spec, weights, weights["model"], CHECKPOINT)
    state = {name: value for name, value in checkpoint.read(spec, file).items() if not name.startswith(POOLER)}
    text = towers.filled(
        spec,
        BertModel,
        towers.bert_config(spec, weights),
        checkpoint.part(state, TEXT),
        file,
        add_pooling_layer=False,
    )
    vision, heads = _unfilled(spec, text.config.hidden_size)
    checkpoint.fit(spec, vision, checkpoint.part(state, VISION), file)
    rest = {name: value for name, value in state.items() if not name.startswith((VISION, TEXT))}
    checkpoint.fit(spec, heads, rest, file, ignore=[*OF_THE_PATIENT, *SCALES])
    scales = [float(state[name].float().exp()) for name in SCALES if name in state]
    scale = sum(scales) / len(scales) if scales else spec.logit_scale
    tokens = Tokens(spec, weights)
    model = Towers(vision, text, heads, tokens.pad)
    return towers.Pair(spec, model, partial(preprocess, spec=spec.image), tokens, scale, device)


def _unfilled(spec: TeacherSpec, text_width: int) -> tuple[Any, nn.ModuleDict]:
    """The vision tower and the projections with any weights."""
    from open_clip.transformer import QuickGELU, VisionTransformer

    settings: dict[str, Any] = dict(spec.arch)
    dim = spec.embed_dim // len(EYES)
    with torch.random.fork_rng(devices=[]):  # the initialisation must not move the caller's random numbers
        vision = VisionTransformer(spec.image.size, mlp_ratio=4, output_dim=dim, act_layer=QuickGELU, **settings)
        heads: dict[str, nn.Module] = {}
        for eye in EYES:
            heads[f"{eye}_feature_mapping"] = nn.Linear(dim, dim, bias=False)
            layers = (nn.Linear(text_width, text_width), nn.ReLU(), nn.Linear(text_width, dim))
            heads[f"text_projection_{eye}"] = nn.Sequential(*layers)
    return vision, nn.ModuleDict(heads)
