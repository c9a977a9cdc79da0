"""Any sequence of calls leaves the store equal to a dictionary; the codecs return what they were given."""

from __future__ import annotations

import shutil
import tempfile
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from feature_store import FeatureStore
from feature_store.layout import TableState, decode_index, decode_tail, encode_index, encode_tail

TOWERS = st.sampled_from(["image", "text"])
TABLES = {"a": (3, "float32"), "b/": (4, "float16")}


class StoreMachine(RuleBasedStateMachine):
    """The store beside ``{tower: {id: row}}`` and ``{(table, tower): {row: value}}``."""

    def __init__(self) -> None:
        super().__init__()
        self.root = Path(tempfile.mkdtemp())
        self.store = FeatureStore.open(self.root / "s", "w", block_rows=8)
        self.reader = FeatureStore.open(self.root / "s")
        self.ids: dict[str, dict[str, int]] = {"image": {}, "text": {}}
        self.values: dict[tuple[str, str], dict[int, float]] = {}
        self.clock = 0

    @rule(tower=TOWERS, names=st.lists(st.text("abcde", min_size=1, max_size=2), max_size=30))
    def add_ids(self, tower: str, names: list[str]) -> None:
        known = self.ids[tower]
        expected = [known.setdefault(name, len(known)) for name in names]
        assert self.store.add_ids(tower, names).tolist() == expected
        assert self.reader.rows(tower, names).tolist() == expected

    @rule(table=st.sampled_from(sorted(TABLES)), tower=TOWERS, data=st.data())
    def put(self, table: str, tower: str, data: st.DataObject) -> None:
        if not self.ids[tower]:
            return
        rows = data.draw(st.lists(st.integers(0, len(self.ids[tower]) - 1), max_size=30))
        self.clock += 1
        values = [(self.clock * 31 + position) % 2048 for position in range(len(rows))]
        dim, dtype = TABLES[table]
        self.store.put(table, tower, rows, np.repeat(np.float32(values)[:, None], dim, axis=1), dtype=dtype)
        if rows:
            self.values.setdefault((table, tower), {}).update(zip(rows, map(float, values), strict=True))

    @rule(writer=st.booleans())
    def reopen(self, writer: bool) -> None:
        if writer:
            self.store.close()
            self.store = FeatureStore.open(self.root / "s", "w")
        else:
            self.reader.close()
            self.reader = FeatureStore.open(self.root / "s")

    @rule(tower=TOWERS, table=st.sampled_from(sorted(TABLES)), seed=st.integers(0, 99))
    def gather(self, tower: str, table: str, seed: int) -> None:
        known = self.values.get((table, tower), {})
        rows = np.arange(-1, len(self.ids[tower]) + 2)
        for handle in (self.store, self.reader):
            assert handle.missing(table, tower, rows).tolist() == [row not in known for row in rows]
            if known:
                wanted = np.random.default_rng(seed).choice(sorted(known), 40)
                expected = np.repeat(np.float32([known[row] for row in wanted])[:, None], TABLES[table][0], axis=1)
                np.testing.assert_array_equal(handle.gather(table, tower, wanted), expected)

    @invariant()
    def counts_agree(self) -> None:
        found = {(table.table, table.tower): table.rows for table in self.reader.tables()}
        assert found == {key: len(rows) for key, rows in self.values.items()}

    def teardown(self) -> None:
        damages = self.store.verify()
        self.store.close()
        self.reader.close()
        shutil.rmtree(self.root)
        assert damages == []


TestStoreMachine = StoreMachine.TestCase
TestStoreMachine.settings = settings(max_examples=25, stateful_step_count=15, deadline=None)


@given(
    order=st.permutations(range(40)),
    cuts=st.lists(st.integers(0, 40), max_size=6),
    other_cuts=st.lists(st.integers(0, 40), max_size=6),
)
@settings(max_examples=15, deadline=None)
def test_figures_do_not_depend_on_how_rows_were_grouped(
    order: list[int], cuts: list[int], other_cuts: list[int]
) -> None:
    values = np.random.default_rng(0).standard_normal((40, 3)).astype(np.float32)
    infos = []
    for group in (cuts, other_cuts):
        edges = sorted({0, 40, *group})
        with tempfile.TemporaryDirectory() as root, FeatureStore.open(root + "/s", "w", block_rows=8) as store:
            store.add_ids("image", [str(n) for n in range(40)])
            for first, last in pairwise(edges):
                store.put("t", "image", order[first:last], values[order[first:last]])
            infos.append(replace(store.info(), file_bytes=0))
    assert infos[0] == infos[1]


@given(rows=st.lists(st.integers(0, 2**32 - 2), min_size=1, max_size=200, unique=True), key=st.binary(max_size=12))
def test_row_lists_come_back(rows: list[int], key: bytes) -> None:
    array = np.array(sorted(rows), np.int64)
    raw = encode_index(key, array)
    assert decode_index(key, raw).tolist() == array.tolist()
    assert decode_index(key + b"x", raw) is None


@given(rows=st.lists(st.integers(0, 2**32 - 2), min_size=1, max_size=20), data=st.data())
def test_a_flipped_bit_in_a_tail_part_or_row_list_is_noticed(rows: list[int], data: st.DataObject) -> None:
    state = TableState(id=3, dim=2, dtype="float16")
    values = np.arange(2 * len(rows), dtype=np.float16).reshape(-1, 2)
    raw = bytearray(encode_tail(b"u" * 16, state, "text", 7, np.array(rows), values))
    found = decode_tail(memoryview(raw), b"u" * 16, state, "text", 7)
    assert found is not None
    assert found[0].tolist() == rows
    np.testing.assert_array_equal(found[1], values)
    assert decode_tail(memoryview(raw), b"u" * 16, state, "image", 7) is None
    bit = data.draw(st.integers(0, 8 * len(raw) - 1))
    raw[bit // 8] ^= 1 << bit % 8
    assert decode_tail(memoryview(raw), b"u" * 16, state, "text", 7) is None
    index = bytearray(encode_index(b"k", np.unique(rows)))
    bit = data.draw(st.integers(0, 8 * len(index) - 1))
    index[bit // 8] ^= 1 << bit % 8
    assert decode_index(b"k", bytes(index)) is None
