"""Kills, full disks, second writers, forks, growing maps and flipped bytes."""

from __future__ import annotations

import os
import pickle
import random
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import lmdb
import numpy as np
import pytest

from feature_store import FeatureStore, StoreError, environment, opening
from feature_store.transaction import Transaction

HEAD = """
import os, resource, sys
import numpy as np
from feature_store import FeatureStore, StoreError, opening
path = sys.argv[1]
def values(rows):
    return np.random.default_rng(0).standard_normal((3000, 16)).astype(np.float32)[rows]
"""


def values(rows: np.ndarray | range) -> np.ndarray:
    return np.random.default_rng(0).standard_normal((3000, 16)).astype(np.float32)[np.asarray(rows)]


def start(script: str, path: Path) -> subprocess.Popen[str]:
    """Run a script in a process of its own, with this one's import path."""
    return subprocess.Popen(
        [sys.executable, "-c", HEAD + script, str(path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(entry for entry in sys.path if entry)},
    )


def finish(script: str, path: Path) -> str:
    process = start(script, path)
    out, _ = process.communicate(timeout=900)
    assert process.returncode == 0, out
    return out.strip()


WRITER = """
with FeatureStore.open(path, "w", block_rows=64) as store:
    rows = store.add_ids("image", [f"i{n}" for n in range(3000)])
    todo = rows[store.missing("t", "image", rows)]
    for first in range(0, len(todo), 37):
        part = todo[first : first + 37]
        store.put("t", "image", part, values(part), dtype="float32")
        print(part[-1], flush=True)
"""


def kill_and_go_on(tmp_path: Path, seed: int, kills: int) -> None:
    """Kill a writer at random moments; what it had acknowledged is there, and the end is that of an undisturbed run."""
    moment = random.Random(seed)
    for _ in range(kills):
        process = start(WRITER, tmp_path / "s")
        assert process.stdout is not None
        acknowledged = -1
        for _ in range(moment.randint(1, 25)):
            acknowledged = int(process.stdout.readline() or acknowledged)
        time.sleep(moment.random() * 0.004)
        process.send_signal(signal.SIGKILL)
        rest, _ = process.communicate()
        acknowledged = max([acknowledged, *map(int, rest.split("\n")[:-1])])
        with FeatureStore.open(tmp_path / "s") as store:
            assert store.verify() == []
            there = np.flatnonzero(~store.missing("t", "image", range(3000)))
            assert there[-1] + 1 == len(there) >= acknowledged + 1
            np.testing.assert_array_equal(store.gather("t", "image", there), values(there))
    finish(WRITER, tmp_path / "s")
    finish(WRITER, tmp_path / "undisturbed")
    infos = []
    for name in ("s", "undisturbed"):
        with FeatureStore.open(tmp_path / name) as store:
            np.testing.assert_array_equal(store.gather("t", "image", range(3000)), values(range(3000)))
            infos.append(replace(store.info(), file_bytes=0))
    assert infos[0] == infos[1]


def test_a_killed_writer_loses_nothing_that_it_had_acknowledged(tmp_path: Path) -> None:
    kill_and_go_on(tmp_path, 0, 3)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(1, 51))
def test_a_writer_killed_two_hundred_times_loses_nothing(tmp_path: Path, seed: int) -> None:
    kill_and_go_on(tmp_path, seed, 4)


def test_a_writer_killed_while_it_makes_the_store_leaves_none_behind(tmp_path: Path) -> None:
    finish(
        """
os.makedirs(path)
from feature_store.environment import Environment
Environment._describe = lambda self, block_rows: os._exit(0)
FeatureStore.open(path, "w")
""",
        tmp_path / "s",
    )
    assert (tmp_path / "s" / "data.mdb").exists()
    with pytest.raises(StoreError, match="this is not a feature store"):
        FeatureStore.open(tmp_path / "s")
    with FeatureStore.open(tmp_path / "s", "w") as store:
        assert store.info().rows == 0


def test_a_second_writer_is_refused_with_the_pid_of_the_first(tmp_path: Path) -> None:
    process = start('store = FeatureStore.open(path, "w"); print("open", flush=True); sys.stdin.read()', tmp_path / "s")
    assert process.stdout is not None
    assert process.stdout.readline() == "open\n"
    with pytest.raises(
        StoreError, match=rf"being written by process {process.pid} \(.*\)\. Wait until it has finished"
    ):
        FeatureStore.open(tmp_path / "s", "w")
    FeatureStore.open(tmp_path / "s").close()  # readers are welcome
    process.kill()
    process.communicate()
    with FeatureStore.open(tmp_path / "s", "w") as store:
        with pytest.raises(StoreError, match=f"being written by process {os.getpid()} "):
            FeatureStore.open(tmp_path / "s", "w")
        store.add_ids("image", ["a"])
        refused = finish(
            """
try:
    FeatureStore.open(path, "w")
except StoreError as problem:
    print(problem.what)
""",
            tmp_path / "s",
        )
        assert refused == f"the store is being written by process {os.getpid()}"
    FeatureStore.open(tmp_path / "s", "w").close()


def test_a_writer_may_open_where_this_process_reads(tmp_path: Path) -> None:
    FeatureStore.open(tmp_path / "s", "w").close()
    with FeatureStore.open(tmp_path / "s") as reader:
        with FeatureStore.open(tmp_path / "s", "w") as store:
            store.put("t", "image", store.add_ids("image", ["a"]), values(range(1)), dtype="float32")
        np.testing.assert_array_equal(reader.gather("t", "image", [0]), values(range(1)))
        FeatureStore.open(tmp_path / "s", "w").close()


def test_a_forgotten_handle_does_not_keep_the_store(tmp_path: Path) -> None:
    store = FeatureStore.open(tmp_path / "s", "w")
    del store
    FeatureStore.open(tmp_path / "s", "w").close()


@pytest.fixture
def filled(tmp_path: Path) -> Path:
    """Five blocks of 64 rows and 30 rows in the tail."""
    with FeatureStore.open(tmp_path / "s", "w", block_rows=64) as store:
        rows = store.add_ids("image", [f"i{n}" for n in range(350)])
        store.put("t", "image", rows, values(rows), dtype="float32")
    return tmp_path / "s"


def test_handles_survive_fork_and_pickling(filled: Path) -> None:
    script = """
import pickle
store = FeatureStore.open(path, MODE)
store.gather("t", "image", [0, 340])
copy = pickle.loads(pickle.dumps(store))
assert (copy.gather("t", "image", [7]) == values([7])).all()
for turn in range(3):
    child = os.fork()
    if not child:
        ok = (store.gather("t", "image", [turn, 345]) == values([turn, 345])).all()
        ok &= (copy.gather("t", "image", [turn, 345]) == values([turn, 345])).all()
        try:
            store.put("t", "image", [0], values([0]))
            ok = False
        except StoreError as problem:
            ok &= "open for reading" in str(problem)
        os._exit(0 if ok else 1)
    assert (store.gather("t", "image", [9]) == values([9])).all()
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert (store.gather("t", "image", [9, 349]) == values([9, 349])).all()
if MODE == "w":
    store.put("t", "image", [0], values([0]))
print("fine")
"""
    for mode in ("r", "w"):
        assert finish(f"MODE = {mode!r}\n" + script, filled) == "fine"
    store = FeatureStore.open(filled)
    raw = pickle.dumps(store)
    store.close()
    with pickle.loads(raw) as copy:
        np.testing.assert_array_equal(copy.gather("t", "image", [5]), values(range(5, 6)))
    with pytest.raises(StoreError, match="the store is closed"):
        pickle.loads(pickle.dumps(copy)).tables()


def test_a_full_disk_loses_nothing(filled: Path) -> None:
    """A limit on the size of files makes LMDB's own writes fail, as a full disk does."""
    out = finish(
        """
store = FeatureStore.open(path, "w")
rows = store.add_ids("image", [f"n{n}" for n in range(2000)])
size = os.path.getsize(path + "/data.mdb")
resource.setrlimit(resource.RLIMIT_FSIZE, (size + 20000, resource.RLIM_INFINITY))
try:
    store.put("t", "image", rows, values(rows))
except StoreError as problem:
    print(problem)
assert store.verify() == [] and store.missing("t", "image", rows).all()
assert (store.gather("t", "image", range(350)) == values(range(350))).all()
resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
store.put("t", "image", rows, values(rows))
assert (store.gather("t", "image", rows) == values(rows)).all()
""",
        filled,
    )
    sentence = "the disk is full; nothing that was committed is lost"
    assert out == f"{sentence} ({filled}). Free some space and run this again"


def test_no_space_left_on_the_device(filled: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = Transaction.__exit__

    def full(self: Transaction, *error: object) -> None:
        if not self._write:
            return real(self, *error)
        problem = lmdb.DiskError("mdb_txn_commit: No space left on device")
        real(self, type(problem), problem, None)
        self._environment._lmdb.close()  # as useless as LMDB leaves it after a failed write of its meta page
        raise problem

    with FeatureStore.open(filled, "w") as store:
        with monkeypatch.context() as patch:
            patch.setattr(Transaction, "__exit__", full)
            with pytest.raises(StoreError, match="the disk is full; nothing that was committed is lost"):
                store.put("t", "image", [0], values(range(1)) + 1)
        np.testing.assert_array_equal(store.gather("t", "image", [0]), values(range(1)))
        store.put("t", "image", [0], values(range(1)) + 1)
        np.testing.assert_array_equal(store.gather("t", "image", [0]), values(range(1)) + 1)


def test_a_full_map_grows_or_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(opening, "MAP_SIZES", (1 << 18,))
    monkeypatch.setattr(environment, "LARGEST_MAP", 1 << 18)
    with FeatureStore.open(tmp_path / "s", "w", block_rows=64) as store:
        rows = store.add_ids("image", [str(n) for n in range(3000)])
        store.put("t", "image", rows[:100], values(rows[:100]), dtype="float32")
        with pytest.raises(StoreError, match=r"its map cannot grow; nothing that was committed is lost .*ulimit -v"):
            store.put("t", "image", rows, values(rows))
        assert store.verify() == []
        assert store.info().rows == 100
        monkeypatch.setattr(environment, "LARGEST_MAP", 1 << 30)
        store.put("t", "image", rows, values(rows))
        np.testing.assert_array_equal(store.gather("t", "image", rows), values(rows))


def test_a_reader_follows_a_store_that_outgrew_its_map(filled: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(opening, "MAP_SIZES", (1 << 16,))
    with FeatureStore.open(filled) as reader:
        np.testing.assert_array_equal(reader.gather("t", "image", [3]), values(range(3, 4)))
        finish(WRITER, filled)
        np.testing.assert_array_equal(reader.gather("t", "image", range(3000)), values(range(3000)))


def test_a_small_address_space_is_enough(tmp_path: Path) -> None:
    out = finish(
        """
resource.setrlimit(resource.RLIMIT_AS, (4 << 30, 4 << 30))
with FeatureStore.open(path, "w") as store:
    rows = store.add_ids("image", ["a"])
    store.put("t", "image", rows, values(rows), dtype="float32")
    assert (store.gather("t", "image", rows) == values(rows)).all()
    print(store._environment._lmdb.info()["map_size"] < 4 << 30)
opening.MAP_SIZES = (1 << 40,)
try:
    FeatureStore.open(path)
except StoreError as problem:
    print(problem.what)
""",
        tmp_path / "s",
    )
    assert out.split("\n") == ["True", "the system grants no address space to map the store"]


def flip(path: Path, pattern: bytes, offset: int = 0) -> None:
    """Flip one bit at the only place of the file where ``pattern`` lies."""
    data = bytearray((path / "data.mdb").read_bytes())
    assert data.count(pattern) == 1
    data[data.index(pattern) + offset] ^= 4
    (path / "data.mdb").write_bytes(data)


def test_a_flipped_byte_in_a_block_is_found_and_named(filled: Path) -> None:
    with FeatureStore.open(filled, "w") as store:
        rows = store.add_ids("image", [f"i{n}" for n in range(350)])
        store.put("u", "image", rows, values(rows) + 1, dtype="float32")
    flip(filled, values(range(130, 131)).tobytes(), 9)
    with FeatureStore.open(filled) as store:
        (damage,) = store.verify()
    assert str(damage) == "table t, tower image, block 2: does not match its digest"
    assert damage.rows == tuple(range(128, 192))


def test_several_damaged_blocks_are_each_named(filled: Path) -> None:
    for row in (0, 63, 300):
        flip(filled, values(range(row, row + 1)).tobytes())
    with FeatureStore.open(filled) as store:
        assert [damage.part for damage in store.verify()] == ["block 0", "block 4"]


def test_a_damaged_header_is_found_and_never_gathered(filled: Path) -> None:
    payload = (filled / "data.mdb").read_bytes().index(values(range(64, 65)).tobytes())
    data = bytearray((filled / "data.mdb").read_bytes())
    data[payload - 4080 + 30] ^= 1
    (filled / "data.mdb").write_bytes(data)
    with FeatureStore.open(filled) as store:
        (damage,) = store.verify()
        assert (damage.part, damage.reason) == ("block 1", "has a header that belongs to no block of this table")
        with pytest.raises(StoreError, match=r"block 1 is damaged \(table t, tower image\)\. Run verify\(\)"):
            store.gather("t", "image", [70])
        np.testing.assert_array_equal(store.gather("t", "image", [3, 130]), values(np.array([3, 130])))


def test_a_damaged_tail_is_found_and_never_gathered(filled: Path) -> None:
    flip(filled, values(range(349, 350)).tobytes())
    with FeatureStore.open(filled) as store:
        assert [str(damage) for damage in store.verify()] == ["table t, tower image, tail 0: does not match its digest"]
        for _ in range(2):
            with pytest.raises(StoreError, match="tail 0 is damaged"):
                store.gather("t", "image", [0])


def test_a_damaged_row_list_is_found_and_never_believed(filled: Path) -> None:
    flip(filled, np.array([192, 64], "<u4").tobytes())
    with FeatureStore.open(filled) as store:
        assert [damage.part for damage in store.verify()] == ["index 3"]
        with pytest.raises(StoreError, match="index 3 is damaged"):
            store.missing("t", "image", [0])
