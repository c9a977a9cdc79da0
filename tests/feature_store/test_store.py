"""The store's public behaviour: numbering, putting, gathering, and the sentence for each kind of bad input."""

from __future__ import annotations

import json
import pickle
from pathlib import Path

import lmdb
import numpy as np
import pytest

from feature_store import FeatureStore, StoreError, columns
from feature_store.precision import DTYPES, decode, encode
from mmkd_core.errors import MmkdError


def features(rows: np.ndarray | range, dim: int = 5, version: int = 0) -> np.ndarray:
    """Distinct values for each row that float16 holds exactly."""
    return (np.asarray(rows)[:, None] + np.arange(dim) / 4 + 100 * version).astype(np.float32)


@pytest.fixture
def store(tmp_path: Path) -> FeatureStore:
    with FeatureStore.open(tmp_path / "store", "w", block_rows=8) as opened:
        opened.add_ids("image", [f"i{n}" for n in range(40)])
        yield opened


def test_ids_are_numbered_in_order_and_keep_their_row(tmp_path: Path) -> None:
    with FeatureStore.open(tmp_path / "s", "w") as store:
        assert store.add_ids("image", ["b", "a", "b"]).tolist() == [0, 1, 0]
        assert store.add_ids("text", ["a"]).tolist() == [0]
    with FeatureStore.open(tmp_path / "s", "w") as store:
        assert store.add_ids("image", ["c", "a"]).tolist() == [2, 1]
        found = store.rows("image", ["a", "x", "c"])
        assert found.tolist() == [1, -1, 2]
        assert found.dtype == np.int64
        assert store.add_ids("image", []).tolist() == []
        assert store.info().ids == {"image": 3, "text": 1}


def test_what_changes_nothing_writes_nothing(store: FeatureStore) -> None:
    store.put("t", "image", range(10), features(range(10)))
    store.describe("t", teacher="radio")
    before = (store.path / "data.mdb").read_bytes()
    store.add_ids("image", ["i3", "i1"])
    assert (store.path / "data.mdb").read_bytes() == before


@pytest.mark.parametrize("dim", [1, 3, 5, 64, 640])
@pytest.mark.parametrize("dtype", DTYPES)
def test_rows_come_back_in_any_order_from_blocks_and_tail(tmp_path: Path, dim: int, dtype: str) -> None:
    values = np.random.default_rng(dim).standard_normal((70, dim)).astype(np.float32)
    order = np.random.default_rng(1).permutation(70)
    with FeatureStore.open(tmp_path / "s", "w", block_rows=16) as store:
        store.add_ids("text", [str(n) for n in range(70)])
        for first in range(0, 70, 9):
            part = order[first : first + 9]
            store.put("t", "text", part, values[part], dtype=dtype)
        wanted = np.random.default_rng(2).integers(0, 70, 200)
        got = store.gather("t", "text", wanted)
        np.testing.assert_array_equal(got, decode(encode(values, dtype), dtype, dim)[wanted])
        assert got.flags.c_contiguous
        assert got.flags.owndata
        assert got.flags.writeable
        assert store.gather("t", "text", []).shape == (0, dim)
        assert store.verify() == []


def test_a_gather_reads_no_whole_block(store: FeatureStore, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError("a block was read through LMDB's get")

    store.put("t", "image", range(40), features(range(40)))
    monkeypatch.setattr(columns.Columns, "_read_block", refuse)
    np.testing.assert_array_equal(store.gather("t", "image", [39, 0, 17]), features(np.array([39, 0, 17])))


@pytest.mark.parametrize("wrong_place", [-1, 0, 4096 * 1000, "another"])
def test_blocks_are_found_without_knowledge_of_pages(
    store: FeatureStore, monkeypatch: pytest.MonkeyPatch, wrong_place: int | str
) -> None:
    store.put("t", "image", range(37), features(range(37)))
    real = columns.find_blocks

    def lie(txn: object, database: object, table_id: int, numbers: list[int]) -> dict[int, int]:
        found = real(txn, database, table_id, [0, 1, 2, 3])
        return {n: found[n ^ 1] if wrong_place == "another" else int(wrong_place) for n in numbers}

    monkeypatch.setattr(columns, "find_blocks", lie)
    order = np.random.default_rng(0).permutation(37)
    np.testing.assert_array_equal(store.gather("t", "image", order), features(order))


def test_what_was_gathered_does_not_change_afterwards(store: FeatureStore) -> None:
    store.put("t", "image", range(10), features(range(10)))
    before = store.gather("t", "image", range(10))
    store.put("t", "image", range(20), features(range(20), version=1))
    np.testing.assert_array_equal(before, features(range(10)))
    np.testing.assert_array_equal(store.gather("t", "image", range(20)), features(range(20), version=1))


def test_an_open_reader_sees_what_is_put(store: FeatureStore) -> None:
    with FeatureStore.open(store.path) as reader:
        assert reader.missing("t", "image", [0, 1, 99, -1]).tolist() == [True] * 4
        store.put("t", "image", [1], features(range(1, 2)))
        assert reader.missing("t", "image", [0, 1, 99, -1]).tolist() == [True, False, True, True]
        store.put("t", "image", range(2, 30), features(range(2, 30)))
        np.testing.assert_array_equal(reader.gather("t", "image", [29, 1]), features(np.array([29, 1])))


def test_of_a_row_that_comes_twice_in_one_put_the_last_counts(store: FeatureStore) -> None:
    store.put("t", "image", [3, 4, 3], features(np.array([1, 2, 5])))
    np.testing.assert_array_equal(store.gather("t", "image", [3, 4]), features(np.array([5, 2])))
    assert store.info().rows == 2


def test_rows_replaced_before_their_block_is_full_take_no_room(store: FeatureStore) -> None:
    store.put("t", "image", range(6), features(range(6)))
    store.put("t", "image", range(6), features(range(6), version=1))
    assert store.info().bytes == 6 * (10 + 4)
    np.testing.assert_array_equal(store.gather("t", "image", range(6)), features(range(6), version=1))


def test_info_counts_bytes_and_describe_keeps_facts(store: FeatureStore) -> None:
    store.describe("t", teacher="radio", n=3)
    store.describe("t", n=4)
    store.put("t", "image", range(19), features(range(19)), dtype="float32")
    info = store.info()
    (table,) = info.tables
    # Two blocks of 4080 + 8 x 20 bytes, two row lists of a 16-byte digest and one run, three rows with their numbers.
    assert table.bytes == 2 * (4080 + 8 * 20) + 2 * (16 + 8) + 3 * (20 + 4)
    assert (table.table, table.tower, table.dim, table.dtype, table.rows) == ("t", "image", 5, "float32", 19)
    assert (info.version, info.rows, info.bytes, info.bytes_raw) == (3, 19, table.bytes, 19 * 5 * 4)
    assert table.facts == {"teacher": "radio", "n": 4}
    assert info.file_bytes == (store.path / "data.mdb").stat().st_size
    assert store.tables() == [table]


def test_the_rounding_loss_is_measured(tmp_path: Path) -> None:
    values = np.random.default_rng(0).standard_normal((50, 7)).astype(np.float32)
    values[3] = 1e-9  # underflows to zeros
    values[4] = 0.0
    with FeatureStore.open(tmp_path / "s", "w") as store:
        store.add_ids("image", [str(n) for n in range(50)])
        store.put("half", "image", range(50), values)
        store.put("full", "image", range(50), values, dtype="float32")
        full, half = store.tables()
    a, b = values.astype(np.float64), values.astype(np.float16).astype(np.float64)
    keep = np.setdiff1d(np.arange(50), [3, 4])
    loss = [1 - a[i] @ b[i] / np.sqrt((a[i] @ a[i]) * (b[i] @ b[i])) for i in keep]
    assert half.cosine_loss_mean == pytest.approx((sum(loss) + 1.0) / 50, abs=1e-13)
    assert half.cosine_loss_worst == 1.0
    assert (full.cosine_loss_mean, full.cosine_loss_worst) == (0.0, 0.0)


def test_errors_read_like_those_of_the_product() -> None:
    parts = {"where": "row 3", "next": "Try again"}
    assert str(StoreError("it broke", **parts)) == str(MmkdError("it broke", **parts)) == "it broke (row 3). Try again"
    assert str(StoreError("it broke")) == str(MmkdError("it broke")) == "it broke."
    copy = pickle.loads(pickle.dumps(StoreError("it broke", **parts)))
    assert (copy.what, copy.where, copy.next) == ("it broke", "row 3", "Try again")


@pytest.mark.parametrize(
    ("value", "dtype", "sentence"),
    [
        (np.nan, None, r"a feature is not finite \(table t, tower image, row 6\)\. Nothing of this batch was stored"),
        (-np.inf, "float32", r"a feature is not finite \(table t, tower image, row 6\)"),
        (7e4, None, r'a feature does not fit into float16 \(table t, tower image, row 6\)\. .*dtype="float32"'),
    ],
)
def test_features_that_are_not_finite_are_refused(
    store: FeatureStore, value: float, dtype: str | None, sentence: str
) -> None:
    batch = features(range(4))
    batch[1, 2] = batch[3, 0] = value
    with pytest.raises(StoreError, match=sentence):
        store.put("t", "image", [5, 6, 7, 8], batch, dtype=dtype)
    assert store.missing("t", "image", range(40)).all()
    assert store.info().rows == 0


@pytest.mark.parametrize(
    ("arguments", "options", "sentence"),
    [
        (("t", "image", [0], np.ones((1, 6))), {}, "features have 6 dimensions, the table has 5"),
        (("t", "image", [0], np.ones((1, 5))), {"dtype": "float32"}, "the table is stored as float16, not as float32"),
        (("t", "image", [0], np.ones((1, 5))), {"dtype": "int4"}, "features cannot be stored as 'int4'"),
        (("t", "image", [0, 1], np.ones((1, 5))), {}, "2 rows came with 1 features"),
        (("t", "image", [0], np.ones((1, 5), int)), {}, "features must be floats of shape"),
        (("t", "image", [0], np.ones(5)), {}, "features must be floats of shape"),
        (("t", "image", [0.5], np.ones((1, 5))), {}, "rows must be a list of whole numbers"),
        (("t", "image", [40], np.ones((1, 5))), {}, "row 40 has no id: the tower has rows 0 to 39"),
        (("t", "image", [-1], np.ones((1, 5))), {}, "row -1 has no id"),
        (("t", "text", [0], np.ones((1, 5))), {}, "the tower has no ids yet"),
        (("t", "audio", [0], np.ones((1, 5))), {}, "there is no tower 'audio'"),
        (("", "image", [0], np.ones((1, 5))), {}, "a table's name must have 1 to 200 bytes"),
        (("\ud800", "image", [0], np.ones((1, 5))), {}, "a table's name must have 1 to 200 bytes"),
    ],
)
def test_a_put_that_does_not_fit_is_refused(
    store: FeatureStore, arguments: tuple[object, ...], options: dict[str, str], sentence: str
) -> None:
    store.put("t", "image", range(3), features(range(3)))
    before = store.info()
    with pytest.raises(StoreError, match=sentence):
        store.put(*arguments, **options)
    assert store.info() == before


@pytest.mark.parametrize("name", ["", "x" * 201, "\ud800"])
def test_an_id_that_cannot_be_a_key_is_refused(store: FeatureStore, name: str) -> None:
    with pytest.raises(StoreError, match=r"an id must have 1 to 200 bytes of utf-8 \(tower image, id "):
        store.add_ids("image", ["new", name])
    assert store.rows("image", ["new"]).tolist() == [-1]


def test_rows_without_features_are_named(store: FeatureStore) -> None:
    store.put("t", "image", range(10), features(range(10)))
    sentence = r"2 of 3 rows have no features, first of them row 12 \(table t, tower image\)\. Extract them first"
    with pytest.raises(StoreError, match=sentence):
        store.gather("t", "image", [3, 12, -1])
    with pytest.raises(StoreError, match=r"there are no features \(table u, tower image\)"):
        store.gather("u", "image", [0])


def test_a_reader_and_a_closed_handle_refuse_to_work(store: FeatureStore) -> None:
    with FeatureStore.open(store.path) as reader:
        with pytest.raises(StoreError, match=r'open for reading \(.*\)\. Open it with mode "w" to write'):
            reader.put("t", "image", [0], np.ones((1, 5), np.float32))
        with pytest.raises(StoreError, match="open for reading"):
            reader.add_ids("image", ["z"])
        with pytest.raises(StoreError, match="open for reading"):
            reader.describe("t", n=1)
    with pytest.raises(StoreError, match=r"the store is closed"):
        reader.tables()
    reader.close()
    assert store.tables() == []  # closing one handle leaves the other one open


def test_a_fact_that_is_no_json_is_refused(store: FeatureStore) -> None:
    for value in (float("nan"), {1, 2}):
        with pytest.raises(StoreError, match=r"a fact cannot be written as JSON.*\(table t\)"):
            store.describe("t", value=value)


def test_what_is_no_store_is_refused(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match=r'there is no feature store \(.*absent\)\. Open it with mode "w"'):
        FeatureStore.open(tmp_path / "absent")
    full, file, foreign, junk = (tmp_path / name for name in ("full", "file", "foreign", "junk"))
    full.mkdir()
    (full / "notes.txt").write_text("mine")
    file.write_text("mine")
    with lmdb.open(str(foreign)) as other, other.begin(write=True) as txn:
        txn.put(b"theirs", b"data")
    junk.mkdir()
    (junk / "data.mdb").write_bytes(b"junk" * 5000)
    for path in (full, file, foreign, junk):
        for mode in ("r", "w"):
            with pytest.raises(StoreError, match=r"this is not a feature store.*Name the folder of a store"):
                FeatureStore.open(path, mode)
    assert sorted(entry.name for entry in full.iterdir()) == ["notes.txt"]
    with pytest.raises(StoreError, match="there is no mode 'a'"):
        FeatureStore.open(tmp_path / "new", "a")


@pytest.mark.parametrize(("number", "age", "following"), [(4, "newer", "Update"), (2, "older", "Extract the features")])
def test_a_store_of_another_format_is_refused(store: FeatureStore, number: int, age: str, following: str) -> None:
    store.close()
    with lmdb.open(str(store.path), max_dbs=8) as raw:
        meta = raw.open_db(b"meta")
        with raw.begin(write=True, db=meta) as txn:
            txn.put(b"store", json.dumps(json.loads(txn.get(b"store")) | {"format": number}).encode())
    for mode in ("r", "w"):
        with pytest.raises(StoreError, match=rf"has format {number}, {age} than format 3 .*\)\. {following}"):
            FeatureStore.open(store.path, mode)


def test_an_existing_store_keeps_its_block_size(store: FeatureStore) -> None:
    store.close()
    with FeatureStore.open(store.path, "w", block_rows=4096) as again:
        again.put("t", "image", range(9), features(range(9)))
        assert again.info().bytes == (4080 + 8 * 10) + (16 + 8) + (10 + 4)


def test_tensors_can_be_put(store: FeatureStore) -> None:
    torch = pytest.importorskip("torch")
    store.put("from-torch", "image", [1], torch.ones(1, 4))
    assert store.gather("from-torch", "image", [1]).tolist() == [[1.0] * 4]
