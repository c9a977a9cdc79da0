"""Each illness is found and named, and a healthy store is left in peace."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from feature_store import FeatureStore
from feature_store.doctor import examine


@pytest.fixture
def store(tmp_path: Path) -> Iterator[FeatureStore]:
    with FeatureStore.open(tmp_path / "s", "w", block_rows=64) as store:
        store.add_ids("image", [f"i{n}" for n in range(200)])
        yield store


def values(scale: float = 8.0) -> np.ndarray:
    return (scale * np.random.default_rng(0).standard_normal((200, 32))).astype(np.float32)


def unit(features: np.ndarray) -> np.ndarray:
    return features / np.linalg.norm(features, axis=1, keepdims=True)


def found(store: FeatureStore) -> list[tuple[str, str]]:
    return [(finding.severity, finding.what) for finding in examine(store)]


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16", "int8"])
@pytest.mark.parametrize("raw", [True, False])
def test_a_healthy_store_is_left_in_peace(store: FeatureStore, dtype: str, raw: bool) -> None:
    store.put("t", "image", range(200), values() if raw else unit(values()), dtype=dtype)
    assert examine(store) == []


def test_a_collapsed_teacher(store: FeatureStore) -> None:
    features = values()
    features[50:180] = features[0]
    store.describe("t", teacher="radio")
    store.put("t", "image", range(200), features)
    (finding,) = examine(store)
    assert (finding.severity, finding.what) == ("error", "131 of 200 rows have the same vector")
    assert finding.where == "table t, tower image (radio)"


def test_some_rows_the_same(store: FeatureStore) -> None:
    features = values()
    features[50:60] = features[0]
    store.put("t", "image", range(200), features)
    assert found(store) == [("warning", "11 of 200 rows have the same vector")]


def test_rows_of_two_kinds(store: FeatureStore) -> None:
    features = values()
    features[:40] = unit(features[:40])
    store.put("t", "image", range(200), features)
    ((severity, what),) = found(store)
    assert severity == "warning"
    assert what.startswith("40 of 200 rows have unit norm, the others do not (median 4")


def test_an_outlier_and_zeros(store: FeatureStore) -> None:
    features = values()
    features[7] *= 100
    features[8] = 0
    store.put("t", "image", range(200), features, dtype="float32")
    first, second = found(store)
    assert first == ("error", "1 of 200 rows are all zeros")
    assert second[1].startswith("norms differ strongly")


def test_numbers_that_are_none(store: FeatureStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """They cannot be put; an older program, or damage that fits its digest, could have left them."""
    features = values()
    store.put("t", "image", range(200), features, dtype="float32")
    real = store.gather

    def gather(table: str, tower: str, rows: np.ndarray) -> np.ndarray:
        part = real(table, tower, rows)
        part[3:5, 0] = np.nan, np.inf
        return part

    monkeypatch.setattr(store, "gather", gather)
    assert ("error", "2 of 200 rows hold NaN or infinity") in found(store)


def test_teachers_with_raw_and_with_unit_norms(store: FeatureStore) -> None:
    store.put("raw", "image", range(200), values())
    store.put("unit", "image", range(200), unit(values()))
    (finding,) = examine(store)
    assert (finding.severity, finding.what) == ("note", "1 tables have unit norm and 1 have raw norms")
