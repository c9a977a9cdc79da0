"""Batches as tensors: what numpy gathers, for several tables, in the precision stored, with what is missing masked."""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from feature_store import FeatureStore, StoreError, columns
from feature_store.precision import DTYPES
from feature_store.torch import Batch, gather

N = 50
KINDS = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16, "int8": torch.float32}


def filled(path: Path, dtype: str = "float16", dim: int = 5) -> FeatureStore:
    """Table a has everything, b the even images and all texts, c the images below 20 and the texts above 3."""
    store = FeatureStore.open(path, "w", block_rows=8)
    rng = np.random.default_rng(0)
    for tower, count in (("image", N), ("text", 10)):
        store.add_ids(tower, [str(n) for n in range(count)])
        held = {"a": range(count), "b": range(0, count, 2 if tower == "image" else 1)}
        held["c"] = range(20) if tower == "image" else range(4, 10)
        for table, rows in held.items():
            store.put(table, tower, rows, rng.standard_normal((len(rows), dim)), dtype=dtype)
    return store


def expected(store: FeatureStore, table: str, tower: str, rows: np.ndarray, mask: np.ndarray) -> np.ndarray:
    out = np.zeros((len(rows), 5), np.float32)
    if mask.any():
        out[mask] = store.gather(table, tower, rows[mask])
    return out


@pytest.mark.parametrize("dtype", DTYPES)
def test_tensors_hold_what_numpy_gathers(tmp_path: Path, dtype: str) -> None:
    with filled(tmp_path / "s", dtype) as store:
        images, texts = np.arange(N)[::-1].copy(), np.arange(N) % 10
        batch = gather(store, ["a", "b"], images, texts)
        assert (list(batch.images), list(batch.texts)) == (["a", "b"], ["a", "b"])
        assert batch.mask[:, 0].all()
        np.testing.assert_array_equal(batch.mask[:, 1], images % 2 == 0)
        for number, table in enumerate("ab"):
            mask = batch.mask[:, number].numpy()
            for tower, rows, got in (("image", images, batch.images), ("text", texts, batch.texts)):
                assert got[table].dtype == KINDS[dtype]
                assert got[table].is_contiguous()
                np.testing.assert_array_equal(got[table].float().numpy(), expected(store, table, tower, rows, mask))
        full = gather(store, ["a"], images, dtype=torch.float32).images["a"]
        assert full.dtype == torch.float32
        assert torch.equal(full, batch.images["a"].float())


@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_whatever_is_missing_or_not_trusted_is_masked(data: st.DataObject) -> None:
    """Rows beyond the corpus and negative ones included; block edges and the tail as they come."""
    count = data.draw(st.integers(0, 30))
    images = np.array(data.draw(st.lists(st.integers(-1, N), min_size=count, max_size=count)), np.int64)
    texts = np.array(data.draw(st.lists(st.integers(-1, 10), min_size=count, max_size=count)), np.int64)
    trust = np.random.default_rng(data.draw(st.integers(0, 9))).random((count, 3)) < data.draw(st.floats(0, 1))
    with tempfile.TemporaryDirectory() as root, filled(Path(root, "s")) as store:
        given_trust = trust.copy()
        batch = gather(store, ["a", "b", "c"], images, texts, trust=trust)
        np.testing.assert_array_equal(trust, given_trust)
        for number, table in enumerate("abc"):
            there = ~store.missing(table, "image", images) & ~store.missing(table, "text", texts)
            np.testing.assert_array_equal(batch.mask[:, number], there & trust[:, number])
            mask = there & trust[:, number]
            for tower, rows, got in (("image", images, batch.images), ("text", texts, batch.texts)):
                np.testing.assert_array_equal(got[table].float(), expected(store, table, tower, rows, mask))
        only = gather(store, ["c"], texts=texts)
        assert only.images == {}
        np.testing.assert_array_equal(only.mask[:, 0], ~store.missing("c", "text", texts))


def test_memory_of_an_earlier_batch_is_written_again(tmp_path: Path) -> None:
    with filled(tmp_path / "s") as store:
        first = gather(store, ["a", "b"], range(20))
        places = {table: tensor.data_ptr() for table, tensor in first.images.items()}
        second = gather(store, ["a", "b"], range(20, 30), out=first)
        assert {table: tensor.data_ptr() for table, tensor in second.images.items()} == places
        assert torch.equal(second.images["a"], gather(store, ["a"], range(20, 30)).images["a"])
        larger = gather(store, ["a"], range(40), out=second)
        assert larger.images["a"].data_ptr() != places["a"]
        assert gather(store, ["a"], range(5), dtype=torch.float32, out=larger).images["a"].dtype == torch.float32


def test_what_does_not_fit_is_refused(tmp_path: Path) -> None:
    with filled(tmp_path / "s") as store:
        with pytest.raises(StoreError, match=r"images and texts must be rows of the same samples, not of \[1, 2\]"):
            gather(store, ["a"], [0], [0, 1])
        with pytest.raises(StoreError, match="must be rows of the same samples"):
            gather(store, ["a"])
        with pytest.raises(StoreError, match=r"trust must be bool of shape \(2, 1\), not bool of \(2,\)"):
            gather(store, ["a"], [0, 1], trust=[True, False])
        with pytest.raises(StoreError, match=r"there are no features \(table z, tower image\)"):
            gather(store, ["a", "z"], [0])
        assert gather(store, [], [0, 1]).mask.shape == (2, 0)
    with pytest.raises(StoreError, match="the store is closed"):
        gather(store, ["a"], [0])


def test_tensors_outlive_the_store(tmp_path: Path) -> None:
    with filled(tmp_path / "s") as store:
        batch = gather(store, ["a"], range(N))
        copy = batch.images["a"].clone()
    assert torch.equal(batch.images["a"], copy)


@pytest.mark.parametrize("dtype", DTYPES)
def test_blocks_that_must_be_read_through_lmdb_give_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, dtype: str
) -> None:
    with filled(tmp_path / "s", dtype) as store:
        images = np.arange(N)
        plain = gather(store, ["a", "b"], images)
        real = columns.find_blocks
        monkeypatch.setattr(
            columns, "find_blocks", lambda *args: {n: at for n, at in real(*args).items() if n % 2 == 0}
        )
        with FeatureStore.open(store.path) as other:
            mixed = gather(other, ["a", "b"], images)
        monkeypatch.setattr(columns, "find_blocks", lambda *_: {})
        with FeatureStore.open(store.path) as other:
            slow = gather(other, ["a", "b"], images)
    for batch in (mixed, slow):
        assert torch.equal(batch.mask, plain.mask)
        assert all(torch.equal(batch.images[table], plain.images[table]) for table in "ab")


def test_several_threads_gather_from_one_handle(tmp_path: Path) -> None:
    from concurrent.futures import ThreadPoolExecutor

    with filled(tmp_path / "s") as store, ThreadPoolExecutor(4) as pool:
        whole = gather(store, ["a", "b"], range(N))

        def one(seed: int) -> bool:
            rows = np.random.default_rng(seed).integers(0, N, 30)
            batch: Batch = gather(store, ["a", "b"], rows)
            return all(torch.equal(batch.images[table], whole.images[table][rows]) for table in "ab")

        assert all(pool.map(one, range(50)))
