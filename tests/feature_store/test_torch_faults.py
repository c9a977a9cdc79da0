"""Batches across forks and spawns, in a file that grows, from a reader that is late, after close: right or refused."""

from __future__ import annotations

import multiprocessing
import os
import pickle
import signal
from pathlib import Path

import numpy as np
import pytest
import torch

from feature_store import FeatureStore, StoreError, maps
from feature_store.torch import gather


def values(rows: np.ndarray | range) -> np.ndarray:
    return np.random.default_rng(0).standard_normal((3000, 16)).astype(np.float32)[np.asarray(rows)]


@pytest.fixture
def store(tmp_path: Path) -> FeatureStore:
    """Five blocks of 64 rows and 30 rows in the tail."""
    with FeatureStore.open(tmp_path / "s", "w", block_rows=64) as opened:
        rows = opened.add_ids("image", [f"i{n}" for n in range(3000)])
        opened.put("t", "image", rows[:350], values(range(350)), dtype="float32")
        yield opened


def same(store: FeatureStore, rows: np.ndarray | range) -> bool:
    return torch.equal(gather(store, ["t"], rows).images["t"], torch.from_numpy(values(rows)))


def test_a_forked_child_and_its_parent_go_on(store: FeatureStore) -> None:
    """The parent has views of the map already; it writes while the child lives, and the child may only read."""
    assert same(store, range(350))
    child = os.fork()
    if not child:
        signal.alarm(60)  # rather than a test that hangs
        fine = same(store, range(349, -1, -1)) and same(store, [3, 340])
        try:
            store.put("t", "image", [0], values(range(1)))
            fine = False
        except StoreError:
            pass
        os._exit(0 if fine and same(store, range(350)) else 1)
    assert same(store, [7, 349])
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    store.put("t", "image", range(350, 500), values(range(350, 500)))
    assert same(store, range(500))


def test_a_spawned_worker_opens_the_store_itself(store: FeatureStore) -> None:
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        got = pool.apply(FeatureStore.gather, (store, "t", "image", [3, 345]))
    np.testing.assert_array_equal(got, values(np.array([3, 345])))
    copy = pickle.loads(pickle.dumps(store))
    assert same(copy, [5, 349, 64])
    copy.close()


def test_a_reader_follows_a_file_that_outgrows_its_map(store: FeatureStore) -> None:
    with FeatureStore.open(store.path) as reader:
        batch = gather(reader, ["t"], range(350))
        before = len(reader._files.upto(0))
        for first in range(350, 3000, 500):
            rows = range(first, min(first + 500, 3000))
            store.put("t", "image", rows, values(rows))
            assert same(reader, np.random.default_rng(first).permutation(rows.stop))
            assert gather(reader, ["t"], [2999]).mask.tolist() == [[rows.stop == 3000]]
        assert len(reader._files.upto(0)) > before
        assert torch.equal(batch.images["t"], torch.from_numpy(values(range(350))))


def test_rows_that_are_put_again_are_read_anew(store: FeatureStore) -> None:
    with FeatureStore.open(store.path) as reader:
        assert same(reader, range(350))
        store.put("t", "image", range(100, 300), values(range(100, 300)) + 1)
        expected = values(range(350))
        expected[100:300] += 1
        assert torch.equal(gather(reader, ["t"], range(350)).images["t"], torch.from_numpy(expected))
        np.testing.assert_array_equal(reader.gather("t", "image", range(350)), expected)


def test_a_closed_store_is_refused_and_its_batches_stay(store: FeatureStore) -> None:
    reader = FeatureStore.open(store.path)
    batch = gather(reader, ["t"], range(350))
    assert str(store.path / "data.mdb") in Path("/proc/self/maps").read_text()
    reader.close()
    with pytest.raises(StoreError, match="the store is closed"):
        gather(reader, ["t"], [0], out=batch)
    assert torch.equal(batch.images["t"], torch.from_numpy(values(range(350))))
    assert same(store, range(350))


def test_a_file_that_cannot_be_mapped_says_so(store: FeatureStore, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise OSError(12, "Cannot allocate memory")

    with FeatureStore.open(store.path) as reader:
        monkeypatch.setattr(maps.mmap, "mmap", refuse)
        for call in (lambda: gather(reader, ["t"], [0]), lambda: reader.gather("t", "image", [0])):
            with pytest.raises(
                StoreError, match=r"cannot be mapped: Cannot allocate memory \(.*data\.mdb\)\. .*ulimit"
            ):
                call()
        monkeypatch.undo()
        assert same(reader, [0])


def test_a_large_file_is_not_read_ahead(store: FeatureStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(maps, "memory_share", lambda: 0)
    with FeatureStore.open(store.path) as reader:
        assert same(reader, range(350))
        with open("/proc/self/smaps") as file:
            maps_of_it = [part for part in file.read().split("VmFlags:")[1:] if part]
    assert any(" rr" in flags.split("\n")[0] for flags in maps_of_it)
