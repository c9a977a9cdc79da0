"""Features as torch tensors. The only module of the store that imports torch."""

from __future__ import annotations

import torch
from numpy.typing import ArrayLike

from feature_store.store import FeatureStore


def gather_tensor(store: FeatureStore, table: str, tower: str, rows: ArrayLike) -> torch.Tensor:
    """Features (n, d) of these rows as a float32 tensor on the CPU. Raises as ``FeatureStore.gather`` does."""
    return torch.from_numpy(store.gather(table, tower, rows))
