"""MedSigLIP with SigLIP's tokenizer, read from ``spiece.model`` without the library ``sentencepiece``.

transformers' SiglipTokenizer asks for that library. What it does to a text is short: lower case, no ASCII punctuation,
one space between words, the pieces, ``</s>``; the rest is filled up with ``</s>``, which the model was trained to read.
"""

from __future__ import annotations

import string
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mmkd_core.contract import TeacherSpec
from mmkd_core.plugins.loaders import folder, sentencepiece, transformers

PIECES = "spiece.model"
END = 1
_PUNCTUATION = str.maketrans("", "", string.punctuation)


class SiglipTokens:
    """Texts to (B, 64) ids."""

    pad = END

    def __init__(self, spec: TeacherSpec, file: Path) -> None:
        self._pieces: Any = sentencepiece.read(spec, file)
        self._length = spec.text.context_length

    def __call__(self, texts: Sequence[str]) -> Tensor:
        """(B, context_length) int64 on the CPU."""
        tokens = torch.full((len(texts), self._length), END)
        for row, text in zip(tokens, texts, strict=True):
            plain = " ".join(text.lower().translate(_PUNCTUATION).split())
            ids = self._pieces.encode(plain).ids[: self._length - 1]  # what follows them is </s> already
            row[: len(ids)] = torch.tensor(ids, dtype=torch.int64)
        return tokens


def load(spec: TeacherSpec, weights: Mapping[str, Path], device: str) -> transformers.TransformersTeacher:
    """Build the teacher from its verified folder."""
    folder.require(spec, weights, weights["model"], PIECES)
    return transformers.load(spec, weights, device, SiglipTokens(spec, weights["model"] / PIECES))
