"""After a repair exactly the damaged rows are missing, whatever was damaged; everything else is as it was."""

from __future__ import annotations

import random
import shutil
import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from feature_store import FeatureStore, StoreError
from feature_store.keeping import repair
from feature_store.pages import Snapshot

DIM = 4


def value(row: int, version: int) -> np.ndarray:
    return np.float32([row, version, row * version, 1])


def fill(path: Path, puts: list[list[int]], rows: int = 40) -> dict[int, np.ndarray]:
    """A store of blocks of 8 rows, and what it should hold."""
    held = {}
    with FeatureStore.open(path, "w", block_rows=8) as store:
        store.add_ids("image", [f"i{n}" for n in range(rows)])
        store.add_ids("text", ["a"])
        store.put("other", "image", range(20), np.ones((20, 3)), dtype="float32")
        for version, part in enumerate(puts, 1):
            features = np.array([value(row, version) for row in part]).reshape(-1, DIM)
            store.put("t", "image", part, features, dtype="float32")
            held |= dict(zip(part, features, strict=True))
    return held


def parts(path: Path) -> dict[str, tuple[int, int]]:
    """Where each value of table ``t`` lies in the file: offset and length."""
    snapshot, found = Snapshot(path / "data.mdb"), {}
    base = np.frombuffer(snapshot._data, np.uint8).ctypes.data
    with FeatureStore.open(path) as store, store._ready().read() as txn:
        owner = int.from_bytes(b"\1", "big")  # "other" was the first table
        assert txn.get(b"tables", db=store._ready().database("meta"))[0] == 2
    for name, tree in snapshot.trees().items():
        for key, raw in snapshot.entries(tree, name):
            if name in ("blocks", "index", "tail") and int.from_bytes(key[:4], "big") == owner:
                part = f"{name.removesuffix('s')} {int.from_bytes(key[4:], 'big')}"
                found[part] = (np.frombuffer(raw, np.uint8).ctypes.data - base, len(raw))
            elif name == "ids" and key[0] == 0:
                at = bytes(raw).index(b"i16i17i18") + 3
                found["id i17"] = (np.frombuffer(raw, np.uint8).ctypes.data - base + at, 3)
    return found


def flip(path: Path, offset: int) -> None:
    with open(path / "data.mdb", "r+b") as file:
        file.seek(offset)
        byte = file.read(1)[0]
        file.seek(offset)
        file.write(bytes((byte ^ 16,)))


PUTS = st.lists(st.lists(st.integers(0, 39), min_size=1, max_size=14, unique=True), min_size=1, max_size=8)


@given(puts=PUTS, seed=st.integers(0, 999), hits=st.integers(1, 3))
@settings(max_examples=25, deadline=None)
def test_damage_anywhere_costs_its_own_rows_and_no_others(puts: list[list[int]], seed: int, hits: int) -> None:
    chance = random.Random(seed)
    with tempfile.TemporaryDirectory() as root:
        path = Path(root) / "s"
        held = fill(path, puts)
        lies = {part: at for part, at in parts(path).items() if part != "id i17"}
        chosen = chance.sample(sorted(lies), min(hits, len(lies)))
        for part in chosen:
            start, length = lies[part]
            flip(path, start + chance.randrange(length))
        with FeatureStore.open(path, "w") as store:
            damages = store.verify()
            assert {damage.part for damage in damages} == set(chosen)
            listed = {row for damage in damages for row in damage.rows}
            (done,) = repair(store)
            assert set(done.parts) == set(chosen)
            assert store.verify() == []
            there = np.flatnonzero(~store.missing("t", "image", range(40)))
            gone = set(held) - set(there.tolist())
            assert set(there.tolist()) <= set(held)
            for row, feature in zip(there, store.gather("t", "image", there) if len(there) else [], strict=True):
                np.testing.assert_array_equal(feature, held[int(row)])  # never an older version
            if all(part.startswith("block") for part in chosen):
                assert gone == set(done.rows) <= listed
                assert done.unknown == 0
            assert len(gone) <= len(done.rows) + done.unknown
            np.testing.assert_array_equal(store.gather("other", "image", range(20)), np.ones((20, 3)))
            again = sorted(gone)
            if again:
                store.put("t", "image", again, np.array([held[row] for row in again]))
            assert store.tables()[1].rows == len(held)
            rows = sorted(held)
            np.testing.assert_array_equal(store.gather("t", "image", rows), np.array([held[row] for row in rows]))
            assert store.verify() == []


FIRST = list(range(8))
"""Rows of the first block."""


@pytest.mark.parametrize(
    ("puts", "damaged", "there"),
    [
        # Rows 0 to 7 fill a block, row 3 is written again with seven others: the second block is row 3's newest place.
        ([FIRST, [3, 8, 9, 10, 11, 12, 13, 14]], ["block 1"], {0: 1, 1: 1, 2: 1, 4: 1, 5: 1, 6: 1, 7: 1}),
        # The first block is row 3's older place: its newest version stays.
        ([FIRST, [3, 8, 9, 10, 11, 12, 13, 14]], ["block 0"], {3: 2, **dict.fromkeys(range(8, 15), 2)}),
        # The rows of a row list that cannot be read may be any: one row too many is counted, so nothing older is left.
        ([FIRST, [3, 8, 9, 10, 11, 12, 13, 14]], ["index 1"], {}),
        # Here the count says that the lost list hid nothing older.
        ([FIRST, [15, 8, 9, 10, 11, 12, 13, 14]], ["index 1"], dict.fromkeys(FIRST, 1)),
        # Eight rows, one rewritten, which waits in the tail: nobody can know which of the eight it was.
        ([FIRST, [3]], ["tail 0"], {}),
        # A later version than the lost one is the newest there is.
        ([FIRST, [3], [5]], ["tail 0"], {5: 3}),
        ([FIRST, [3], [5]], ["tail 1"], {}),
        # Rewritten twice: neither of the older ones comes back.
        ([FIRST, [3, 8, 9, 10, 11, 12, 13, 14], [3, *range(16, 23)]], ["block 2"],
         {0: 1, 1: 1, 2: 1, 4: 1, 5: 1, 6: 1, 7: 1, **dict.fromkeys(range(8, 15), 2)}),
        # What one repair took away stays away in the next.
        ([FIRST, [3, 8, 9, 10, 11, 12, 13, 14], list(range(16, 24))], ["block 1", "block 2"],
         {0: 1, 1: 1, 2: 1, 4: 1, 5: 1, 6: 1, 7: 1}),
    ],
)  # fmt: skip
def test_an_older_version_of_a_row_never_comes_back(
    tmp_path: Path, puts: list[list[int]], damaged: list[str], there: dict[int, int]
) -> None:
    """``damaged``: one after another, each repaired before the next; ``there``: by row the version that is left."""
    fill(tmp_path / "s", puts)
    for part in damaged:
        start, length = parts(tmp_path / "s")[part]
        flip(tmp_path / "s", start + length - 1)
        with FeatureStore.open(tmp_path / "s", "w") as store:
            (done,) = repair(store)
            assert done.parts == (part,)
    with FeatureStore.open(tmp_path / "s") as store:
        left = np.flatnonzero(~store.missing("t", "image", range(40)))
        versions = store.gather("t", "image", left)[:, 1] if len(left) else []
        assert dict(zip(left.tolist(), versions, strict=True)) == there
        assert store.tables()[1].rows == len(there)
        assert store.verify() == []


def test_a_block_without_its_row_list_costs_one_block(tmp_path: Path) -> None:
    fill(tmp_path / "s", [list(range(30))])
    flip(tmp_path / "s", parts(tmp_path / "s")["index 1"][0] + 18)
    with FeatureStore.open(tmp_path / "s", "w") as store, FeatureStore.open(tmp_path / "s") as reader:
        with pytest.raises(StoreError, match="index 1 is damaged"):
            reader.missing("t", "image", [0])
        (done,) = repair(store)
        assert (done.parts, done.rows, done.unknown) == (("index 1",), (), 8)
        assert np.flatnonzero(reader.missing("t", "image", range(30))).tolist() == list(range(8, 16))
        assert store.tables()[1].rows == 22
        assert repair(store) == []


def test_sound_blocks_are_not_written_again_and_readers_follow(tmp_path: Path) -> None:
    fill(tmp_path / "s", [list(range(40))])
    before = parts(tmp_path / "s")
    with FeatureStore.open(tmp_path / "s", "w") as store, FeatureStore.open(tmp_path / "s") as reader:
        reader.gather("t", "image", range(40))
        flip(tmp_path / "s", before["block 2"][0] + 4090)
        (done,) = repair(store)
        assert done.rows == tuple(range(16, 24))
        with pytest.raises(StoreError, match="8 of 40 rows have no features, first of them row 16"):
            reader.gather("t", "image", range(40))
    after = parts(tmp_path / "s")
    assert "block 2" not in after
    assert {p: at for p, at in after.items() if p.startswith("block")} == {
        p: at for p, at in before.items() if p.startswith("block") and p != "block 2"
    }


def test_damaged_pages_are_left_behind_in_a_fresh_file(tmp_path: Path) -> None:
    """The header of a block's first page says how many pages LMDB would free: nothing to be mended in place."""
    held = fill(tmp_path / "s", [list(range(40))])
    flip(tmp_path / "s", parts(tmp_path / "s")["block 3"][0] - 16 + 12)
    with FeatureStore.open(tmp_path / "s", "w") as store, FeatureStore.open(tmp_path / "s") as reader:
        assert {damage.part.split()[0] for damage in store.verify()} == {"block", "page"}
        (done,) = repair(store)
        assert done.rows == tuple(range(24, 32))
        assert store.verify() == []
        store.put("t", "image", done.rows, np.array([held[row] for row in done.rows]))
        for handle in (store, reader):
            np.testing.assert_array_equal(
                handle.gather("t", "image", range(40)), np.array([held[r] for r in range(40)])
            )
        assert store.rows("image", ["i39"]).tolist() == [39]
    assert not (tmp_path / "s" / "compacting").exists()


def test_an_id_that_was_lost_is_given_a_new_row(tmp_path: Path) -> None:
    fill(tmp_path / "s", [list(range(40))])
    flip(tmp_path / "s", parts(tmp_path / "s")["id i17"][0])
    with FeatureStore.open(tmp_path / "s", "w") as store:
        with pytest.raises(StoreError, match=r"ids are damaged \(tower image, ids from row 0\)"):
            store.rows("image", ["i17"])
        assert [(damage.part, damage.rows) for damage in store.verify()] == [("ids 0", (17,))]
        assert repair(store) == []
        assert store.verify() == []
        assert store.rows("image", ["i16", "i17"]).tolist() == [16, -1]
        assert store.add_ids("image", ["i17"]).tolist() == [40]


def test_what_cannot_be_repaired_says_so(tmp_path: Path) -> None:
    fill(tmp_path / "s", [[1, 2]])
    with FeatureStore.open(tmp_path / "s") as store, pytest.raises(StoreError, match="open for reading"):
        repair(store)
    shutil.copytree(tmp_path / "s", tmp_path / "u")
    data = (tmp_path / "s" / "data.mdb").read_bytes()
    for at in (at for at in range(len(data)) if data.startswith(b'"sealed_bytes": ', at)):
        flip(tmp_path / "s", at + 3)
    with pytest.raises(StoreError, match=r"bookkeeping does not match its digest.*Restore it from a sealed generation"):
        FeatureStore.open(tmp_path / "s", "w")
