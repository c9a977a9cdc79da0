"""Figures of the feature store on disk: cold reading, opening, memory, size and writing.

A cold cache is made by writing everything out and asking the system to drop the file's pages
(``posix_fadvise``, ``DONTNEED``) with no map of it open. ``store-open`` and ``store-memory`` play a store larger than
memory by treating every file as one (nothing is read ahead). Wall time: the disk is what is measured.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from store import DIM, Reader, fill, one_thread
from timing import Figure, figure, ratio

from feature_store import FeatureStore
from feature_store.sampling import Order, will_need

TABLES = ["a", "b", "c"]


def evict(folder: Path) -> None:
    """Drop the pages of every file below a folder; none of them may be open."""
    for path in (path for path in folder.rglob("*") if path.is_file()):
        file = os.open(path, os.O_RDONLY)
        try:
            os.fsync(file)
            os.posix_fadvise(file, 0, 0, os.POSIX_FADV_DONTNEED)
        finally:
            os.close(file)


def store_shuffled_cold() -> list[Figure]:
    """Rows a second of block-shuffled batches from a cold disk, over those of random rows from a cold disk.

    The random rows are those of plain ``.npy`` files, one per teacher, opened as memory maps with whatever the kernel
    reads ahead by itself; and, in the second figure, of the store. All read as many batches, in turn, from a cold
    cache, after a round that is not timed.
    """
    count, batch, window, steps = 65536, 1024, 4, 16
    seconds: dict[str, list[float]] = {"shuffled": [], "plain": [], "random": []}
    with tempfile.TemporaryDirectory(dir=_disk()) as name, one_thread():
        folder = Path(name)
        store, memory = fill(folder, TABLES, count)
        store.close()
        for table, values in zip(TABLES, memory, strict=True):
            np.save(folder / f"{table}.npy", values.numpy())
        for turn in range(6):
            anywhere = Order(count, batch, seed=turn)
            spent = {
                "shuffled": _cold_store(folder, Order(count, batch, seed=turn, window=window), steps),
                "random": _cold_store(folder, anywhere, steps),
                "plain": _cold_files(folder, anywhere, steps),
            }
            for way in seconds if turn else ():
                seconds[way].append(spent[way])
    fast, plain, own = (np.array(seconds[name]) for name in ("shuffled", "plain", "random"))
    speed = steps * batch * 3 * 2 * DIM / np.median(fast) / 1e6
    shared = f"3 teachers, {steps} batches of {batch}, windows of {window} blocks, {speed:.0f} MB/s"
    return [
        ratio("store-shuffled-cold", plain, fast, f"random rows of memory-mapped .npy files on a cold disk, {shared}"),
        ratio("store-shuffled-cold-own", own, fast, f"random rows of the store on a cold disk, {shared}"),
    ]


def _cold_store(folder: Path, order: Order, steps: int) -> float:
    """Seconds of the first batches of an epoch over a cold store."""
    evict(folder)
    with FeatureStore.open(folder / "store") as store:
        reader, asked = Reader(store, TABLES), -1
        start = time.perf_counter()
        for step in range(steps):
            while order.window and asked <= order.window_of(0, step):  # one window ahead
                asked += 1
                will_need(store, TABLES, order.window_rows(0, asked))
            reader(order.indices(0, step))
        return time.perf_counter() - start


def _cold_files(folder: Path, order: Order, steps: int) -> float:
    """Seconds of the same number of batches from cold files, mapped into memory."""
    evict(folder)
    maps = [np.load(folder / f"{table}.npy", mmap_mode="r") for table in TABLES]
    start = time.perf_counter()
    for step in range(steps):
        rows = order.indices(0, step)
        for values in maps:
            torch.from_numpy(values[rows])
    return time.perf_counter() - start


def store_size() -> list[Figure]:
    """Bytes on disk over raw bytes: one teacher with everything, one with 74 % of the rows at random, one of texts."""
    rng = np.random.default_rng(0)
    with tempfile.TemporaryDirectory(dir=_disk()) as folder:
        with FeatureStore.open(Path(folder, "store"), "w") as store:
            rows = store.add_ids("image", [f"{n:032x}" for n in range(131072)])
            ids = store.info().file_bytes
            part = rows[rng.random(len(rows)) < 0.74]
            for table, held in (("full", rows), ("part", part)):
                for first in range(0, len(held), 16384):
                    block = held[first : first + 16384]
                    store.put(table, "image", block, rng.standard_normal((len(block), DIM), np.float32))
            info = store.info()
        raw = info.rows * DIM * 2
        return [
            figure("store-size", info.bytes / raw, "x", "bare float16 features, 74 % coverage by one of two teachers"),
            figure(
                "store-size-file", (info.file_bytes - ids) / raw, "x", "the same, LMDB's own pages included, ids not"
            ),
        ]


def store_write() -> list[Figure]:
    """Speed of durable puts over that of writing the same bytes to a file in the same portions, with one fsync."""
    portion, count = 16384, 8
    values = np.random.default_rng(0).standard_normal((portion, DIM), np.float32).astype(np.float16)
    puts: list[float] = []
    raws: list[float] = []
    with tempfile.TemporaryDirectory(dir=_disk()) as folder, FeatureStore.open(Path(folder, "store"), "w") as store:
        rows = store.add_ids("image", [f"{n:032x}" for n in range(portion * count)])
        for turn in range(6):
            start = time.perf_counter()
            for n in range(count):
                store.put(f"t{turn}", "image", rows[n * portion : (n + 1) * portion], values)
            puts.append(time.perf_counter() - start)
            start = time.perf_counter()
            with open(Path(folder, f"raw{turn}"), "wb", buffering=0) as file:
                for _ in range(count):
                    file.write(values.data)
                os.fsync(file.fileno())
            raws.append(time.perf_counter() - start)
    against = "a raw file of the same bytes, one fsync; a put is durable each, 16,384 rows of float16"
    return [ratio("store-write", np.array(raws), np.array(puts), against)]


def store_add_teacher() -> list[Figure]:
    """Bytes of existing blocks that change when a teacher is added to a full store."""
    with tempfile.TemporaryDirectory(dir=_disk()) as folder:
        fill(Path(folder), TABLES, 32768)[0].close()
        path = Path(folder, "store", "data.mdb")
        with FeatureStore.open(Path(folder, "store"), "w") as store:
            rows = np.arange(32768)
            with store.reading(*((table, "image", 0) for table in TABLES)) as (txn, columns):
                extents = np.concatenate([one.extents(txn, rows) for one in columns])
            before = [_part(path, *extent) for extent in extents.tolist()]
            store.put("new", "image", rows, np.ones((len(rows), DIM), np.float32))
            after = [_part(path, *extent) for extent in extents.tolist()]
        changed = sum(len(old) for old, new in zip(before, after, strict=True) if old != new)
    return [figure("store-add-teacher", changed, "bytes", f"{len(extents)} blocks of three teachers")]


def _part(path: Path, start: int, length: int) -> bytes:
    with open(path, "rb") as file:
        file.seek(start)
        return file.read(length)


OPEN = """
import resource, sys, time
import numpy as np
from feature_store import FeatureStore
from feature_store.sampling import Order, will_need
from feature_store.torch import gather
import torch
torch.set_num_threads(1)
maps.memory_share = lambda: 0
tables = ["a", "b", "c"]
def resident():
    fields = dict(line.split(":") for line in open("/proc/self/status").read().splitlines())
    return int(fields["RssAnon"].split()[0]) * 1024
"""


def store_open() -> list[Figure]:
    """Seconds from opening a store of a million rows, cold, to its first batch."""
    count = 1_000_000
    with tempfile.TemporaryDirectory(dir=_disk()) as folder:
        _fill_quickly(Path(folder), count, 64)
        times: dict[str, list[float]] = {"shuffled": [], "random": []}
        for _ in range(5):
            for name, window in (("shuffled", 1), ("random", 0)):
                evict(Path(folder))
                times[name].append(float(_run(_FIRST.format(count=count, window=window), Path(folder, "store"))))
    against = "opening, row lists and a batch of 1024 rows of 3 teachers, one million rows, cold"
    return [
        figure("store-open", float(np.median(times["shuffled"])), "s", f"{against}, block-shuffled", times["shuffled"]),
        figure("store-open-random", float(np.median(times["random"])), "s", f"{against}, random rows", times["random"]),
    ]


def store_memory() -> list[Figure]:
    """Memory of its own that a reader takes in an epoch, over the batches in flight; the page cache is not its own."""
    count = 131072
    with tempfile.TemporaryDirectory(dir=_disk()) as folder:
        _fill_quickly(Path(folder), count, DIM)
        beyond, flight = map(int, _run(_EPOCH.format(count=count, dim=DIM), Path(folder, "store")).split())
    return [figure("store-memory", beyond / flight, "x", f"two batches of 4096 rows of 3 teachers, {flight} bytes")]


def _fill_quickly(folder: Path, count: int, dim: int) -> None:
    """A store whose rows repeat."""
    values = np.random.default_rng(0).standard_normal((65536, dim), np.float32).astype(np.float16)
    with FeatureStore.open(folder / "store", "w") as store:
        rows = store.add_ids("image", [f"{n:032x}" for n in range(count)])
        for table in TABLES:
            for first in range(0, count, 65536):
                part = rows[first : first + 65536]
                store.put(table, "image", part, values[: len(part)])


_FIRST = """
order = Order({count}, 1024, window={window})
start = time.perf_counter()
store = FeatureStore.open(sys.argv[1])
will_need(store, tables, order.window_rows(0, 0))
gather(store, tables, order.indices(0, 0))
print(time.perf_counter() - start)
"""
_EPOCH = """
order = Order({count}, 4096, window=4)
with FeatureStore.open(sys.argv[1]) as store:  # the libraries' own buffers, not of this epoch
    gather(store, tables, [0])
store, ring, most = FeatureStore.open(sys.argv[1]), [None, None], 0
before = resident()
for step in range(order.steps):
    ring[step % 2] = gather(store, tables, order.indices(0, step), out=ring[step % 2])
    most = max(most, resident() - before)
print(most, 2 * 3 * 4096 * {dim} * 2)
"""


def _run(script: str, path: Path) -> str:
    done = subprocess.run([sys.executable, "-c", OPEN + script, str(path)], capture_output=True, text=True, check=True)
    return done.stdout.strip()


def _disk() -> str:
    """A folder on a real disk: ``/var/tmp`` is never kept in memory."""
    return "/var/tmp"


FIGURES: dict[str, Callable[[], list[Figure]]] = {
    "store-shuffled-cold": store_shuffled_cold,
    "store-size": store_size,
    "store-write": store_write,
    "store-add-teacher": store_add_teacher,
    "store-open": store_open,
    "store-memory": store_memory,
}
