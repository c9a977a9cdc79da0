"""Figures of the feature store in memory: a random batch against index_select from RAM, LMDB records and torch files.

Stores that fit into the page cache, warm, one thread, in the processor time of that thread where nothing is read from
a disk. Every way must return the same numbers, which is checked before it is timed.

Does not: measure cold caches, nor the disk; see ``store_disk``.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import lmdb
import numpy as np
import torch
from timing import Figure, Seconds, interleaved, ratio

from feature_store import FeatureStore
from feature_store.sampling import Order
from feature_store.torch import Batch, gather

DIM = 512
ROWS = 65536
"""Of one teacher: 64 MB in float16."""
Tensors = list[torch.Tensor]


def fill(folder: Path, tables: list[str], count: int = ROWS) -> tuple[FeatureStore, Tensors]:
    """Make a store with the image features of these tables; return it open for reading, and them in memory."""
    memory = []
    with FeatureStore.open(folder / "store", "w") as store:
        rows = store.add_ids("image", [f"{n:032x}" for n in range(count)])
        for number, table in enumerate(tables):
            values = np.random.default_rng([1, number]).standard_normal((count, DIM), np.float32).astype(np.float16)
            for first in range(0, count, 16384):
                store.put(table, "image", rows[first : first + 16384], values[first : first + 16384])
            memory.append(torch.from_numpy(values))  # numpy asks for huge pages
    return FeatureStore.open(folder / "store"), memory


def same(results: list[Tensors]) -> None:
    """Refuse to compare ways that return different numbers."""
    for other in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0], other, strict=True))


class Reader:
    """Batches from the store into the memory of the batch before."""

    def __init__(self, store: FeatureStore, tables: list[str]) -> None:
        self.store, self.tables = store, tables
        self.last: Batch | None = None

    def __call__(self, rows: np.ndarray) -> Tensors:
        self.last = gather(self.store, self.tables, rows, out=self.last)
        return list(self.last.images.values())


def from_memory(memory: Tensors, batch: int) -> Callable[[np.ndarray], Tensors]:
    """The limit: index_select from tensors in memory, into tensors that are there already."""
    out = [torch.empty(batch, DIM, dtype=torch.float16) for _ in memory]

    def way(rows: np.ndarray) -> Tensors:
        index = torch.from_numpy(rows)
        targets = [target[: len(rows)] for target in out]
        for source, target in zip(memory, targets, strict=True):
            torch.index_select(source, 0, index, out=target)
        return targets

    return way


@contextmanager
def one_thread() -> Iterator[None]:
    """Torch with one thread: what a loader has."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def random_rows(count: int, batch: int) -> Callable[[int], np.ndarray]:
    """Input of a round: rows drawn at random."""
    return lambda turn: np.random.default_rng(turn).integers(0, count, batch)


def store_random() -> list[Figure]:
    """Time of a random batch over that of the same rows from memory, for 3 and 9 teachers and three sizes of batch."""
    figures = []
    for teachers in (3, 9):
        tables = [f"t{n}" for n in range(teachers)]
        with tempfile.TemporaryDirectory() as folder, one_thread():
            store, memory = fill(Path(folder), tables)
            with store:
                reader = Reader(store, tables)
                limit = from_memory(memory, 4096)
                for first in range(0, ROWS, 4096):  # both touch all their pages before anything is timed
                    rows = np.arange(first, first + 4096)
                    same([reader(rows), limit(rows)])
                for batch in (1024, 2048, 4096):
                    seconds = interleaved(
                        {"store": reader, "memory": from_memory(memory, batch)},
                        random_rows(ROWS, batch),
                        80,
                        clock=time.thread_time,
                        check=same,
                    )
                    against = f"torch.index_select from RAM, {teachers} teachers, batches of {batch}, float16"
                    name = f"store-random-{teachers}x{batch}"
                    figures.append(ratio(name, seconds["store"], seconds["memory"], against))
    return figures


def store_vs_records() -> list[Figure]:
    """How many times faster a random batch is than LMDB gets, one for each sample and teacher."""
    count, tables = 16384, ["a", "b", "c"]
    with tempfile.TemporaryDirectory() as folder, one_thread():
        store, memory = fill(Path(folder), tables, count)
        keys = [f"{n:032x}".encode() for n in range(count)]
        with store, lmdb.open(folder + "/records", map_size=1 << 32, max_dbs=3, sync=False) as records:
            databases = [records.open_db(table.encode()) for table in tables]
            for values, database in zip(memory, databases, strict=True):
                with records.begin(write=True, db=database) as txn:
                    txn.cursor().putmulti(zip(keys, (row.tobytes() for row in values.numpy()), strict=True))

            def decoded(values: list[Any]) -> torch.Tensor:
                return torch.from_numpy(np.stack([np.frombuffer(value, np.float16) for value in values]))

            def each(rows: np.ndarray) -> Tensors:
                out = []
                for database in databases:
                    values = []
                    for row in rows:
                        with records.begin(db=database) as txn:
                            values.append(txn.get(keys[row]))
                    out.append(decoded(values))
                return out

            def together(rows: np.ndarray) -> Tensors:
                with records.begin(buffers=True) as txn:
                    return [decoded([txn.get(keys[row], db=database) for row in rows]) for database in databases]

            ways = {"store": Reader(store, tables), "each": each, "together": together}
            seconds = interleaved(ways, random_rows(count, 2048), 20, clock=time.thread_time, check=same)
    against = "one LMDB transaction and get per sample and teacher, 3 teachers, batches of 2048"
    one = "one LMDB get per sample and teacher, one transaction per batch, no copies"
    return [
        ratio("store-vs-records", seconds["each"], seconds["store"], against),
        ratio("store-vs-records-one-transaction", seconds["together"], seconds["store"], one),
    ]


def store_vs_files() -> list[Figure]:
    """How many times faster a random batch is than torch files: one folder per sample, one file per teacher and one."""
    count, tables = 2048, ["a", "b", "c"]
    with tempfile.TemporaryDirectory() as folder, one_thread():
        store, memory = fill(Path(folder), tables, count)
        for n in range(count):
            sample = {table: values[n].clone() for table, values in zip(tables, memory, strict=True)}
            Path(folder, f"{n}").mkdir()
            torch.save(sample, Path(folder, f"{n}", "all.pt"))
            for table, row in sample.items():
                torch.save(row, Path(folder, f"{n}", f"{table}.pt"))

        def loaded(row: int, name: str) -> Any:
            return torch.load(Path(folder, f"{row}", f"{name}.pt"), weights_only=True)

        def published(rows: np.ndarray) -> Tensors:
            return [torch.stack([loaded(row, table) for row in rows]) for table in tables]

        def single(rows: np.ndarray) -> Tensors:
            samples = [loaded(row, "all") for row in rows]
            return [torch.stack([sample[table] for sample in samples]) for table in tables]

        with store:
            ways = {"store": Reader(store, tables), "published": published, "single": single}
            seconds = interleaved(ways, random_rows(count, 1024), 7, clock=time.thread_time, check=same)
    against = "torch.load of one file per sample and teacher (the published layout), 3 teachers, batches of 1024"
    return [
        ratio("store-vs-files", seconds["published"], seconds["store"], against),
        ratio("store-vs-files-one-per-sample", seconds["single"], seconds["store"], "one file per sample, all in it"),
    ]


def store_shuffled_warm() -> list[Figure]:
    """Time of a block-shuffled epoch over that of random rows from memory."""
    tables = ["a", "b", "c"]
    with tempfile.TemporaryDirectory() as folder, one_thread():
        store, memory = fill(Path(folder), tables)
        with store:
            reader, limit, figures = Reader(store, tables), from_memory(memory, 1024), []
            for window in (1, 4):
                order = Order(ROWS, 1024, window=window)
                seconds = _epochs(order, reader, limit)
                against = f"random rows from RAM, 3 teachers, batches of 1024, windows of {window} blocks"
                name = f"store-shuffled-warm-{window}"
                figures.append(ratio(name, seconds["store"], seconds["memory"], against))
    return figures


def _epochs(order: Order, reader: Reader, limit: Callable[[np.ndarray], Tensors]) -> Seconds:
    """A round is half an epoch: the store block-shuffled, memory in random order; making the order is not timed."""
    anywhere = Order(order.size, order.batch)
    steps = order.steps // 2

    def inputs(turn: int) -> tuple[list[np.ndarray], list[np.ndarray]]:
        first = (turn % 2) * steps
        return tuple([one.indices(turn // 2, first + n) for n in range(steps)] for one in (order, anywhere))  # type: ignore[return-value]

    return interleaved(
        {
            "store": lambda given: [reader(rows) for rows in given[0]] and None,
            "memory": lambda given: [limit(rows) for rows in given[1]] and None,
        },
        inputs,
        20,
        clock=time.thread_time,
    )


FIGURES: dict[str, Callable[[], list[Figure]]] = {
    "store-random": store_random,
    "store-vs-records": store_vs_records,
    "store-vs-files": store_vs_files,
    "store-shuffled-warm": store_shuffled_warm,
}
