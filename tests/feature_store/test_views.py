"""Several views of one image: features of each, and how each was made."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from feature_store import VIEWS, FeatureStore, StoreError
from feature_store.torch import gather

CROP = ["x0", "y0", "x1", "y1", "flip"]


def features(rows: np.ndarray | range, view: int) -> np.ndarray:
    return (np.asarray(rows)[:, None] + np.arange(4) / 4 + 64 * view).astype(np.float32)


@pytest.fixture
def store(tmp_path: Path) -> FeatureStore:
    with FeatureStore.open(tmp_path / "store", "w", block_rows=8) as opened:
        rows = opened.add_ids("image", [f"i{n}" for n in range(30)])
        opened.add_ids("text", ["a"])
        opened.put("t", "image", rows, features(rows, 0))
        opened.put("t", "image", rows[:20], features(rows[:20], 1), view=1)
        opened.put("t", "image", rows[5:], features(rows[5:], 2), view=2, dtype="float32")
        yield opened


def test_each_view_has_its_own_features_over_the_same_rows(store: FeatureStore) -> None:
    order = np.array([19, 5, 7])
    for view in range(3):
        np.testing.assert_array_equal(store.gather("t", "image", order, view=view), features(order, view))
        batch = gather(store, ["t"], order, view=view)
        np.testing.assert_array_equal(batch.images["t"].float(), torch.from_numpy(features(order, view)))
    assert store.missing("t", "image", [4, 25], view=1).tolist() == [False, True]
    assert store.missing("t", "image", [4, 25], view=2).tolist() == [True, False]
    assert store.missing("t", "image", [4], view=3).tolist() == [True]
    assert gather(store, ["t"], [4, 25], view=1).mask.tolist() == [[True], [False]]
    assert store.info().ids == {"image": 30, "text": 1}
    assert store.verify() == []


def test_a_view_is_listed_as_a_tower_and_found_by_its_name(store: FeatureStore) -> None:
    assert [(table.tower, table.rows, table.dtype) for table in store.tables()] == [
        ("image", 30, "float16"),
        ("image@1", 20, "float16"),
        ("image@2", 25, "float32"),
    ]
    np.testing.assert_array_equal(store.gather("t", "image@2", [9]), features(range(9, 10), 2))
    store.put("t", "image@1", [25], features(range(25, 26), 1))
    np.testing.assert_array_equal(store.gather("t", "image", [25], view=1), features(range(25, 26), 1))


def test_how_a_view_was_made_is_kept_by_name(store: FeatureStore) -> None:
    assert store.view_names() == []
    crops = np.random.default_rng(0).random((20, 5)).astype(np.float32)
    store.put_views(1, range(20), CROP, crops)
    with FeatureStore.open(store.path) as reader:
        assert reader.view_names() == CROP
        np.testing.assert_array_equal(reader.gather(VIEWS, "image", [3, 1], view=1), crops[[3, 1]])
        with pytest.raises(StoreError, match="open for reading"):
            reader.put_views(1, [0], CROP, crops[:1])
    with pytest.raises(StoreError, match=r"views are described by x0, y0, x1, y1, flip, not by angle"):
        store.put_views(1, [0], ["angle"], np.ones((1, 1)))
    with pytest.raises(StoreError, match=r"5 names came with parameters of shape \(1, 4\)"):
        store.put_views(1, [0], CROP, np.ones((1, 4)))


@pytest.mark.parametrize(
    ("tower", "view", "sentence"),
    [
        ("text", 1, "the tower 'text' has no views"),
        ("image", -1, "there is no view -1"),
        ("image", 1 << 16, "there is no view 65536"),
        ("image@1", 1, "there is no tower 'image@1' with view 1"),
        ("image@0", 0, "there is no tower 'image@0'"),
        ("image@x", 0, "there is no tower 'image@x'"),
        ("audio@1", 0, "there is no tower 'audio'"),
    ],
)
def test_a_view_that_cannot_be_is_refused(store: FeatureStore, tower: str, view: int, sentence: str) -> None:
    for call in (store.gather, store.missing):
        with pytest.raises(StoreError, match=sentence):
            call("t", tower, [0], view=view)
    with pytest.raises(StoreError, match=r"there is no tower 'image@1'"):
        store.add_ids("image@1", ["x"])
