"""What goes out comes back to the bit; stores of several machines become one, in any order."""

from __future__ import annotations

import itertools
import json
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from feature_store import FeatureStore, StoreError, transfer
from feature_store.precision import DTYPES
from feature_store.transfer import export, import_folder, merge

KINDS = ("safetensors", "parquet")


def feature(table: str, name: str, dim: int = 5) -> np.ndarray:
    """Features that depend on table and id only, as those of a fingerprint do."""
    seed = int.from_bytes(f"{table}/{name}".encode(), "big") % 2**32
    return np.random.default_rng(seed).standard_normal(dim).astype(np.float32)


def content(store: FeatureStore) -> dict[str, Any]:
    """By id, not by row."""
    held: dict[str, Any] = {}
    for info in store.tables():
        rows = store.present(info.table, info.tower)
        names = store.ids(info.tower.partition("@")[0])[rows]
        values = store.gather(info.table, info.tower, rows)
        held[f"{info.table}/{info.tower}/{info.dtype}"] = {
            name: value.tolist() for name, value in zip(names, values, strict=True)
        }
        held[f"{info.table} facts"] = info.facts
    return held


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_what_goes_out_comes_back_to_the_bit(
    tmp_path: Path, kind: transfer.Kind, dtype: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(transfer, "_FILE_BYTES", 7 * 4 * 7)
    values = np.random.default_rng(0).standard_normal((40, 7)).astype(np.float32)
    with FeatureStore.open(tmp_path / "a", "w", block_rows=8) as store:
        store.add_ids("image", [f"ä{n}" for n in range(50)])
        store.add_ids("text", ["only"])
        store.put("f/1", "image", range(5, 45), values, dtype=dtype)
        store.put("f/1", "image@2", range(3), values[:3], dtype=dtype)
        store.put("g", "text", [0], values[:1], dtype="float32")
        store.describe("f/1", teacher="radio", n=3)
        contents = export(store, tmp_path / "out", kind)
        before = content(store)
    assert [len(entry["files"]) for entry in contents["tables"]] == [6, 1, 1]
    with FeatureStore.open(tmp_path / "b", "w") as store:
        store.add_ids("image", ["ä44", "other"])  # other numbers for the same samples
        done = import_folder(store, tmp_path / "out")
        assert (done.added, done.same, done.conflicts, done.facts) == (44, 0, 0, [])
        assert content(store) == before
        again = import_folder(store, tmp_path / "out")
        assert (again.added, again.same, again.conflicts) == (0, 44, 0)
        assert store.verify() == []


def test_other_programs_read_the_files(tmp_path: Path) -> None:
    import pyarrow.parquet as pq
    from safetensors.numpy import load_file

    with FeatureStore.open(tmp_path / "a", "w") as store:
        store.put("t", "image", store.add_ids("image", ["x", "yy"]), np.float16([[1, 2], [3, 4]]))
        for kind in KINDS:
            export(store, tmp_path / kind, kind)
    table = pq.read_table(tmp_path / "parquet" / "0000-image-00000.parquet")
    assert table.to_pydict() == {"id": ["x", "yy"], "feature": [[1, 2], [3, 4]]}
    assert str(table.schema.field("feature").type.value_type) == "halffloat"
    found = load_file(tmp_path / "safetensors" / "0000-image-00000.safetensors")
    assert found["features"].dtype == np.float16
    assert (bytes(found["ids"]), found["offsets"].tolist()) == (b"xyy", [0, 1, 3])


def test_an_export_that_is_not_whole_is_refused(tmp_path: Path) -> None:
    with FeatureStore.open(tmp_path / "a", "w") as store:
        store.put("t", "image", store.add_ids("image", ["x", "y"]), np.ones((2, 3)))
        with pytest.raises(StoreError, match="there is no export as 'csv'"):
            export(store, tmp_path / "out", "csv")  # type: ignore[arg-type]
        for kind in KINDS:
            out = tmp_path / kind
            contents = export(store, out, kind)
            with pytest.raises(StoreError, match="the folder of an export must be empty"):
                export(store, out, kind)
            with FeatureStore.open(tmp_path / f"b{kind}", "w") as target:
                file = out / contents["tables"][0]["files"][0]
                data = file.read_bytes()
                file.write_bytes(data[:-9])
                with pytest.raises(StoreError, match=r"a file of the export cannot be read.*Export again"):
                    import_folder(target, out)
                file.write_bytes(data)
                contents["tables"][0]["rows"] = 3
                (out / "export.json").write_text(json.dumps(contents))
                with pytest.raises(StoreError, match="should have 3 rows of table t, tower image; it has 2"):
                    import_folder(target, out)
                (out / "export.json").write_text(json.dumps(contents | {"version": 9}))
                with pytest.raises(StoreError, match="the export is of version 9"):
                    import_folder(target, out)
                (out / "export.json").unlink()
                with pytest.raises(StoreError, match="this is no complete export"):
                    import_folder(target, out)


NAMES = st.lists(st.sampled_from("abcdefghij"), unique=True, min_size=1, max_size=10)
PIECE = st.dictionaries(st.sampled_from(["t", "u"]), NAMES, max_size=2)


def make(path: Path, piece: dict[str, list[str]]) -> FeatureStore:
    store = FeatureStore.open(path, "w", block_rows=4)
    for table, names in piece.items():
        rows = store.add_ids("image", names)
        store.put(
            table,
            "image",
            rows,
            np.array([feature(table, name) for name in names]),
            dtype=["float16", "int8"][table == "u"],
        )
        store.describe(table, teacher=table)
    return store


@given(pieces=st.lists(PIECE, min_size=3, max_size=3))
@settings(max_examples=12, deadline=None)
def test_merging_is_associative_and_commutative(pieces: list[dict[str, list[str]]]) -> None:
    with tempfile.TemporaryDirectory() as root:

        def merged(name: str, sources: Iterable[FeatureStore]) -> FeatureStore:
            store = FeatureStore.open(Path(root) / name, "w", block_rows=8)
            for source in sources:
                done = merge(store, source)
                assert (done.conflicts, done.facts) == (0, [])
            return store

        parts = [make(Path(root) / f"p{n}", piece) for n, piece in enumerate(pieces)]
        opened = [merged(f"m{n}", order) for n, order in enumerate(itertools.permutations(parts))]
        pair = merged("pair", parts[1:])
        opened += [merged("right", [parts[0], pair]), merged("twice", [*parts, *parts]), pair]
        results = [content(store) for store in opened[:-1]]
        assert all(result == results[0] for result in results)
        expected = {table: {name for piece in pieces for name in piece.get(table, [])} for table in "tu"}
        for table, dtype in (("t", "float16"), ("u", "int8")):
            assert set(results[0].get(f"{table}/image/{dtype}", {})) == expected[table]
        assert all(store.verify() == [] for store in opened)
        for store in (*parts, *opened):
            store.close()


def test_a_conflict_is_reported_and_what_was_there_stays(tmp_path: Path) -> None:
    a = make(tmp_path / "a", {"t": ["x", "y"]})
    b = make(tmp_path / "b", {"t": ["z", "y", "x"]})
    b.put("t", "image", b.rows("image", ["y"]), np.ones((1, 5)))
    b.describe("t", teacher="other", more=1)
    before = content(a)["t/image/float16"]
    done = merge(a, b)
    assert (done.added, done.same, done.conflicts) == (1, 1, 1)
    assert (done.examples, done.facts) == ([("t", "image", "y")], [("t", "teacher")])
    after = content(a)
    assert {name: after["t/image/float16"][name] for name in "xy"} == before
    assert after["t facts"] == {"teacher": "t", "more": 1}
    a.close()
    b.close()


@pytest.mark.parametrize(
    ("ours", "theirs"), [pair for other in DTYPES for pair in (("float32", other), (other, "float32"))]
)
def test_precisions_are_compared_in_the_coarser_one(tmp_path: Path, ours: str, theirs: str) -> None:
    values = np.random.default_rng(0).standard_normal((6, 8)).astype(np.float32)
    with FeatureStore.open(tmp_path / "a", "w") as a, FeatureStore.open(tmp_path / "b", "w") as b:
        for store, dtype in ((a, ours), (b, theirs)):
            store.put("t", "image", store.add_ids("image", list("abcdef")), values, dtype=dtype)
        assert merge(a, b).conflicts == 0
        assert {info.dtype for info in a.tables()} == {ours}


def test_other_dimensions_change_nothing(tmp_path: Path) -> None:
    with FeatureStore.open(tmp_path / "a", "w") as a, FeatureStore.open(tmp_path / "b", "w") as b:
        a.put("t", "image", a.add_ids("image", ["x"]), np.ones((1, 3)))
        b.put("s", "image", b.add_ids("image", ["y"]), np.ones((1, 3)))
        b.put("t", "image", [0], np.ones((1, 4)))
        before = content(a)
        with pytest.raises(StoreError, match="with 4 dimensions do not fit a table with 3; nothing was changed"):
            merge(a, b)
        assert content(a) == before
