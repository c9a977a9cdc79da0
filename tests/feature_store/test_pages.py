"""LMDB's file read without LMDB: it sees what LMDB sees, and no flipped bit or cut goes by."""

from __future__ import annotations

import random
import shutil
from pathlib import Path
from typing import Any

import lmdb
import numpy as np
import pytest

from feature_store import FeatureStore, StoreError, opening
from feature_store.pages import Snapshot, read_metas
from feature_store.verification import verify_file


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two tables with blocks, tails, replaced rows and free pages; bookkeeping in a tree of two levels."""
    rng, path = np.random.default_rng(0), tmp_path_factory.mktemp("pages") / "s"
    with FeatureStore.open(path, "w", block_rows=16) as store:
        images = store.add_ids("image", [f"{n:x}" + "x" * (n % 150) for n in rng.permutation(1500)])
        texts = store.add_ids("text", [f"t{n}" for n in range(40)])
        for _ in range(12):
            rows = np.sort(rng.choice(images, 21, replace=False))
            store.put("t", "image", rows, rng.standard_normal((21, 6)))
            store.put("u/v", "text", rng.choice(texts, 5), rng.standard_normal((5, 3)), dtype="float32")
        for n in range(60):
            store.describe(f"described {n}" + "x" * 150, teacher="radio")
        assert store.verify() == []
    return path


def dump(path: Path) -> dict[str, Any]:
    """Everything that can be asked of a store."""
    with FeatureStore.open(path) as store:
        held: dict[str, Any] = {"tables": store.tables(), "ids": store.info().ids}
        for tower, count in held["ids"].items():
            names = (
                [f"{n:x}" + "x" * (n % 150) for n in range(1500)] if tower == "image" else [f"t{n}" for n in range(40)]
            )
            held[tower] = store.rows(tower, names).tolist()
            for table in ("t", "u/v"):
                missing = store.missing(table, tower, range(count))
                held[table, tower] = missing.tolist()
                if not missing.all():
                    held[table, tower, 0] = store.gather(table, tower, np.flatnonzero(~missing)).tolist()
    return held


def test_it_sees_what_lmdb_sees(whole: Path) -> None:
    snapshot = Snapshot(whole / "data.mdb")
    trees = snapshot.trees()
    with lmdb.open(str(whole), readonly=True, lock=False, max_dbs=8) as environment:
        for name in ("meta", "ids", "blocks", "index", "tail"):
            database = environment.open_db(name.encode(), create=False)
            with environment.begin(db=database) as txn:
                expected = [(bytes(key), bytes(value)) for key, value in txn.cursor()]
            assert [(key, bytes(value)) for key, value in snapshot.entries(trees[name], name)] == expected
            assert trees[name].entries == len(expected) > 0
    assert trees["meta"].depth >= 2
    snapshot.unaccounted()
    assert snapshot.flaws == []


def flips(whole: Path, folder: Path, count: int, seed: int) -> tuple[int, int, int]:
    """Flip ``count`` random bits, one at a time: how many were found, refused at opening, and harmless."""
    clean, chance = dump(whole), random.Random(seed)
    data = (whole / "data.mdb").read_bytes()
    shutil.copytree(whole, folder)
    found = refused = harmless = 0
    for turn in range(count):
        # Half of them in the pages of trees, which are few beside those of blocks.
        bit = chance.randrange(8 * len(data)) if turn % 2 else 8 * chance.choice(tree_bytes(data)) + chance.randrange(8)
        changed = bytearray(data)
        changed[bit // 8] ^= 1 << bit % 8
        (folder / "data.mdb").write_bytes(changed)
        try:
            with FeatureStore.open(folder) as store:
                damages = store.verify()
        except StoreError:
            refused += 1
            continue
        if damages:
            found += 1
        else:
            assert dump(folder) == clean, f"bit {bit} was not found and does harm"
            harmless += 1
    return found, refused, harmless


def tree_bytes(data: bytes) -> list[int]:
    """Offsets in meta, branch and leaf pages."""
    pages = [start for start in range(0, len(data), 4096) if data[start + 10] in (1, 2, 8)]
    return [start + offset for start in pages for offset in range(4096)]


def test_any_flipped_bit_is_found_or_harmless(whole: Path, tmp_path: Path) -> None:
    found, refused, harmless = flips(whole, tmp_path / "s", 120, seed=0)
    assert found > 20
    assert found + refused + harmless == 120


@pytest.mark.slow
def test_any_of_many_flipped_bits_is_found_or_harmless(whole: Path, tmp_path: Path) -> None:
    found, refused, harmless = flips(whole, tmp_path / "s", 4000, seed=1)
    assert found > 1000
    assert refused > 10
    assert found + refused + harmless == 4000


def test_every_bit_of_the_newest_meta_page_that_lmdb_reads_is_found(whole: Path, tmp_path: Path) -> None:
    data = (whole / "data.mdb").read_bytes()
    metas, _ = read_metas(data)
    newest = max(metas, key=lambda meta: meta.txn)
    start = 4096 * (newest.txn & 1) + 16
    shutil.copytree(whole, tmp_path / "s")
    for byte in [*range(16), *range(24, 136)]:  # all but the size of the map, which we choose when we open
        for bit in {byte % 8, (byte * 5 + 3) % 8}:
            changed = bytearray(data)
            changed[start + byte] ^= 1 << bit
            (tmp_path / "s" / "data.mdb").write_bytes(changed)
            snapshot = Snapshot(tmp_path / "s" / "data.mdb")
            for name, tree in snapshot.trees().items():
                list(snapshot.entries(tree, name))
            snapshot.unaccounted()
            padding = byte in range(72, 76)  # the page size is noted with the first tree; the second has none
            assert snapshot.flaws or padding, (byte, bit)


def test_a_page_that_belongs_to_nobody_is_a_damage(whole: Path, tmp_path: Path) -> None:
    """One page more than the trees use, and one of the free pages less than the list of them should name."""
    data = bytearray((whole / "data.mdb").read_bytes())
    newest = max(read_metas(data)[0], key=lambda meta: meta.txn)
    last = 4096 * (newest.txn & 1) + 16 + 24 + 2 * 48  # where the meta page notes the number of the last page
    assert int.from_bytes(data[last : last + 8], "little") == newest.last_page
    data[last : last + 8] = (newest.last_page + 1).to_bytes(8, "little")
    (tmp_path / "data.mdb").write_bytes(bytes(data[: 4096 * (newest.last_page + 1)]) + bytes(4096))
    found = verify_file(tmp_path / "data.mdb").damages
    assert [(damage.part, damage.reason) for damage in found] == [
        (f"page {newest.last_page + 1}", "is neither used nor free")
    ]


def test_two_equal_keys_are_a_damage(tmp_path: Path) -> None:
    with lmdb.open(str(tmp_path), max_dbs=1) as environment:
        database = environment.open_db(b"names")
        with environment.begin(write=True, db=database) as txn:
            for key in (b"first-key", b"other-key"):
                txn.put(key, b"value")
    data = (tmp_path / "data.mdb").read_bytes()
    for second, flaws in ((b"other-key", 0), (b"first-key", 1), (b"cider-key", 1)):
        (tmp_path / "data.mdb").write_bytes(data.replace(b"other-key", second))
        snapshot = Snapshot(tmp_path / "data.mdb")
        keys = [key for key, _ in snapshot.entries(snapshot.trees()["names"], "names")]
        assert keys == [b"first-key", second]
        assert [flaw.reason for flaw in snapshot.flaws] == ["of names has keys out of order"] * flaws


def test_a_file_that_is_cut_off_says_so_wherever(whole: Path, tmp_path: Path) -> None:
    data = (whole / "data.mdb").read_bytes()
    shutil.copytree(whole, tmp_path / "s")
    for size in [1, 100, 4095, 4096, 5000, 8192, 8193, len(data) // 2, len(data) - 4096, len(data) - 1]:
        (tmp_path / "s" / "data.mdb").write_bytes(data[:size])
        for mode in ("r", "w"):
            with pytest.raises(StoreError, match=r"the data file is (cut off|damaged).*Restore it"):
                FeatureStore.open(tmp_path / "s", mode)


def test_a_file_that_is_cut_off_while_it_is_open_says_so(whole: Path, tmp_path: Path) -> None:
    shutil.copytree(whole, tmp_path / "s")
    size = (whole / "data.mdb").stat().st_size
    with FeatureStore.open(tmp_path / "s") as store:
        store.missing("t", "image", [0])
        with open(tmp_path / "s" / "data.mdb", "r+b") as file:
            file.truncate(size // 2)
        with pytest.raises(StoreError, match="the data file is cut off"):
            store.missing("t", "image", [0])


def test_a_writer_that_goes_on_disturbs_no_check(whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The check at opening reads pages without a lock: it looks again where a commit came in between."""
    shutil.copytree(whole, tmp_path / "s")
    commits = iter([1, 2, 2, 2])
    monkeypatch.setattr(opening, "newest_commit", lambda path: next(commits))
    shots = iter([Snapshot(tmp_path / "s" / "data.mdb", txn=10**9), Snapshot(tmp_path / "s" / "data.mdb")])
    monkeypatch.setattr(opening, "Snapshot", lambda path: next(shots))
    opening.check_file(tmp_path / "s")
    assert next(shots, None) is None
