"""The writing half: checking what is put, rounding, staging in the tail and sealing blocks, one commit per call."""

from __future__ import annotations

import struct
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from feature_store import ids
from feature_store.columns import Columns
from feature_store.environment import Environment
from feature_store.errors import StoreError
from feature_store.layout import (
    MAX_NAME,
    MOST_VIEWS,
    TOWERS,
    Rows,
    TableState,
    encode_block,
    encode_index,
    encode_tail,
    loss_units,
    part_key,
    split_tower,
    state_key,
)
from feature_store.precision import DEFAULT, DTYPES, Stored, encode, overflows, rounding_loss

_MOST_SLOTS = np.iinfo(np.int32).max


def check_name(table: str) -> str:
    """Return a table's name that LMDB can hold as part of a key."""
    size = len(table.encode("utf-8", "surrogatepass"))
    if not 0 < size <= MAX_NAME or size != len(table.encode("utf-8", "ignore")):
        raise StoreError(f"a table's name must have 1 to {MAX_NAME} bytes of utf-8, not {size}", where=repr(table[:40]))
    return table


def check_tower(tower: str) -> str:
    """Return the name of a tower that has rows of its own: not that of a view."""
    if tower not in TOWERS:
        raise StoreError(f"there is no tower {tower!r}", next=f"Use {' or '.join(map(repr, TOWERS))}")
    return tower


def check_view(tower: str, view: int) -> str:
    """Name of the tower that holds this view; ``tower`` may name one itself ("image@2")."""
    base, _, number = tower.partition("@")
    check_tower(base)
    if not number and not view:
        return tower
    if base != "image":
        raise StoreError(f"the tower {base!r} has no views", next="Views are augmentations of images")
    if number and (view or not number.isascii() or not number.isdigit() or number.startswith("0")):
        raise StoreError(f"there is no tower {tower!r} with view {view}", next='Use "image" and the number of the view')
    if not 0 <= (view or int(number)) < MOST_VIEWS:
        raise StoreError(f"there is no view {view or number}", next=f"Views are numbered 0 to {MOST_VIEWS - 1}")
    return tower if number else f"{base}@{view}"


def add_ids(environment: Environment, tower: str, names: list[bytes], count: int) -> None:
    """Number ids that are new, behind the ``count`` that there are."""

    def work(txn: Any) -> None:
        ids.append(txn, environment.database("ids"), tower, names, count)
        total = struct.pack("<Q", count + len(names))
        txn.put(f"count/{tower}".encode(), total, db=environment.database("meta"))

    environment.write(work)


def as_rows(rows: ArrayLike) -> Rows:
    """Row numbers (n,) as int64."""
    array = np.asarray(rows)
    if array.ndim != 1 or (array.dtype.kind not in "iu" and len(array)):
        raise StoreError(f"rows must be a list of whole numbers, not {array.dtype} of shape {array.shape}")
    return array.astype(np.int64, copy=False)


def checked(table: str, tower: str, rows: Rows, features: ArrayLike, dtype: str) -> tuple[NDArray[np.floating], Stored]:
    """Features (n, d) as given and as they will be stored; refuse what is not finite or does not fit."""
    array = np.asarray(features)
    where = f"table {table}, tower {tower}"
    if array.ndim != 2 or array.dtype.kind != "f" or not array.shape[1]:
        raise StoreError(f"features must be floats of shape (n, d), not {array.dtype} of {array.shape}", where=where)
    if len(array) != len(rows):
        raise StoreError(f"{len(rows)} rows came with {len(array)} features", where=where)
    if array.dtype == dtype:  # nothing to round
        if not _all_finite(array):
            raise _unfit(array, dtype, rows, where)
        return array, array
    with np.errstate(over="ignore"):
        exact = array.astype(np.float32, copy=False)
    if overflows(exact, dtype):
        raise _unfit(exact, dtype, rows, where)
    return exact, encode(exact, dtype)


def _all_finite(array: NDArray[np.floating]) -> bool:
    """Of float16 by its bits: numpy compares the numbers themselves ten times slower."""
    if array.dtype != np.float16:
        return not overflows(array, "float32")
    bits = np.ascontiguousarray(array).view(np.uint16)
    return int((bits & 0x7FFF).max(initial=0)) < 0x7C00


def _unfit(array: NDArray[np.floating], dtype: str, rows: Rows, where: str) -> StoreError:
    finite = np.isfinite(array).all(axis=1)
    if not finite.all():
        what, following = "is not finite", "look at the image or text and at the teacher"
        row = int(np.flatnonzero(~finite)[0])
    else:
        what, following = f"does not fit into {dtype}", 'put this table with dtype="float32"'
        row = next(n for n in range(len(array)) if overflows(array[n : n + 1], dtype))
    return StoreError(
        f"a feature {what}", where=f"{where}, row {rows[row]}", next=f"Nothing of this batch was stored; {following}"
    )


def count_ids(txn: Any, environment: Environment, tower: str) -> int:
    """Ids of a tower, or of the one that a view belongs to."""
    raw = txn.get(f"count/{split_tower(tower)[0]}".encode(), db=environment.database("meta"))
    return int(struct.unpack("<Q", raw)[0]) if raw else 0


def put(
    columns: Columns, environment: Environment, count: int, rows: Rows, features: ArrayLike, dtype: str | None
) -> None:
    """Store features of some of the tower's ``count`` rows in one commit. See ``FeatureStore.put``."""
    table, tower = columns.table, columns.tower
    if dtype is not None and dtype not in DTYPES:
        raise StoreError(f"features cannot be stored as {dtype!r}", next=f"Use {' or '.join(map(repr, DTYPES))}")
    before = columns.state
    _check_rows(table, tower, rows, count)
    settled = _settled_dtype(before, table, tower, dtype)
    exact, stored = checked(table, tower, rows, features, settled)
    if before is not None and before.dim != exact.shape[1]:
        raise StoreError(
            f"features have {exact.shape[1]} dimensions, the table has {before.dim}",
            where=f"table {table}, tower {tower}",
            next="Another model or layer needs a fingerprint, and so a table, of its own",
        )
    if not len(rows):
        return
    loss = np.zeros(len(rows)) if exact is stored else rounding_loss(exact, stored, settled)
    rows, stored, loss = _newest(rows, stored, loss)
    shape = exact.shape[1], settled
    environment.write(lambda txn: _commit(txn, columns, environment, shape, rows, stored, loss))


def _check_rows(table: str, tower: str, rows: Rows, count: int) -> None:
    wrong = rows[(rows < 0) | (rows >= count)]
    if len(wrong):
        raise StoreError(
            f"row {wrong[0]} has no id: the tower has rows 0 to {count - 1}" if count else "the tower has no ids yet",
            where=f"table {table}, tower {tower}",
            next="Number the samples with add_ids() first",
        )


def _settled_dtype(state: TableState | None, table: str, tower: str, asked: str | None) -> str:
    if state is None:
        return asked or DEFAULT
    if asked not in (None, state.dtype):
        raise StoreError(
            f"the table is stored as {state.dtype}, not as {asked}",
            where=f"table {table}, tower {tower}",
            next="The first put of a table settles its dtype",
        )
    return state.dtype


def _newest(rows: Rows, stored: Stored, loss: NDArray[np.float64]) -> tuple[Rows, Stored, NDArray[np.float64]]:
    """Of a row that comes twice in one put, keep the last."""
    if len(rows) == 1 or (np.diff(rows) > 0).all():
        return rows, stored, loss
    last = len(rows) - 1 - np.unique(rows[::-1], return_index=True)[1]
    if len(last) == len(rows):
        return rows, stored, loss
    keep = np.sort(last)
    return rows[keep], stored[keep], loss[keep]


def _commit(
    txn: Any,
    columns: Columns,
    environment: Environment,
    shape: tuple[int, str],
    rows: Rows,
    stored: Stored,
    loss: NDArray[np.float64],
) -> None:
    """Stage the rows, or seal blocks if there are enough; a function of what is committed, so that it may run again.

    ``shape`` is (dim, dtype) of a table that has none yet.
    """
    size, tower = environment.block_rows, columns.tower
    meta, tail = environment.database("meta"), environment.database("tail")
    state = columns.state or _new_state(txn, meta, *shape)
    state = replace(
        state,
        rows=state.rows + int(columns.missing(rows).sum()),
        loss_rows=state.loss_rows + len(rows),
        loss_units=state.loss_units + loss_units(loss),
        loss_worst=max(state.loss_worst, float(loss.max())),
    )
    if state.tail_rows + len(rows) >= size:
        if state.tail_rows:
            staged_rows, staged = columns.tail()
            kept = ~np.isin(staged_rows, rows)
            rows, stored = np.concatenate((staged_rows[kept], rows)), np.concatenate((staged[kept], stored))
            for number in range(state.tail_first, state.tail_next):
                txn.delete(part_key(state.id, number), db=tail)
        state = replace(state, tail_rows=0, tail_first=state.tail_next)
        state, rows, stored = _seal(txn, environment, tower, state, rows, stored)
    if len(rows):
        value = encode_tail(environment.uuid, state, tower, state.tail_next, rows, stored)
        txn.put(part_key(state.id, state.tail_next), value, db=tail)
        state = replace(state, tail_rows=state.tail_rows + len(rows), tail_next=state.tail_next + 1)
    txn.put(state_key(columns.table, tower), state.to_bytes(), db=meta)


def _seal(
    txn: Any, environment: Environment, tower: str, state: TableState, rows: Rows, stored: Stored
) -> tuple[TableState, Rows, Stored]:
    """Write all whole blocks; return the rows that are left. Rows lie sorted in a block: fewer runs."""
    size = environment.block_rows
    whole = len(rows) // size * size
    if (state.sealed * size) + whole + size > _MOST_SLOTS:
        raise StoreError(f"a table cannot hold more than {_MOST_SLOTS} rows", next="Use several stores")
    for first in range(0, whole, size):
        part, features = rows[first : first + size], stored[first : first + size]
        if not (np.diff(part) > 0).all():
            order = np.argsort(part, kind="stable")
            part, features = part[order], features[order]
        key = part_key(state.id, state.sealed)
        index = encode_index(key, part)
        block = encode_block(environment.uuid, state, tower, state.sealed, features)
        txn.put(key, block, db=environment.database("blocks"), overwrite=False)
        txn.put(key, index, db=environment.database("index"), overwrite=False)
        state = replace(state, sealed=state.sealed + 1, sealed_bytes=state.sealed_bytes + len(block) + len(index))
    return state, rows[whole:], stored[whole:]


def _new_state(txn: Any, meta: Any, dim: int, dtype: str) -> TableState:
    number = struct.unpack("<Q", txn.get(b"tables", db=meta) or bytes(8))[0]
    txn.put(b"tables", struct.pack("<Q", number + 1), db=meta)
    return TableState(id=number, dim=dim, dtype=dtype)
