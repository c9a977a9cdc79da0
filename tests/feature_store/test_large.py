"""A store larger than memory gives the same batches, and asks for their pages if these are not here."""

from __future__ import annotations

import mmap
import os
from pathlib import Path

import numpy as np
import pytest
import torch

from feature_store import FeatureStore, maps
from feature_store.torch import gather

ROWS, DIM = 2048, 700


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FeatureStore:
    """Rows of 1400 bytes, many of which cross a page; cold."""
    monkeypatch.setattr(maps, "memory_share", lambda: 0)
    with FeatureStore.open(tmp_path / "s", "w", block_rows=64) as opened:
        rows = opened.add_ids("image", [str(n) for n in range(ROWS)])
        opened.put("t", "image", rows, values(rows))
    file = os.open(tmp_path / "s" / "data.mdb", os.O_RDONLY)
    os.fsync(file)
    os.posix_fadvise(file, 0, 0, os.POSIX_FADV_DONTNEED)
    os.close(file)
    return FeatureStore.open(tmp_path / "s")


def values(rows: np.ndarray) -> np.ndarray:
    return np.random.default_rng(0).standard_normal((ROWS, DIM)).astype(np.float16)[rows]


class Asked:
    """A map that notes what it is asked for."""

    def __init__(self, real: mmap.mmap) -> None:
        self.real, self.parts = real, []

    def madvise(self, option: int, start: int, length: int) -> None:
        assert option == mmap.MADV_WILLNEED
        assert start % mmap.PAGESIZE == 0
        self.parts.append((start, length))
        self.real.madvise(option, start, length)


def test_the_pages_of_a_batch_are_asked_for_unless_they_are_here(
    store: FeatureStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = np.random.default_rng(1).integers(0, ROWS, 100)
    with store:
        gather(store, ["t"], [0])  # maps the file
        asked = Asked(store._files._map)
        monkeypatch.setattr(store._files, "_map", asked)
        monkeypatch.setattr(store._files, "_is_here", lambda start: False)
        batch = gather(store, ["t"], rows).images["t"]
        assert torch.equal(batch, torch.from_numpy(values(rows)))
        with store.reading(("t", "image", 0)) as (txn, (columns,)):
            extents = columns.extents(txn, np.arange(ROWS))
        starts = np.array([extents[row // 64, 0] + 4080 + row % 64 * 2 * DIM for row in rows])
        pages = {start // 4096 for start in starts} | {(start + 2 * DIM - 1) // 4096 for start in starts}
        given = {start // 4096 + n for start, length in asked.parts for n in range(length // 4096)}
        assert pages <= given
        monkeypatch.undo()
        seen = Asked(store._files._map)
        store._files._map = seen
        gather(store, ["t"], rows)  # now they are in memory
        store._files._map = seen.real
        assert seen.parts == []
