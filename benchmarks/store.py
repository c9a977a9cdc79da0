"""Figures of the feature store in memory: a random batch against index_select from RAM, LMDB records and torch files.

Stores that fit into the page cache, warm, one thread, in the processor time of that thread where nothing is read from
a disk. Every way must return the same numbers, which is checked before it is timed.

Does not: measure cold caches, nor the disk; see ``store_disk``.
"""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import lmdb
import numpy as np
import torch
from timing import Figure, Seconds, interleaved, ratio
from torch.utils.data import DataLoader, Dataset, default_collate

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


def both_towers(store: FeatureStore, tables: list[str]) -> Callable[[np.ndarray], Tensors]:
    """Batches of images and captions: teacher after teacher, the image's features before the caption's."""
    last: list[Batch] = []

    def way(rows: np.ndarray) -> Tensors:
        last[:] = [gather(store, tables, rows, rows, out=last[0] if last else None)]
        return [side[table] for table in tables for side in (last[0].images, last[0].texts)]

    return way


def samples(count: int, teachers: int) -> Iterator[dict[str, torch.Tensor]]:
    """What the paper's authors publish of each sample: ``TEACHER_img`` and ``TEACHER_txt``; here in float16."""
    for n in range(count):
        values = np.random.default_rng([2, n]).standard_normal((2 * teachers, DIM), np.float32).astype(np.float16)
        names = [f"t{number}_{tower}" for number in range(teachers) for tower in ("img", "txt")]
        yield {name: torch.from_numpy(row) for name, row in zip(names, values, strict=True)}


def fill_both(folder: Path, count: int, teachers: int) -> FeatureStore:
    """A store of both towers of these samples, open for reading."""
    every = list(samples(count, teachers))
    with FeatureStore.open(folder / "store", "w") as store:
        for tower, short in (("image", "img"), ("text", "txt")):
            rows = store.add_ids(tower, [f"{n:032x}" for n in range(count)])
            for number in range(teachers):
                store.put(f"t{number}", tower, rows, np.stack([one[f"t{number}_{short}"].numpy() for one in every]))
    return FeatureStore.open(folder / "store")


def collated(items: list[dict[str, torch.Tensor]]) -> Tensors:
    """What a DataLoader makes of samples: one tensor for each of their names, in their order."""
    return list(default_collate(items).values())


class Records(Dataset[dict[str, torch.Tensor]]):
    """The usual data set over LMDB: a transaction per sample, in it one get for each teacher and tower."""

    def __init__(self, path: Path, count: int, teachers: int) -> None:
        self.environment = lmdb.open(str(path), map_size=1 << 36, sync=False, readahead=False)
        for number, one in enumerate(samples(count, teachers)):
            with self.environment.begin(write=True) as txn:
                for name, features in one.items():
                    txn.put(f"{number:032x}/{name}".encode(), features.numpy().tobytes())
        self.names = list(one)

    def __getitem__(self, row: int) -> dict[str, torch.Tensor]:
        with self.environment.begin() as txn:
            return {name: self.decoded(txn.get(f"{row:032x}/{name}".encode())) for name in self.names}

    def decoded(self, value: bytes | None) -> torch.Tensor:
        assert value is not None
        return torch.frombuffer(bytearray(value), dtype=torch.float16)

    def each(self, rows: np.ndarray) -> Tensors:
        """A batch as a DataLoader makes it."""
        return collated([self[row] for row in rows.tolist()])

    def joined(self, rows: np.ndarray) -> Tensors:
        """A batch as whoever has measured makes it: one transaction, and no tensor per record."""
        keys = [f"{row:032x}/" for row in rows.tolist()]
        with self.environment.begin(buffers=True) as txn:
            flat = [bytearray().join([txn.get((key + name).encode()) or b"" for key in keys]) for name in self.names]
        return [torch.frombuffer(values, dtype=torch.float16).view(len(rows), DIM) for values in flat]


def store_vs_records() -> list[Figure]:
    """How many times faster a random batch of both towers is than LMDB records, read as a DataLoader reads them."""
    count, figures = 16384, []
    for teachers in (3, 9):
        tables = [f"t{n}" for n in range(teachers)]
        with tempfile.TemporaryDirectory() as folder, one_thread():
            records = Records(Path(folder, "records"), count, teachers)
            with fill_both(Path(folder), count, teachers) as store, records.environment:
                ways = {"store": both_towers(store, tables), "each": records.each, "joined": records.joined}
                for batch in (1024, 4096):
                    seconds = interleaved(ways, random_rows(count, batch), 8, clock=time.thread_time, check=same)
                    shared = f"{teachers} teachers, batches of {batch}"
                    against = f"a transaction per sample, a get per teacher and tower, default_collate; {shared}"
                    name = f"store-vs-records-{teachers}x{batch}"
                    figures.append(ratio(name, seconds["each"], seconds["store"], against))
                    against = f"one transaction per batch, a get per sample, teacher and tower, values joined; {shared}"
                    figures.append(ratio(f"{name}-joined", seconds["joined"], seconds["store"], against))
    return figures


class Published(Dataset[dict[str, torch.Tensor]]):
    """The published layout: one torch file per sample with all teachers and towers."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __getitem__(self, row: int) -> dict[str, torch.Tensor]:
        return torch.load(self.folder / f"{row}" / "clips_output.pt")  # type: ignore[no-any-return]


def store_vs_files() -> list[Figure]:
    """How many times faster random batches of both towers are than a ``DataLoader`` over one torch file per sample.

    The loader has as many workers as make it fastest here: none, one, or one per core. By the wall, since its workers
    are processes of their own; the store has one thread.
    """
    count, figures = 2048, []
    for teachers in (3, 9):
        tables = [f"t{n}" for n in range(teachers)]
        with tempfile.TemporaryDirectory() as folder, one_thread():
            for n, sample in enumerate(samples(count, teachers)):
                Path(folder, f"{n}").mkdir()
                torch.save({name: row.clone() for name, row in sample.items()}, Path(folder, f"{n}", "clips_output.pt"))
            with fill_both(Path(folder), count, teachers) as store:
                ways = {"store": in_turn(both_towers(store, tables))}
                loaders = {f"{n} workers": loader(Published(Path(folder)), n) for n in worker_counts()}
                seconds = interleaved(ways | loaders, epochs(count, 512), 5, warm=1, check=same)
            best = min(loaders, key=lambda name: float(np.median(seconds[name])))
            against = f"a DataLoader with {best} over one torch file per sample, {teachers} teachers, batches of 512"
            figures.append(ratio(f"store-vs-files-{teachers}", seconds[best], seconds["store"], against))
    return figures


def worker_counts() -> list[int]:
    """None, one, and one per core."""
    return sorted({0, 1, os.cpu_count() or 1})


def epochs(count: int, batch: int) -> Callable[[int], list[np.ndarray]]:
    """Input of a round: all rows in random order, in batches."""
    return lambda turn: np.array_split(np.random.default_rng(turn).permutation(count), count // batch)


def in_turn(read: Callable[[np.ndarray], Tensors]) -> Callable[[list[np.ndarray]], Tensors]:
    """Reads batch after batch; the last one is returned, the others lose their memory to the next."""

    def way(rows: list[np.ndarray]) -> Tensors:
        for part in rows:
            last = read(part)
        return last

    return way


def loader(samples: Dataset[dict[str, torch.Tensor]], workers: int) -> Callable[[list[np.ndarray]], Tensors]:
    """A ``DataLoader`` whose workers stay alive between rounds; it is told the batches of each round."""
    order: list[np.ndarray] = []
    made = DataLoader(samples, batch_sampler=order, num_workers=workers, persistent_workers=workers > 0)  # type: ignore[arg-type]

    def way(rows: list[np.ndarray]) -> Tensors:
        order[:] = rows
        for batch in made:
            last = list(batch.values())
        return last

    return way


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
