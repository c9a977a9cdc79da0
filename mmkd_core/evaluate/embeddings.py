"""A student's embeddings of a split, in memory and as safetensors: what retrieval, fidelity and drift are made of."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from mmkd_core.errors import DataError
from mmkd_core.files import replacing

Features = NDArray[np.float32]

_TENSORS = ("images", "texts", "more_texts", "more_of")


@dataclass(frozen=True, eq=False)
class Embeddings:
    """Unit-norm embeddings of n samples."""

    sample_id: NDArray[np.object_]
    images: Features
    """(n, D)."""
    texts: Features
    """(n, D), of the first caption of each sample."""
    more_texts: Features
    """(m, D), of further captions, sample by sample."""
    more_of: NDArray[np.int64]
    """(m,) places of their samples."""

    @property
    def pairs(self) -> tuple[Features, Features]:
        """Images and texts (n + m, D) of each sample and caption, in the order of ``Corpus.texts``."""
        rows = np.concatenate([np.arange(len(self.sample_id)), self.more_of])
        return self.images[rows], np.concatenate([self.texts, self.more_texts])

    def save(self, path: Path) -> None:
        """Write one file; ``load`` gives back the same bits in the same order."""
        path.parent.mkdir(parents=True, exist_ok=True)
        names = json.dumps([str(name) for name in self.sample_id])
        tensors = {name: np.ascontiguousarray(getattr(self, name)) for name in _TENSORS}
        with replacing(path) as file:
            file.write(save(tensors, metadata={"sample_id": names}))

    @classmethod
    def load(cls, path: Path) -> Embeddings:
        """Read what ``save`` wrote.

        Raises:
            DataError: no such file, or damaged.
        """
        try:
            with safe_open(path, framework="numpy") as file:
                names = json.loads(file.metadata()["sample_id"])
                images, texts, more_texts, more_of = (file.get_tensor(name) for name in _TENSORS)
        except (OSError, SafetensorError, KeyError, TypeError, ValueError) as error:
            raise DataError(
                "the embeddings cannot be read", where=f"{path}: {error}", next="Remove the file"
            ) from error
        if not (len(names) == len(images) == len(texts) and len(more_texts) == len(more_of)):
            raise DataError("the embeddings are damaged: columns differ in length", where=str(path))
        column = np.empty(len(names), dtype=object)
        column[:] = names
        return cls(column, images, texts, more_texts, more_of)
