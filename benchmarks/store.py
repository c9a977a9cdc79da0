"""Figures of the feature store: a random batch against memory, against one LMDB record and one file per sample.

Small stores that fit into the page cache, warm, one thread. Ways to the same batch are timed in turn, so that a busy
machine disturbs them alike; a figure is the median of the ratios of the rounds, its spread their quartiles. Every way
must return the same numbers, which is checked before it is timed.

Does not: measure cold caches, nor stores larger than memory.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import lmdb
import numpy as np
import torch

from feature_store import FeatureStore

Figure = dict[str, object]
Way = Callable[[np.ndarray], list[np.ndarray]]

TABLES = ("a", "b", "c")
DIM = 512


def _interleaved(ways: dict[str, Way], count: int, batch: int, rounds: int) -> dict[str, np.ndarray]:
    """Seconds of each way and round, all on the same random rows; the order of the ways turns with the rounds."""
    rng = np.random.default_rng(0)
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    names = list(ways)
    for turn in range(rounds + 2):
        rows = rng.integers(0, count, batch)
        first = None
        for name in names[turn % len(names) :] + names[: turn % len(names)]:
            start = time.perf_counter()
            got = ways[name](rows)
            spent = time.perf_counter() - start
            if turn < 2:  # warming up, and checking
                first = got if first is None else first
                assert all(np.array_equal(a, b) for a, b in zip(first, got, strict=True)), name
            else:
                seconds[name].append(spent)
    return {name: np.array(values) for name, values in seconds.items()}


def _ratio(name: str, over: np.ndarray, under: np.ndarray, against: str) -> Figure:
    low, middle, high = np.percentile(over / under, [25, 50, 75])
    return {
        "name": name,
        "value": round(float(middle), 3),
        "unit": "x",
        "against": against,
        "spread": [round(float(low), 3), round(float(high), 3)],
    }


def _fill(root: Path, count: int, dtype: str) -> tuple[FeatureStore, dict[str, np.ndarray]]:
    """Make a store of three tables; return it open for writing, with the stored numbers in memory."""
    store = FeatureStore.open(root / f"store-{dtype}", "w")
    rows = store.add_ids("image", [f"{n:032x}" for n in range(count)])
    memory = {}
    for number, table in enumerate(TABLES):
        values = np.random.default_rng([1, number]).standard_normal((count, DIM)).astype(np.float32)
        store.put(table, "image", rows, values, dtype=dtype)
        memory[table] = values.astype(dtype)
    return store, memory


def _store_and_memory(store: FeatureStore, memory: dict[str, np.ndarray]) -> dict[str, Way]:
    return {
        "store": lambda rows: [store.gather(table, "image", rows) for table in TABLES],
        "memory": lambda rows: [memory[table].take(rows, 0).astype(np.float32, copy=False) for table in TABLES],
    }


def store_random() -> list[Figure]:
    """Time of a random batch of 2048 rows from three tables, over numpy's take from arrays in memory."""
    figures = []
    for dtype, name in (("float16", "store-random"), ("float32", "store-random-float32")):
        with tempfile.TemporaryDirectory() as folder:
            store, memory = _fill(Path(folder), 16384, dtype)
            ways = _store_and_memory(store, memory)
            with store:
                seconds = _interleaved(ways, 16384, 2048, 60)
        against = f"numpy take of the same rows from {dtype} arrays in memory, as float32"
        figures.append(_ratio(name, seconds["store"], seconds["memory"], against))
    return figures


def store_vs_records() -> list[Figure]:
    """How many times faster a random batch is than one LMDB get for each sample and table."""
    with tempfile.TemporaryDirectory() as folder:
        store, memory = _fill(Path(folder), 8192, "float16")
        keys = [f"{n:032x}".encode() for n in range(8192)]
        with store, lmdb.open(folder + "/records", map_size=1 << 32, max_dbs=3, sync=False) as records:
            tables = [records.open_db(table.encode()) for table in TABLES]
            for table, database in zip(TABLES, tables, strict=True):
                with records.begin(write=True, db=database) as txn:
                    txn.cursor().putmulti(zip(keys, (row.tobytes() for row in memory[table]), strict=True))

            def decoded(values: Sequence[bytes | None]) -> np.ndarray:
                return np.stack([np.frombuffer(value or b"", np.float16) for value in values]).astype(np.float32)

            def each(rows: np.ndarray) -> list[np.ndarray]:
                out = []
                for database in tables:
                    values = []
                    for row in rows:
                        with records.begin(db=database) as txn:
                            values.append(txn.get(keys[row]))
                    out.append(decoded(values))
                return out

            def together(rows: np.ndarray) -> list[np.ndarray]:
                with records.begin() as txn:
                    return [decoded([txn.get(keys[row], db=database) for row in rows]) for database in tables]

            ways: dict[str, Way] = {
                "store": lambda rows: [store.gather(table, "image", rows) for table in TABLES],
                "each": each,
                "together": together,
            }
            seconds = _interleaved(ways, 8192, 2048, 20)
    return [
        _ratio(
            "store-vs-records", seconds["each"], seconds["store"], "one LMDB transaction and get per sample and table"
        ),
        _ratio(
            "store-vs-records-one-transaction",
            seconds["together"],
            seconds["store"],
            "one LMDB get per sample and table, one transaction per batch",
        ),
    ]


def store_vs_files() -> list[Figure]:
    """How many times faster a random batch is than reading one torch file per sample, all tables in it."""
    with tempfile.TemporaryDirectory() as folder:
        store, memory = _fill(Path(folder), 1024, "float16")
        paths = [Path(folder, f"{n}.pt") for n in range(1024)]
        for n, path in enumerate(paths):
            torch.save({table: torch.from_numpy(memory[table][n].copy()) for table in TABLES}, path)

        def files(rows: np.ndarray) -> list[np.ndarray]:
            samples = [torch.load(paths[row], weights_only=True) for row in rows]
            return [torch.stack([sample[table] for sample in samples]).float().numpy() for table in TABLES]

        with store:
            ways: dict[str, Way] = {
                "store": lambda rows: [store.gather(table, "image", rows) for table in TABLES],
                "files": files,
            }
            seconds = _interleaved(ways, 1024, 256, 7)
    against = "torch.load of one file per sample, batch of 256"
    return [_ratio("store-vs-files", seconds["files"], seconds["store"], against)]


FIGURES: dict[str, Callable[[], list[Figure]]] = {
    "store-random": store_random,
    "store-vs-records": store_vs_records,
    "store-vs-files": store_vs_files,
}
