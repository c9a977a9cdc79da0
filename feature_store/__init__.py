"""Features of teachers, kept in LMDB as columns of blocks: usable alone, knows neither ``mmkd_core`` nor torch.

``FeatureStore`` is the store; ``feature_store.torch`` hands out tensors.
"""

from feature_store.errors import StoreError
from feature_store.facts import Damage, StoreInfo, TableInfo
from feature_store.store import FeatureStore

__all__ = ["Damage", "FeatureStore", "StoreError", "StoreInfo", "TableInfo"]
