"""Reading one table and tower: which row lies where, and gathering rows from the memory map.

LMDB's ``get`` touches every page of a value, so that asking it for the blocks of a random batch reads the whole table
each time. A block never moves once it is written, so its place in the file is looked up once, from the node that LMDB
keeps beside the key, without touching the block. The place is believed only if the block's own header is found there;
else the block is read with ``get``, slower and always right. Rows are then copied out of a map of the file that Python
owns: it stays valid as long as anyone looks at it, unlike LMDB's own, which must not be used outside a transaction.

Rows in the tail are few (less than one block) and are kept in memory.
"""

from __future__ import annotations

import ctypes
import mmap
import struct
from math import gcd
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from feature_store.environment import Environment
from feature_store.errors import StoreError
from feature_store.layout import (
    HEADER,
    Features,
    Rows,
    TableState,
    decode_index,
    decode_tail,
    header_fields,
    part_key,
)

_CHUNK = 256
"""Rows converted at a time: they stay in the processor's cache between the copy and the conversion."""
_PAGE = 4096


class FileMap:
    """A read-only map of the store's file that grows with it. Old maps live on while a view of them does."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._bytes: NDArray[np.uint8] = np.empty(0, np.uint8)

    def upto(self, end: int) -> NDArray[np.uint8] | None:
        """Map of at least ``end`` bytes; None if the file is shorter."""
        if end > len(self._bytes):
            with open(self._path, "rb") as file:
                size = file.seek(0, 2)
                if end > size:
                    return None
                self._bytes = np.frombuffer(mmap.mmap(file.fileno(), size, access=mmap.ACCESS_READ), np.uint8)
        return self._bytes


def find_block(txn: Any, database: Any, key: bytes) -> int:
    """Where LMDB says that the value of ``key`` starts in the file, or -1.

    An LMDB node is 8 bytes (size, flags, key length), the key, and for a large value the number of its first page. The
    value begins after that page's header of 16 bytes. What is read here lies inside the page that holds the key.
    """
    cursor = txn.cursor(db=database)
    if not cursor.set_key(key):
        return -1
    address = np.frombuffer(cursor.key(), np.uint8).ctypes.data
    node = ctypes.string_at(address - 8, 8 + len(key) + 8)
    flags, key_length = struct.unpack_from("<HH", node, 4)
    if flags != 1 or key_length != len(key):  # 1: the value lies on pages of its own
        return -1
    (page,) = struct.unpack_from("<Q", node, 8 + key_length)
    return int(page) * int(txn.stat(database)["psize"]) + 16


class Columns:
    """Index of one table and tower in memory: 4 bytes for each row number up to the last. Not thread-safe."""

    def __init__(self, environment: Environment, files: FileMap, table: str, tower: str) -> None:
        self._environment, self._files = environment, files
        self.table, self.tower = table, tower
        self._forget()

    def _forget(self) -> None:
        self.state: TableState | None = None
        self._slots: NDArray[np.int32] = np.empty(0, np.int32)
        self._bases: NDArray[np.int64] = np.empty(0, np.int64)
        self._tail_rows = 0
        self._tail: Features = np.empty((0, 0), np.float32)

    def refresh(self, txn: Any, state: TableState | None) -> None:
        """Take over what was put since the last call. Reads row lists and new tail parts, no block."""
        if state == self.state:
            return
        if state is None or (self.state is not None and state.id != self.state.id):
            self._forget()
        if state is None:
            return
        try:
            old, self.state = self.state, None  # anything that fails below leaves "read all again" behind
            self._add_sealed(txn, state, old.sealed if old else 0)
            self._add_tail(txn, state, old)
            self.state = state
        except BaseException:
            self._forget()
            raise

    def _add_sealed(self, txn: Any, state: TableState, known: int) -> None:
        database = self._environment.database("index")
        for number in range(known, state.sealed):
            key = part_key(state.id, number)
            raw = txn.get(key, db=database)
            rows = None if raw is None else decode_index(key, bytes(raw))
            if rows is None:
                raise self.damaged(f"index {number}")
            self._assign(rows, number * self._environment.block_rows)

    def _add_tail(self, txn: Any, state: TableState, old: TableState | None) -> None:
        first = state.tail_first
        if old and old.tail_first == state.tail_first:
            first = old.tail_next
        else:
            self._tail_rows = 0
            self._tail = np.empty((self._environment.block_rows, state.dim), state.dtype)
        base = state.sealed * self._environment.block_rows
        for number in range(first, state.tail_next):
            raw = txn.get(part_key(state.id, number), db=self._environment.database("tail"))
            part = None if raw is None else decode_tail(raw, self._environment.uuid, state, self.tower, number)
            if part is None:
                raise self.damaged(f"tail {number}")
            rows, features = part
            self._assign(rows, base + self._tail_rows)
            self._tail[self._tail_rows : self._tail_rows + len(rows)] = features
            self._tail_rows += len(rows)

    def _assign(self, rows: Rows, first_slot: int) -> None:
        """Rows lie at consecutive slots from ``first_slot``. A row that was put again lies at its newest slot."""
        end = int(rows.max(initial=-1)) + 1
        if end > len(self._slots):
            grown = np.full(max(end, 2 * len(self._slots)), -1, np.int32)
            grown[: len(self._slots)] = self._slots
            self._slots = grown
        self._slots[rows] = np.arange(first_slot, first_slot + len(rows), dtype=np.int32)

    def damaged(self, part: str) -> StoreError:
        """The error for a part that cannot be believed."""
        return StoreError(
            f"{part} is damaged",
            where=f"table {self.table}, tower {self.tower}",
            next="Run verify() for the list of damaged parts",
        )

    def slots(self, rows: Rows) -> NDArray[np.int32]:
        """Slot of each row, -1 where the row has no features."""
        known = (rows >= 0) & (rows < len(self._slots))
        if known.all():
            return self._slots[rows]
        found = np.full(len(rows), -1, np.int32)
        found[known] = self._slots[rows[known]]
        return found

    def tail(self) -> tuple[Rows, Features]:
        """The newest version of each row in the tail, in the order of its slots."""
        assert self.state is not None
        base = self.state.sealed * self._environment.block_rows
        rows = np.flatnonzero(self._slots >= base)
        order = np.argsort(self._slots[rows])
        return rows[order], self._tail[self._slots[rows[order]] - base]

    def gather(self, txn: Any, rows: Rows) -> NDArray[np.float32]:
        """Features (n, d) as float32, in the order of ``rows``.

        Raises:
            StoreError: a row has no features, or lies in a block whose header is damaged.
        """
        state = self.state
        slots = self.slots(rows)
        absent = np.flatnonzero(slots < 0)
        if len(absent) or state is None:
            first = f", first of them row {rows[absent[0]]}" if len(absent) else ""
            raise StoreError(
                f"{len(absent)} of {len(rows)} rows have no features{first}",
                where=f"table {self.table}, tower {self.tower}",
                next="Extract them first; missing() tells which rows they are",
            )
        out = np.empty((len(rows), state.dim), np.float32)
        blocks, offsets = np.divmod(slots.astype(np.int64), self._environment.block_rows)
        self._locate(txn, state)
        bases = np.append(self._bases, -2)[blocks]  # the tail stands for the block that comes next
        if (bases >= 0).all():
            self._copy(out, slice(None), bases + offsets * state.row_bytes)
            return out
        mapped = np.flatnonzero(bases >= 0)
        self._copy(out, mapped, bases[mapped] + offsets[mapped] * state.row_bytes)
        staged = np.flatnonzero(bases == -2)
        out[staged] = self._tail[offsets[staged]]
        for block in np.unique(blocks[bases == -1]):
            inside = np.flatnonzero(blocks == block)
            out[inside] = self._read_block(txn, state, int(block))[offsets[inside]]
        return out

    def _locate(self, txn: Any, state: TableState) -> None:
        """Find the place of each new block: offset in the file of its first row, -1 if only ``get`` can tell."""
        if len(self._bases) == state.sealed:
            return
        found = [self._place(txn, state, number) for number in range(len(self._bases), state.sealed)]
        self._bases = np.concatenate((self._bases, np.array(found, np.int64)))

    def _place(self, txn: Any, state: TableState, number: int) -> int:
        start = find_block(txn, self._environment.database("blocks"), part_key(state.id, number))
        count = self._environment.block_rows
        data = self._files.upto(start + HEADER + count * state.row_bytes) if start >= 0 else None
        fields = header_fields(self._environment.uuid, state, self.tower, number, count)
        if data is None or data[start : start + len(fields)].tobytes() != fields:
            return -1
        return start + HEADER

    def _copy(self, out: NDArray[np.float32], where: slice | NDArray[np.intp], starts: NDArray[np.int64]) -> None:
        """Copy and convert the rows that start at these offsets of the file.

        All rows of the file are seen as one array of opaque items whose stride divides both a row and a page, so that
        one fancy index reaches any block.
        """
        state = self.state
        assert state is not None
        data = self._files.upto(0)
        assert data is not None
        size = state.row_bytes
        step = gcd(size, _PAGE)
        rows = np.ndarray((max(0, (len(data) - size) // step + 1),), f"V{size}", data, 0, (step,))
        index = starts // step
        target = out if isinstance(where, slice) else np.empty((len(starts), state.dim), np.float32)
        for first in range(0, len(index), _CHUNK):
            part = rows[index[first : first + _CHUNK]]
            target[first : first + _CHUNK] = part.view(state.dtype).reshape(-1, state.dim)
        if target is not out:
            out[where] = target

    def _read_block(self, txn: Any, state: TableState, number: int) -> Features:
        """View of a block's rows, valid within the transaction: the way without knowledge of LMDB's pages."""
        raw = txn.get(part_key(state.id, number), db=self._environment.database("blocks"))
        count = self._environment.block_rows
        fields = header_fields(self._environment.uuid, state, self.tower, number, count)
        if raw is None or len(raw) != HEADER + count * state.row_bytes or raw[: len(fields)] != fields:
            raise self.damaged(f"block {number}")
        rows = np.frombuffer(raw, state.dtype, count * state.dim, HEADER)
        return rows.reshape(count, state.dim)
