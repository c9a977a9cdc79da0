"""Sealed generations: immutable, opened without locks, and known by one checksum."""

from __future__ import annotations

import json
import os
import random
import shutil
from pathlib import Path

import numpy as np
import pytest

from feature_store import FeatureStore, StoreError
from feature_store.keeping import seal


def values(rows: range) -> np.ndarray:
    return np.random.default_rng(3).standard_normal((400, 6)).astype(np.float32)[rows]


def put(path: Path, rows: range, table: str = "t") -> None:
    with FeatureStore.open(path, "w", block_rows=16) as store:
        store.add_ids("image", [f"i{n}" for n in range(max(rows) + 1)])
        store.put(table, "image", rows, values(rows), dtype="float32")
        store.describe(table, teacher="radio")


@pytest.fixture
def sealed(tmp_path: Path) -> Path:
    put(tmp_path / "s", range(100))
    with FeatureStore.open(tmp_path / "s", "w") as store:
        seal(store, tmp_path / "g" / "0001")
    return tmp_path / "g" / "0001"


def writable_copy(sealed: Path, to: Path) -> Path:
    shutil.copytree(sealed, to)
    to.chmod(0o755)
    for path in to.iterdir():
        path.chmod(0o644)
    return to


def test_a_generation_holds_the_store_of_that_moment_and_the_store_goes_on(sealed: Path, tmp_path: Path) -> None:
    put(tmp_path / "s", range(50, 150))
    with FeatureStore.open(sealed) as generation, FeatureStore.open(tmp_path / "s", "w") as store:
        np.testing.assert_array_equal(generation.gather("t", "image", range(100)), values(range(100)))
        assert generation.info().ids["image"] == 100
        second = seal(store, tmp_path / "g" / "0002")
    first = json.loads((sealed / "manifest.json").read_text())
    assert (first["number"], first["parent"]) == (1, None)
    assert (second["number"], second["parent"]) == (2, first["root"])
    (table,) = first["tables"]
    assert (table["rows"], table["dim"], table["dtype"], table["facts"]) == (100, 6, "float32", {"teacher": "radio"})
    assert sum(part.startswith("block") for part in first["parts"]) == 6
    for folder in (sealed, tmp_path / "g" / "0002"):
        with FeatureStore.open(folder) as generation:
            assert (
                generation.verify()
                == generation.verify(json.loads((folder / "manifest.json").read_text())["root"])
                == []
            )


def test_a_generation_needs_no_lock_and_no_right_to_write(sealed: Path) -> None:
    assert sorted(entry.name for entry in sealed.iterdir()) == ["data.mdb", "manifest.json"]
    assert [path.stat().st_mode & 0o222 for path in (sealed, *sealed.iterdir())] == [0, 0, 0]
    before = {path.name: path.stat().st_mtime_ns for path in sealed.iterdir()}
    with FeatureStore.open(sealed) as store, FeatureStore.open(sealed) as other:
        assert store._ready()._lmdb.flags()["lock"] is False
        assert store.gather("t", "image", [7]).shape == (1, 6)
        child = os.fork()
        if not child:
            os._exit(0 if other.gather("t", "image", [8]).shape == (1, 6) else 1)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert sorted(entry.name for entry in sealed.iterdir()) == ["data.mdb", "manifest.json"]
    assert {path.name: path.stat().st_mtime_ns for path in sealed.iterdir()} == before


def test_a_generation_refuses_to_be_written(sealed: Path) -> None:
    with pytest.raises(StoreError, match=r"this generation is sealed and is never written again .*Write to the store"):
        FeatureStore.open(sealed, "w")
    with FeatureStore.open(sealed) as store, pytest.raises(StoreError, match="open for reading"):
        store.put("t", "image", [0], values(range(1)))


def test_a_folder_that_exists_is_never_replaced(sealed: Path, tmp_path: Path) -> None:
    replacing = pytest.raises(StoreError, match="a generation never replaces anything")
    with FeatureStore.open(tmp_path / "s", "w") as store, replacing:
        seal(store, sealed)
    assert sorted(entry.name for entry in sealed.parent.iterdir()) == ["0001"]


def test_a_damaged_store_is_not_sealed(tmp_path: Path) -> None:
    put(tmp_path / "s", range(100))
    data = (tmp_path / "s" / "data.mdb").read_bytes()
    at = data.index(values(range(40, 41)).tobytes())
    with open(tmp_path / "s" / "data.mdb", "r+b") as file:
        file.seek(at)
        file.write(b"\1\2\3")
    refused = pytest.raises(StoreError, match=r"the store is damaged, so it is not sealed: .*block 2.*Run repair\(\)")
    with FeatureStore.open(tmp_path / "s", "w") as store, refused:
        seal(store, tmp_path / "g")
    assert not (tmp_path / "g").exists()
    assert [entry.name for entry in tmp_path.iterdir()] == ["s"]


def test_every_flipped_bit_of_a_generation_is_found(sealed: Path, tmp_path: Path) -> None:
    copy, chance = writable_copy(sealed, tmp_path / "copy"), random.Random(0)
    for name, count in (("data.mdb", 60), ("manifest.json", 60)):
        data = (copy / name).read_bytes()
        for _ in range(count):
            bit = chance.randrange(8 * len(data))
            changed = bytearray(data)
            changed[bit // 8] ^= 1 << bit % 8
            (copy / name).write_bytes(changed)
            try:
                with FeatureStore.open(copy) as store:
                    found = bool(store.verify())
            except StoreError:
                found = True
            # JSON may be written in more than one way: a changed blank says the same
            assert found or json.loads(changed) == json.loads(data), (name, bit)
        (copy / name).write_bytes(data)


def test_missing_added_and_replaced_parts_are_named(sealed: Path, tmp_path: Path) -> None:
    """Each store is sound in itself; only the manifest can tell that it is another one."""
    manifest = (sealed / "manifest.json").read_bytes()
    root = json.loads(manifest)["root"]
    changes = {
        "added": lambda store: store.put("t", "image", range(16), values(range(16))),
        "replaced": lambda store: store.describe("t", teacher="other"),
    }
    for reason, change in changes.items():
        copy = writable_copy(sealed, tmp_path / reason)
        (copy / "manifest.json").unlink()
        with FeatureStore.open(copy, "w") as store:
            change(store)
            assert store.verify() == []
        (copy / "manifest.json").write_bytes(manifest)
        with FeatureStore.open(copy) as store:
            reasons = {damage.part: damage.reason for damage in store.verify(root)}
        assert any(reason in text for text in reasons.values()), reasons
        assert "was replaced" in reasons["meta"]
    short = tmp_path / "short"
    with FeatureStore.open(short, "w", block_rows=16) as store:
        store.add_ids("image", [f"i{n}" for n in range(100)])
        store.put("t", "image", range(60), values(range(60)), dtype="float32")
    (short / "manifest.json").write_bytes(manifest)
    with FeatureStore.open(short) as store:
        reasons = {damage.part: damage.reason for damage in store.verify()}
    assert reasons["block 5"] == "is missing since the generation was sealed"


def test_another_generation_does_not_pass_for_this_one(sealed: Path, tmp_path: Path) -> None:
    with FeatureStore.open(tmp_path / "s", "w") as store:
        other = seal(store, tmp_path / "g" / "0002")
    with FeatureStore.open(sealed) as store:
        (damage,) = store.verify(other["root"])
        assert "is of a generation with root" in damage.reason
        assert (damage.part, store.verify()) == ("manifest", [])
