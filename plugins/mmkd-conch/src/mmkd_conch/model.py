"""CONCH's two towers: timm's ViT under open_clip's attentional pooler, and open_clip's text transformer.

The image embedding is one query's attention over all tokens of the trunk (its class token too), normalised by a layer,
times a matrix. The text embedding is read at a [CLS] token behind the 127 others, as in open_clip's CoCa with the mask
of its first weights: [CLS] sees one token of padding and, unless the text is cut, not itself.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor, nn

from mmkd_core.contract import TeacherSpec
from mmkd_core.plugins.loaders import checkpoint, folder, towers
from mmkd_core.plugins.loaders.preprocess import preprocess

CHECKPOINT = "pytorch_model.bin"
PAD = 0
SCALE, POSITIONS, PROJECTION = "logit_scale", "visual.trunk.pos_embed", "visual.proj_contrast"
SET_ASIDE = ("text_decoder.", "visual.attn_pool_caption.", "visual.ln_caption.")
"""Only its captions need these; the decoder was not among the published weights at first."""
NAMES = {
    "visual.trunk.": "trunk.",
    "visual.attn_pool_contrast.": "pooler.",
    "visual.ln_contrast.": "norm.",
    "text.": "text.",
}


class Conch:
    """The two towers as a ``Teacher``."""

    def __init__(
        self,
        spec: TeacherSpec,
        model: nn.ModuleDict,
        projection: Tensor,
        logit_scale: float,
        tokenizer: Any,
        device: str,
    ) -> None:
        self.spec = spec
        self.logit_scale = logit_scale
        self.model: Any = model.eval().requires_grad_(False).to(device)
        self._tokenizer = tokenizer
        self._projection = projection.to(device)
        self._device = torch.device(device)

    def preprocess(self, image: Image.Image) -> Tensor:
        """(3, 448, 448) float32 on the CPU."""
        return preprocess(image, self.spec.image)

    def tokenize(self, texts: Sequence[str]) -> Tensor:
        """(B, 128) int64 on the CPU; the last token is always padding and makes room for [CLS]."""
        ids = [self._tokenizer.encode(text).ids for text in texts]
        return torch.nn.functional.pad(torch.tensor(ids, dtype=torch.int64), (0, 1), value=PAD)

    @torch.no_grad()
    def encode_image(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) to (B, D), not normalised."""
        tokens = self.model["trunk"].forward_features(images.to(self._device, torch.float32))  # (B, L, width)
        features: Tensor = self.model["norm"](self.model["pooler"](tokens)[:, 0]) @ self._projection
        return features

    @torch.no_grad()
    def encode_text(self, tokens: Tensor) -> Tensor:
        """(B, 128) to (B, D), not normalised."""
        features: Tensor = self.model["text"](tokens[:, :-1].to(self._device))
        return features


def load(spec: TeacherSpec, weights: Mapping[str, Path], device: str) -> Conch:
    """Build both towers and fill them with the published checkpoint, all of it but the captioning branch."""
    file = weights["model"] / CHECKPOINT
    folder.require(spec, weights, weights["model"], CHECKPOINT)
    state = {name: value for name, value in checkpoint.read(spec, file).items() if not name.startswith(SET_ASIDE)}
    with torch.random.fork_rng(devices=[]):  # the initialisation must not move the caller's random numbers
        model = build(spec)
    _resize_positions(state, model["trunk"])
    projection = state.pop(PROJECTION, torch.zeros(0)).float()
    if projection.shape != (spec.embed_dim, spec.embed_dim):
        checkpoint.complain(spec, file, missing_or_of_another_shape=[PROJECTION])
    checkpoint.fit(spec, model, checkpoint.renamed(state, NAMES), file, ignore=[SCALE])
    scale = float(state[SCALE].exp()) if SCALE in state else spec.logit_scale
    return Conch(spec, model, projection, scale, _tokenizer(spec, weights), device)


def build(spec: TeacherSpec) -> nn.ModuleDict:
    """Both towers with any weights: trunk, pooler, norm, text."""
    from open_clip.transformer import AttentionalPooler, TextTransformer
    from timm.models.vision_transformer import VisionTransformer

    settings: Any = spec.arch
    trunk = VisionTransformer(img_size=spec.image.size, num_classes=0, **settings["vision"])
    pooler = AttentionalPooler(spec.embed_dim, trunk.embed_dim, n_head=settings["pooler_heads"], n_queries=1)
    text = TextTransformer(
        context_length=spec.text.context_length - 1,
        output_dim=spec.embed_dim,
        embed_cls=True,
        pad_id=PAD,
        pool_type="last",
        **settings["text"],
    )
    return nn.ModuleDict({"trunk": trunk, "pooler": pooler, "norm": nn.LayerNorm(spec.embed_dim), "text": text})


def _resize_positions(state: dict[str, Tensor], trunk: Any) -> None:
    """Positions of another image size are resampled as its authors do: bilinear, without antialiasing."""
    from timm.layers import resample_abs_pos_embed

    found = state.get(POSITIONS)
    if found is None or found.ndim != 3 or found.shape == trunk.pos_embed.shape:
        return
    state[POSITIONS] = resample_abs_pos_embed(
        found.float(),
        new_size=list(trunk.patch_embed.grid_size),
        num_prefix_tokens=1,
        interpolation="bilinear",
        antialias=False,
    )


def _tokenizer(spec: TeacherSpec, weights: Mapping[str, Path]) -> Any:
    (name,) = next(source.files for source in spec.weights if source.role == "tokenizer")
    tokenizer = towers.tokenizer_file(spec, weights["tokenizer"] / name)
    length = spec.text.context_length - 1
    tokenizer.enable_truncation(length)
    tokenizer.enable_padding(length=length, pad_id=PAD, pad_token="<pad>")
    return tokenizer
