"""The two halves of a BEiT-3 that is asked for one modality at a time.

A multiway encoder holds each weight twice, ``A`` for image and ``B`` for text tokens, which meet in attention only.
With one modality alone that is an ordinary encoder: normalised before each part, and once more inside of it.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class Block(nn.Module):
    """Attention and two layers, each with a residual path around it; the names are those of the checkpoint."""

    def __init__(self, width: int, heads: int, hidden: int) -> None:
        super().__init__()
        parts: dict[str, nn.Module] = {f"{name}_proj": nn.Linear(width, width) for name in ("q", "k", "v", "out")}
        self.self_attn = nn.ModuleDict({**parts, "inner_attn_ln": nn.LayerNorm(width)})
        self.self_attn_layer_norm = nn.LayerNorm(width)
        self.final_layer_norm = nn.LayerNorm(width)
        self.ffn = nn.ModuleDict(
            {"fc1": nn.Linear(width, hidden), "ffn_layernorm": nn.LayerNorm(hidden), "fc2": nn.Linear(hidden, width)}
        )
        self._heads = heads

    def forward(self, x: Tensor, seen: Tensor | None) -> Tensor:
        """(B, L, width) to the same; ``seen`` (B, 1, 1, L) is true where a token may be attended to."""
        attention, ffn = self.self_attn, self.ffn
        y = self.self_attn_layer_norm(x)
        q, k, v = (
            attention[f"{name}_proj"](y).unflatten(-1, (self._heads, -1)).transpose(1, 2) for name in ("q", "k", "v")
        )
        y = F.scaled_dot_product_attention(q, k, v, attn_mask=seen).transpose(1, 2).flatten(2)
        x = x + attention["out_proj"](attention["inner_attn_ln"](y))
        y = ffn["ffn_layernorm"](F.gelu(ffn["fc1"](self.final_layer_norm(x))))
        grown: Tensor = x + ffn["fc2"](y)
        return grown


class Tower(nn.Module):
    """Positions, blocks, a last normalisation, and the head into the space that both modalities share."""

    FIRST = 2
    """Positions are counted from here, as fairseq did."""

    def __init__(self, width: int, heads: int, hidden: int, layers: int, positions: int, dim: int) -> None:
        super().__init__()
        self.embed_positions = nn.Embedding(positions, width)
        self.layers = nn.ModuleList(Block(width, heads, hidden) for _ in range(layers))
        self.layer_norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, dim, bias=False)

    def forward(self, x: Tensor, padding: Tensor | None = None) -> Tensor:
        """(B, L, width) to the first token's embedding (B, D); ``padding`` (B, L) is true where nothing is said."""
        x = x + self.embed_positions.weight[self.FIRST : self.FIRST + x.shape[1]]
        seen = None
        if padding is not None:
            x = x.masked_fill(padding[..., None], 0.0)
            seen = ~padding[:, None, None, :]
        for layer in self.layers:
            x = layer(x, seen)
        embedding: Tensor = self.head(self.layer_norm(x)[:, 0])
        return embedding


class ImageTower(Tower):
    """Patches behind a [CLS] token."""

    def __init__(self, size: int, patch: int, width: int, heads: int, hidden: int, layers: int, dim: int) -> None:
        super().__init__(width, heads, hidden, layers, (size // patch) ** 2 + 1 + self.FIRST, dim)
        self.proj = nn.Conv2d(3, width, kernel_size=patch, stride=patch)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, width))

    def encode(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) to (B, D)."""
        patches = self.proj(images).flatten(2).transpose(1, 2)
        embedding: Tensor = self(torch.cat([self.cls_token.expand(len(patches), -1, -1), patches], dim=1))
        return embedding


class TextTower(Tower):
    """Words behind ``<s>``."""

    def __init__(
        self, words: int, positions: int, width: int, heads: int, hidden: int, layers: int, dim: int, pad: int
    ) -> None:
        super().__init__(width, heads, hidden, layers, positions, dim)
        self.embed = nn.Embedding(words, width)
        self._pad = pad

    def encode(self, tokens: Tensor) -> Tensor:
        """(B, L) to (B, D)."""
        embedding: Tensor = self(self.embed(tokens), tokens == self._pad)
        return embedding
