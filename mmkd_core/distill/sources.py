"""What distillation sees of a teacher: cached features by row, a logit scale, and which rows it may teach.

Does not: know a teacher. The parent student is a source like any other.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from feature_store import FeatureStore
from feature_store.torch import gather
from mmkd_core.errors import PluginError

Rows = np.ndarray[Any, np.dtype[np.int64]]
Mask = np.ndarray[Any, np.dtype[np.bool_]]


@dataclass(frozen=True)
class Source:
    """Features of one teacher over a corpus of N samples.

    Attributes:
        name: the teacher's name, or ``student@0001``.
        store: an open feature store; features are gathered from its memory map, a batch at a time.
        table: the fingerprint under which the features lie.
        image_rows, text_rows: (N,) rows of the samples' images and captions in the store.
        bank: per domain the features (K, D) of the texts of the bank, unit norm.
        logit_scale: the teacher's own, already exponentiated.
        mask: (N,) true where the source teaches.
        heads: whether it has a head of its own; the parent teaches by relation only.
        factor: weight of its relation beside the others'.
        turn: from a step's number to whether it teaches then; it always does if left out.
        urgency: from rows (B,) to factors (B,) on top; 1 if left out.
    """

    name: str
    store: FeatureStore
    table: str
    image_rows: Rows
    text_rows: Rows
    bank: Mapping[str, Tensor]
    logit_scale: float
    mask: Mask
    heads: bool = True
    factor: float = 1.0
    turn: Callable[[int], bool] | None = None
    urgency: Callable[[Rows], Tensor] | None = None

    def teaches(self, step: int) -> bool:
        """Whether it has its turn in a step."""
        return self.turn is None or self.turn(step)

    def weights(self, index: Rows) -> Tensor:
        """How much the samples ``index`` (B,) count beside its others: 1 unless something is urgent."""
        return torch.ones(len(index)) if self.urgency is None else self.urgency(index)

    def images(self, index: Rows) -> Tensor:
        """Unit-norm image features (B, D) of the samples ``index``."""
        batch = gather(self.store, [self.table], images=self.image_rows[index], dtype=torch.float32)
        return self._unit(batch.images[self.table], batch.mask)

    def texts(self, index: Rows) -> Tensor:
        """Unit-norm caption features (B, D) of the samples ``index``."""
        batch = gather(self.store, [self.table], texts=self.text_rows[index], dtype=torch.float32)
        return self._unit(batch.texts[self.table], batch.mask)

    def _unit(self, features: Tensor, mask: Tensor) -> Tensor:
        """Features (B, D) in unit norm.

        Raises:
            PluginError: the store lacks some: it was repaired or cleaned since the sources were made.
        """
        missing = len(mask) - int(mask.sum())
        if missing:
            what = f"{missing} of {len(mask)} features of {self.name} are missing"
            raise PluginError(what, where=str(self.store.path), next="Run `mmkd extract`")
        return torch.nn.functional.normalize(features, dim=-1)
