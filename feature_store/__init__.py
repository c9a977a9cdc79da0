"""Features of teachers, kept in LMDB as columns of blocks: usable alone, knows neither ``mmkd_core`` nor torch.

``FeatureStore`` is the store; ``feature_store.torch`` hands out tensors.
"""

from feature_store.errors import StoreError
from feature_store.facts import Damage, Repair, StoreInfo, TableInfo
from feature_store.opening import is_sealed
from feature_store.store import VIEWS, FeatureStore

__all__ = ["VIEWS", "Damage", "FeatureStore", "Repair", "StoreError", "StoreInfo", "TableInfo", "is_sealed"]
