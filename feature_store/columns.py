"""Reading one table and tower: which row lies where, and gathering rows from the memory map.

LMDB's ``get`` touches every page of a value, so that asking it for the blocks of a random batch reads the whole table
each time. A block never moves once it is written, so its place in the file is looked up once, when a row of it is first
asked for, from the node that LMDB keeps beside the key, without touching the block. The place is believed only if the
block's own header is found there; else the block is read with ``get``, slower and always right. Rows are then copied
out of a map of the file that Python owns (``feature_store.maps``), all rows of the file seen as one array.

Rows in the tail are few (less than one block) and are kept in memory.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from feature_store.checks import decode_removed
from feature_store.environment import Environment
from feature_store.errors import StoreError
from feature_store.index import ABSENT, RowIndex, Slots
from feature_store.layout import (
    HEADER,
    TAIL_HEADER,
    Rows,
    TableState,
    decode_runs,
    decode_tail,
    expand_runs,
    header_fields,
    part_key,
    state_key,
)
from feature_store.maps import FileMap
from feature_store.peeking import find_blocks
from feature_store.precision import Stored, decode, storage_type

_CHUNK = 256
"""Rows converted at a time: they stay in the processor's cache between the copy and the conversion."""
_NOWHERE = -(1 << 62)
"""Place of a block that is not known to lie in the map: no row in it gets to 0 from there."""
NO_ROWS: NDArray[np.intp] = np.empty(0, np.intp)
_NO_FEATURES: Stored = np.empty((0, 0), np.float32)


class Found(NamedTuple):
    """Where the rows of a batch lie.

    Attributes:
        places: (n,) steps from the start of the file; empty if no row lies in the map. Where a row does not lie in the
            map, the place of some other row that does.
        elsewhere: (k,) positions in the batch whose features are in ``features`` instead.
        features: (k, width) as stored.
        absent: (m,) positions in the batch without features.
    """

    places: NDArray[np.int64]
    elsewhere: NDArray[np.intp]
    features: Stored
    absent: NDArray[np.intp]


def find(txn: Any, columns: Sequence[Columns], rows: Rows) -> list[Found]:
    """Where the same rows lie in several tables of one store. Valid as long as the transaction.

    To copy a thousand rows of a table takes 200 us, so little may be done here for each table. Tables that were filled
    alike share the look-up of their rows, and nearly always every row lies in a block whose place is known.

    Raises:
        StoreError: a table has no features at all, or a row lies in a block whose header is damaged.
    """
    places = np.empty((len(columns), len(rows)), np.int64)
    known: dict[Hashable, tuple[Slots, Slots]] = {}
    for one, out in zip(columns, places, strict=True):
        identity = one.index.identity
        if identity not in known:
            known[identity] = one.likely(rows)
        one.place(*known[identity], out)
    if places.min(initial=0) < 0:
        found = [one.settle(txn, rows, out) for one, out in zip(columns, places, strict=True)]
    else:
        found = [Found(out, NO_ROWS, _NO_FEATURES, NO_ROWS) for out in places]
    if columns and columns[0].files.is_large:
        for one, where in zip(columns, found, strict=True):
            one.files.fetch(where.places, one.require().step, one.require().row_bytes)
    return found


class Columns:
    """Index of one table and tower in memory (``feature_store.index``). Not thread-safe."""

    def __init__(self, environment: Environment, files: FileMap, table: str, tower: str) -> None:
        self._environment, self.files = environment, files
        self.table, self.tower = table, tower
        self._key = state_key(table, tower)
        self._forget()

    def _forget(self) -> None:
        self.commit, self._raw = -1, b""
        self.state: TableState | None = None
        self.index = RowIndex()
        self._origins: NDArray[np.int64] = np.full(1, _NOWHERE)
        self._starts: NDArray[np.int64] = np.empty(0, np.int64)  # of blocks in the file, as LMDB says; -1 if not asked
        self._tail_rows = 0
        self._tail: Stored = np.empty((0, 0), np.float32)

    def refresh(self, txn: Any) -> None:
        """Take over what was put since the last call. Reads row lists and new tail parts, no block."""
        commit = txn.id()
        raw = txn.get(self._key, db=self._environment.database("meta"))
        if raw == self._raw:
            self.commit = commit
            return
        state = None if raw is None else TableState.from_bytes(raw)
        known = self.state
        if state is None or (known is not None and (state.id, state.repairs) != (known.id, known.repairs)):
            self._forget()
        if state is None:
            return
        try:
            old, self.state, self._raw = self.state, None, b""  # a failure below leaves "read all again" behind
            self._add_sealed(txn, state, old.sealed if old else 0)
            self._add_tail(txn, state, old)
            self.state, self._raw, self.commit = state, bytes(raw), commit
        except BaseException:
            self._forget()
            raise

    def _add_sealed(self, txn: Any, state: TableState, known: int) -> None:
        database, size = self._environment.database("index"), self._environment.block_rows
        for number in range(known, state.sealed):
            key = part_key(state.id, number)
            raw = txn.get(key, db=database)
            runs = None if raw is None else decode_runs(key, bytes(raw))
            if runs is None:
                removed = None if raw is None else decode_removed(key, bytes(raw))
                if removed is None:
                    raise self.damaged(f"index {number}")
                self.index.remove(removed)
            elif len(runs) == 1:
                self.index.assign(int(runs[0, 0]), int(runs[0, 1]), number * size)
            else:
                self.index.assign_rows(expand_runs(runs), number * size)
        origins = np.full(state.sealed + 1, _NOWHERE)  # the last for the tail and all that lies nowhere
        origins[:known] = self._origins[:known]
        self._starts = np.concatenate((self._starts[:known], np.full(state.sealed - known, -1)))
        self._origins = origins

    def _add_tail(self, txn: Any, state: TableState, old: TableState | None) -> None:
        first = state.tail_first
        if old and old.tail_first == state.tail_first:
            first = old.tail_next
        else:
            self._tail_rows = 0
            self._tail = np.empty((self._environment.block_rows, state.width), storage_type(state.dtype))
        base = state.sealed * self._environment.block_rows
        for number in range(first, state.tail_next):
            raw = txn.get(part_key(state.id, number), db=self._environment.database("tail"))
            part = None if raw is None else decode_tail(raw, self._environment.uuid, state, self.tower, number)
            if part is None:
                raise self.damaged(f"tail {number}")
            rows, features = part
            self.index.assign_rows(rows, base + self._tail_rows)
            self._tail[self._tail_rows : self._tail_rows + len(rows)] = features
            self._tail_rows += len(rows)

    def damaged(self, part: str) -> StoreError:
        """The error for a part that cannot be believed."""
        return self.error(f"{part} is damaged", "Run verify() for the list of damaged parts")

    def error(self, what: str, following: str) -> StoreError:
        """An error that names this table and tower."""
        return StoreError(what, where=f"table {self.table}, tower {self.tower}", next=following)

    def missing(self, rows: Rows) -> NDArray[np.bool_]:
        """Mask (n,): True where the row has no features."""
        missing: NDArray[np.bool_] = self.index.slots(rows) == ABSENT
        return missing

    def require(self) -> TableState:
        """The table's state.

        Raises:
            StoreError: nothing was put yet.
        """
        if self.state is None:
            raise self.error("there are no features", "Extract them first; tables() lists what is there")
        return self.state

    def tail(self) -> tuple[Rows, Stored]:
        """The newest version of each row in the tail, in the order of its slots."""
        assert self.state is not None
        base = self.state.sealed * self._environment.block_rows
        rows, slots = self.index.since(base)
        return rows, self._tail[slots - base]

    def likely(self, rows: Rows) -> tuple[Slots, Slots]:
        """Slot of each row (n,) and number of its block; of a row without features any that are too large."""
        slots = self.index.likely(rows)
        return slots, slots // self._environment.block_rows

    def place(self, slots: Slots, blocks: Slots, out: NDArray[np.int64]) -> None:
        """Steps (n,) from the start of the file to the rows at these slots; negative where that is not known."""
        state = self.require()
        self._origins.take(blocks, out=out, mode="clip")
        units = state.row_bytes // state.step
        out += slots if units == 1 else np.multiply(slots, units, dtype=np.int64)

    def settle(self, txn: Any, rows: Rows, places: NDArray[np.int64]) -> Found:
        """Where rows lie some of whose places (n,) are negative: in a block that is new to us, in the tail, or nowhere.

        Raises:
            StoreError: a row lies in a block whose header is damaged.
        """
        state = self.require()
        slots = self.index.slots(rows)
        blocks = slots // self._environment.block_rows
        lost = np.flatnonzero(places < 0)
        unknown = blocks[lost] < state.sealed
        aside: list[int] = []
        if unknown.any():
            numbers = np.unique(blocks[lost[unknown]]).tolist()
            aside = self._locate(txn, state, numbers)
            self.place(slots, blocks, places)
            lost = np.flatnonzero(places < 0)
        where, absent = lost, NO_ROWS
        nowhere = slots[lost] == ABSENT
        if nowhere.any():
            where, absent = lost[~nowhere], lost[nowhere]
        features = self._tail.take(slots[where] - state.sealed * self._environment.block_rows, 0, mode="clip")
        for number in aside:
            inside = blocks[where] == number
            offsets = slots[where[inside]] - number * self._environment.block_rows
            features[inside] = self._read_block(txn, state, number)[offsets]
        if len(lost) == len(places):
            return Found(places[:0], where, features, absent)
        places[lost] = places.max()  # somewhere, so that all rows can be copied at once
        return Found(places, where, features, absent)

    def _locate(self, txn: Any, state: TableState, numbers: list[int]) -> list[int]:
        """Note where blocks lie in the map; those of which only ``get`` can tell are returned."""
        found = self._peek(txn, state, numbers)
        count, step = self._environment.block_rows, state.step
        size = HEADER + count * state.row_bytes
        inside = {n: found[n] for n in numbers if n in found and self.files.upto(found[n] + size) is not None}
        self.files.fetch(np.array([*inside.values()], np.int64), 1, TAIL_HEADER)
        for number, start in inside.items():
            fields = header_fields(self._environment.uuid, state, self.tower, number, count)
            if (start + HEADER) % step == 0 and self.files.part(start, len(fields)) == fields:
                self._origins[number] = (start + HEADER - number * count * state.row_bytes) // step
        return [number for number in numbers if self._origins[number] == _NOWHERE]

    def _peek(self, txn: Any, state: TableState, numbers: list[int]) -> dict[int, int]:
        """Where LMDB says that these blocks start, without those of which it cannot be told."""
        unknown = [number for number in numbers if self._starts[number] < 0]
        if unknown:
            found = find_blocks(txn, self._environment.database("blocks"), state.id, unknown)
            sealed = {number: start for number, start in found.items() if number < state.sealed}
            self._starts[list(sealed)] = list(sealed.values())
        starts = self._starts[numbers].tolist()
        return {number: start for number, start in zip(numbers, starts, strict=True) if start >= 0}

    def _read_block(self, txn: Any, state: TableState, number: int) -> Stored:
        """View of a block's rows, valid within the transaction: the way without knowledge of LMDB's pages."""
        raw = txn.get(part_key(state.id, number), db=self._environment.database("blocks"))
        count = self._environment.block_rows
        fields = header_fields(self._environment.uuid, state, self.tower, number, count)
        if raw is None or len(raw) != HEADER + count * state.row_bytes or raw[: len(fields)] != fields:
            raise self.damaged(f"block {number}")
        rows = np.frombuffer(raw, storage_type(state.dtype), count * state.width, HEADER)
        return rows.reshape(count, state.width)

    def gather(self, txn: Any, rows: Rows) -> NDArray[np.float32]:
        """Features (n, d) as float32, in the order of ``rows``.

        Raises:
            StoreError: a row has no features, or lies in a block whose header is damaged.
        """
        state = self.require()
        (found,) = find(txn, [self], rows)
        if len(found.absent):
            first = rows[found.absent[0]]
            raise self.error(
                f"{len(found.absent)} of {len(rows)} rows have no features, first of them row {first}",
                "Extract them first; missing() tells which rows they are",
            )
        out = np.empty((len(rows), state.dim), np.float32)
        if len(found.places):
            stored = self.files.rows(state.row_bytes, state.step)
            for first in range(0, len(rows), _CHUNK):
                part = stored[found.places[first : first + _CHUNK]]
                part = part.view(storage_type(state.dtype)).reshape(-1, state.width)
                decode(part, state.dtype, state.dim, out[first : first + _CHUNK])
        if len(found.elsewhere):
            out[found.elsewhere] = decode(found.features, state.dtype, state.dim)
        return out

    def extents(self, txn: Any, rows: Rows) -> NDArray[np.int64]:
        """Where the blocks that hold these rows lie in the file: (k, 2), start and length in bytes."""
        state = self.state
        if state is None:
            return np.empty((0, 2), np.int64)
        blocks = np.unique(self.index.slots(rows) // self._environment.block_rows)
        blocks = blocks[blocks < state.sealed]
        starts = np.array([*self._peek(txn, state, blocks.tolist()).values()], np.int64)
        size = HEADER + self._environment.block_rows * state.row_bytes
        return np.stack((starts, np.full(len(starts), size)), axis=1)
