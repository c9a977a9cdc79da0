"""Dropping what nobody needs, and giving its room back: nothing else is lost, whenever the process dies."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from feature_store import FeatureStore, StoreError
from feature_store.keeping import compact, gc


def values(seed: int, rows: int = 300) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((rows, 8)).astype(np.float32)


def fill(path: Path) -> Path:
    """Tables a, b and c; a third of b was put twice."""
    with FeatureStore.open(path, "w", block_rows=32) as store:
        for tower in ("image", "text"):
            store.add_ids(tower, [f"{tower}{n}" for n in range(300)])
        for seed, table in enumerate("abc"):
            store.put(table, "image", range(300), values(seed), dtype="float32")
            store.describe(table, teacher=table)
        store.put("a", "text", range(40), values(7, 40))
        store.put("b", "image", range(100), values(9, 100))
    return path


def check(store: FeatureStore, tables: str) -> None:
    expected = {"a": values(0), "b": np.concatenate((values(9, 100), values(1)[100:])), "c": values(2)}
    assert store.verify() == []
    assert {table.table for table in store.tables()} == set(tables)
    for table in tables:
        np.testing.assert_array_equal(store.gather(table, "image", range(300)), expected[table])


def test_what_is_not_kept_goes_and_the_rest_stays(tmp_path: Path) -> None:
    with FeatureStore.open(fill(tmp_path / "s"), "w") as store, FeatureStore.open(tmp_path / "s") as reader:
        check(reader, "abc")
        planned = gc(store, ["b", "c"], dry_run=True)
        check(store, "abc")
        before = store.tables()
        assert [entry[:3] for entry in planned.tables] == [("a", "image", 300), ("a", "text", 40)]
        assert planned.replaced == (("b", "image", 100, 100 * 32),)
        assert planned.bytes == sum(table.bytes for table in before if table.table == "a") + 3200
        assert gc(store, ["b", "c"]) == planned
        for handle in (store, reader):
            check(handle, "bc")
            assert handle.missing("a", "image", [0]).all()
        assert gc(store, ["b", "c"], dry_run=True).bytes == 0
        assert [table.cosine_loss_mean for table in store.tables()] == [0, 0]
        assert [table.facts for table in store.tables()] == [{"teacher": "b"}, {"teacher": "c"}]
        with store._ready().read() as txn:
            assert txn.get(b"facts/a", db=store._ready().database("meta")) is None
        store.put("a", "image", range(300), values(0), dtype="float32")  # into the pages that became free
        check(store, "abc")


def test_keeping_everything_drops_only_what_was_replaced(tmp_path: Path) -> None:
    with FeatureStore.open(fill(tmp_path / "s"), "w") as store:
        assert gc(store).tables == ()
        check(store, "abc")
        assert gc(store, dry_run=True).bytes == 0


def test_compacting_gives_the_room_back_and_readers_follow(tmp_path: Path) -> None:
    with FeatureStore.open(fill(tmp_path / "s"), "w") as store, FeatureStore.open(tmp_path / "s") as reader:
        check(reader, "abc")
        gc(store, ["b"])
        size = (tmp_path / "s" / "data.mdb").stat().st_size
        before, after = compact(store, dry_run=True)
        assert before == size == (tmp_path / "s" / "data.mdb").stat().st_size
        assert compact(store)[1] == (tmp_path / "s" / "data.mdb").stat().st_size <= after < size / 2
        check(reader, "b")
        store.put("a", "image", range(300), values(0), dtype="float32")
        check(reader, "ab")
        check(store, "ab")
    with FeatureStore.open(tmp_path / "s") as store:
        check(store, "ab")
    assert sorted(entry.name for entry in (tmp_path / "s").iterdir()) == ["data.mdb", "lock.mdb", "writer.lock"]


def test_readers_of_other_processes_follow_a_compaction(tmp_path: Path) -> None:
    fill(tmp_path / "s")
    code = """
import sys
import numpy as np
from feature_store import FeatureStore
store = FeatureStore.open(sys.argv[1])
for line in sys.stdin:
    print(store.gather("c", "image", [int(line)])[0, 0], flush=True)
"""
    path = os.pathsep.join(entry for entry in sys.path if entry)
    reader = subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path / "s")],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": path},
    )
    assert reader.stdin is not None
    assert reader.stdout is not None
    with FeatureStore.open(tmp_path / "s", "w") as store:
        for turn in range(4):
            reader.stdin.write("5\n")
            reader.stdin.flush()
            assert float(reader.stdout.readline()) == store.gather("c", "image", [5])[0, 0]
            store.put("c", "image", range(turn, 300), values(20 + turn, 300 - turn))
            compact(store)
    reader.stdin.close()
    assert reader.wait() == 0
    reader.stdout.close()


def test_a_damaged_store_is_not_compacted(tmp_path: Path) -> None:
    data = (fill(tmp_path / "s") / "data.mdb").read_bytes()
    with open(tmp_path / "s" / "data.mdb", "r+b") as file:
        file.seek(data.index(values(2)[40:41].tobytes()))
        file.write(b"\1\2\3")
    refused = pytest.raises(StoreError, match=r"so it is not compacted: table c, .*block 1")
    with FeatureStore.open(tmp_path / "s", "w") as store, refused:
        compact(store)


KILLED = """
import sys
from feature_store import FeatureStore
from feature_store.keeping import compact, gc
with FeatureStore.open(sys.argv[1], "w") as store:
    print("open", flush=True)
    while True:
        gc(store, ["b", "c"])
        compact(store)
        store.put("b", "image", range(100), store.gather("b", "image", range(100)))
        print("turn", flush=True)
"""


def killed(path: Path, times: int) -> None:
    chance, imports = random.Random(0), os.pathsep.join(entry for entry in sys.path if entry)
    fill(path)
    for _ in range(times):
        process = subprocess.Popen(
            [sys.executable, "-c", KILLED, str(path)],
            stdout=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": imports},
        )
        assert process.stdout is not None
        process.stdout.readline()
        time.sleep(chance.random() * 0.25)
        process.send_signal(signal.SIGKILL)
        process.communicate()
        with FeatureStore.open(path) as store:
            assert store.verify() == []
            tables = {table.table for table in store.tables()}
            check(store, "".join(sorted(tables)))
            assert tables in ({"a", "b", "c"}, {"b", "c"})
    with FeatureStore.open(path, "w") as store:
        assert not (path / "compacting").exists()
        gc(store, ["b", "c"])
        compact(store)
        check(store, "bc")
        assert gc(store, ["b", "c"], dry_run=True).ownerless == 0


def test_killed_at_any_moment_nothing_is_lost(tmp_path: Path) -> None:
    killed(tmp_path / "s", 3)


@pytest.mark.slow
def test_killed_a_hundred_times_nothing_is_lost(tmp_path: Path) -> None:
    killed(tmp_path / "s", 100)
