"""Ids and their rows, however they came: one by one or many, twice, in another order, after damage."""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from feature_store import FeatureStore, StoreError, ids
from feature_store.pages import Snapshot


def sizes(path: Path) -> list[int]:
    """Numbers of ids in the parts of the image tower."""
    snapshot = Snapshot(path / "data.mdb")
    entries = snapshot.entries(snapshot.trees()["ids"], "ids")
    return [len(ids.decode_part(raw).ends) for key, raw in entries if key[0] == 0]


@given(
    batches=st.lists(st.lists(st.integers(0, 60), max_size=40), max_size=12),
    asked=st.lists(st.integers(-5, 70), max_size=80),
    many=st.sampled_from([1, 8, 1024]),
    part_rows=st.sampled_from([3, 16, 4096]),
)
@settings(max_examples=60, deadline=None)
def test_rows_are_those_of_a_dictionary(batches: list[list[int]], asked: list[int], many: int, part_rows: int) -> None:
    with tempfile.TemporaryDirectory() as root, pytest.MonkeyPatch.context() as patch:
        patch.setattr(ids, "_MANY", many)  # the way for ids in the order of their rows, and the other
        patch.setattr(ids, "PART_ROWS", part_rows)
        known: dict[str, int] = {}
        with FeatureStore.open(root + "/s", "w") as store, FeatureStore.open(root + "/s") as reader:
            for batch in batches:
                names = [f"é{n}" for n in batch]
                expected = [known.setdefault(name, len(known)) for name in names]
                assert store.add_ids("image", names).tolist() == expected
                assert store.add_ids("text", names[:3]).tolist() == store.rows("text", names[:3]).tolist()
                assert store.ids("image").tolist() == list(known)
            wanted = [*(f"é{n}" for n in asked), *known, *reversed(known)]
            for handle in (store, reader):
                assert handle.rows("image", wanted).tolist() == [known.get(name, -1) for name in wanted]
            with FeatureStore.open(root + "/s") as fresh:
                assert fresh.rows("image", wanted).tolist() == [known.get(name, -1) for name in wanted]
            assert store.verify() == []


def test_ids_that_come_one_by_one_lie_together(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ids, "PART_ROWS", 16)
    with FeatureStore.open(tmp_path / "s", "w") as store:
        for n in range(100):
            assert store.add_ids("image", [f"i{n}"]).tolist() == [n]
            found = sizes(tmp_path / "s")
            assert sum(found) == n + 1
            assert max(found) <= 16
            assert len(found) <= (n + 1) // 16 + 5  # whole parts, and powers of two
        store.add_ids("image", [f"i{n}" for n in range(200)])
        assert sizes(tmp_path / "s")[-7:] == [16] * 6 + [8]


def test_ids_whose_hashes_begin_alike_are_told_apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Made up: nobody knows such a pair."""
    real = ids.hashed

    def colliding(names: list[bytes]) -> np.ndarray:
        found = real(names).copy()
        found[:, 0] = 7
        return found

    monkeypatch.setattr(ids, "hashed", colliding)
    monkeypatch.setattr("feature_store.store.hashed", colliding)
    with FeatureStore.open(tmp_path / "s", "w") as store:
        store.add_ids("image", ["a", "b", "c"])
        assert store.add_ids("image", ["c", "d", "a"]).tolist() == [2, 3, 0]
        assert store.rows("image", ["d", "x", "b"]).tolist() == [3, -1, 1]


def test_an_id_of_the_wrong_length_or_form_is_refused_and_none_is_added(tmp_path: Path) -> None:
    with FeatureStore.open(tmp_path / "s", "w") as store:
        for wrong in ("", "x" * 201, "é" * 101, "\ud800"):
            for call in (store.add_ids, store.rows):
                with pytest.raises(StoreError, match=r"an id must have 1 to 200 bytes of utf-8 \(tower text, id '"):
                    call("text", ["fine", wrong])
        assert store.rows("text", ["fine"]).tolist() == [-1]
        assert store.info().ids == {"image": 0, "text": 0}
        assert store.add_ids("text", ["x" * 200, "a\0b"]).tolist() == [0, 1]
        assert store.ids("text").tolist() == ["x" * 200, "a\0b"]


@given(count=st.integers(1, 40), data=st.data())
@settings(max_examples=60, deadline=None)
def test_a_flipped_bit_in_a_part_is_noticed_and_costs_two_ids_at_most(count: int, data: st.DataObject) -> None:
    names = [f"{n:x}".encode() * (n % 5 + 1) for n in range(count)]
    ((key, value),) = ids.encode_parts("text", 4096, names, ids.hashed(names))
    assert ids.split_key(key) == ("text", 4096)
    assert ids.intact(key, memoryview(value))
    part = ids.decode_part(memoryview(value))
    assert part.names == names
    bit = data.draw(st.integers(0, 8 * len(value) - 1))
    flipped = bytearray(value)
    flipped[bit // 8] ^= 1 << bit % 8
    assert not ids.intact(key, memoryview(flipped))
    sound = ids.sound(memoryview(flipped))
    if not 16 <= bit // 8 < 24:  # else the number of ids is what was hit
        assert len(sound) == count
        assert count - sound.sum() <= 2
        held = ids.decode_part(memoryview(flipped)).names
        assert [name for name, fine in zip(held, sound, strict=True) if fine] == [
            name for name, fine in zip(names, sound, strict=True) if fine
        ]
