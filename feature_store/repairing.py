"""Taking damaged parts out of a store, so that exactly their rows count as missing and can be extracted again.

A damaged block goes, and its row list becomes a list of removed rows: an older version of a row must not come back to
life. Where the row list itself is unreadable, its rows are known only by their number. If the store's count of rows
says that they hid no older versions, nothing else is touched; if it does not, all that is older goes too.

Damaged pages of LMDB's trees cannot be mended in place. Then all that is sound is copied into a fresh file first.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from feature_store import ids
from feature_store.checks import decode_removed, encode_removed, no_rows, sign_meta
from feature_store.compaction import replacing_file
from feature_store.environment import Environment
from feature_store.errors import StoreError
from feature_store.facts import Repair
from feature_store.layout import (
    DATABASES,
    TOWERS,
    Rows,
    TableState,
    decode_index,
    decode_tail,
    encode_tail,
    part_key,
    state_key,
)
from feature_store.opening import new_lmdb
from feature_store.pages import Snapshot
from feature_store.precision import Stored
from feature_store.verification import Contents, verify_file

_BEYOND = np.iinfo(np.int64).max


def repair(environment: Environment) -> list[Repair]:
    """Drop what is damaged, table by table, one commit each; what is sound stays where it is.

    Raises:
        StoreError: the bookkeeping is damaged, so that nothing can be believed.
    """
    contents = _verified(environment)
    hopeless = [damage for damage in contents.damages if damage.part.startswith(("bookkeeping", "database"))]
    if hopeless:
        raise StoreError(
            f"the store cannot be repaired: {hopeless[0]}",
            where=str(environment.path),
            next="Restore it from a sealed generation or a copy, or remove the folder and extract the features again",
        )
    if any(not damage.table for damage in contents.damages):
        replacing_file(environment, lambda folder, txn: _salvage(environment.data_file, txn.id(), folder))
        contents = _verified(environment)
    tables = sorted({(damage.table, damage.tower) for damage in contents.damages if damage.table})
    return [_drop(environment, contents, table, tower) for table, tower in tables]


def _verified(environment: Environment) -> Contents:
    with environment.read() as txn:
        return verify_file(environment.data_file, txn.id())


def _salvage(source: Path, txn_id: int, folder: Path) -> None:
    """A fresh file with everything of the old one that can be read. Nothing of the old one is read through LMDB."""
    snapshot = Snapshot(source, txn_id)
    trees = snapshot.trees()
    fresh = new_lmdb(folder)
    try:
        databases = {name: fresh.open_db(name.encode()) for name in DATABASES}
        for name in DATABASES:
            entries = snapshot.entries(trees[name], name) if name in trees else iter(())
            with fresh.begin(write=True, db=databases[name]) as txn:
                held = {tower: txn.get(f"count/{tower}".encode(), db=databases["meta"]) for tower in TOWERS}
                counts = {tower: int.from_bytes(raw or b"", "little") for tower, raw in held.items()}
                for key, value in _whole_ids(entries, counts) if name == "ids" else entries:
                    txn.put(key, value)
        with fresh.begin(write=True) as txn:
            sign_meta(txn, databases["meta"])
    finally:
        fresh.close()


def _whole_ids(entries: Iterator[tuple[bytes, Any]], counts: dict[str, int]) -> Iterator[tuple[bytes, bytes]]:
    """Ids that can be believed; a row that lost its own gets one that nobody can ask for, and stays unused."""
    names = {tower: [b"\xfflost " + str(row).encode() for row in range(count)] for tower, count in counts.items()}
    ends = dict.fromkeys(TOWERS, 0)
    for key, raw in entries:
        place, part = ids.split_key(key), ids.decode_part(raw)
        if place is None or part is None:
            continue
        tower, first = place
        if not ids.intact(key, raw) and first != ends[tower]:  # the key may be what is damaged
            continue
        ends[tower] = first + len(part.ends)
        held = part.names
        for n in np.flatnonzero(ids.sound(raw)[: counts[tower] - first]).tolist():
            names[tower][first + n] = held[n]
    for tower in TOWERS:
        yield from ids.encode_parts(tower, 0, names[tower], ids.hashed(names[tower]))


class _Parts:
    """The parts of one table and tower, read inside a transaction: which can be believed, and which rows they hold."""

    def __init__(self, environment: Environment, txn: Any, state: TableState, tower: str, bad: set[str]) -> None:
        self.size, self.state = environment.block_rows, state
        self.newest: NDArray[np.int64] = np.empty(0, np.int64)  # part that holds a row's newest version; -1: none
        self.bad_blocks: dict[int, Rows | None] = {}
        self.tails: list[tuple[int, Rows, Stored]] = []
        self.bad_tail = -1
        index, tail = environment.database("index"), environment.database("tail")
        for number in range(state.sealed):
            key = part_key(state.id, number)
            raw = bytes(txn.get(key, db=index) or b"")
            removed, rows = decode_removed(key, raw), decode_index(key, raw) if raw else None
            if removed is not None:
                self._note(removed, -1)
                continue
            if rows is not None:
                self._note(rows, number)
            if rows is None or f"block {number}" in bad:
                self.bad_blocks[number] = rows
        for number in range(state.tail_first, state.tail_next):
            raw = txn.get(part_key(state.id, number), db=tail)
            part = None if raw is None else decode_tail(raw, environment.uuid, state, tower, number)
            position = state.sealed + number - state.tail_first
            if part is None:
                self.bad_tail = position
            else:
                self.tails.append((position, part[0], part[1].copy()))
                self._note(part[0], position)
        self.lost_tail = state.tail_rows - sum(len(rows) for _, rows, _ in self.tails)

    def _note(self, rows: Rows, part: int) -> None:
        end = int(rows.max(initial=-1)) + 1
        if end > len(self.newest):
            self.newest = np.concatenate((self.newest, np.full(end - len(self.newest), -1, np.int64)))
        self.newest[rows] = part

    @property
    def unknown(self) -> int:
        """Number of rows whose list cannot be read."""
        blocks = sum(rows is None for rows in self.bad_blocks.values())
        return blocks * self.size + max(0, self.lost_tail)

    def outdated(self) -> tuple[int, Rows]:
        """The last unreadable part, and the rows whose version that can be read may have been replaced there.

        Parts of the tail count on from the blocks.
        """
        unreadable = [number for number, rows in self.bad_blocks.items() if rows is None]
        last = max([self.bad_tail, *unreadable])
        if self.state.rows == int((self.newest >= 0).sum()) + self.unknown:
            return last, no_rows()
        return last, np.flatnonzero((self.newest >= 0) & (self.newest < last))


def _drop(environment: Environment, contents: Contents, table: str, tower: str) -> Repair:
    state = contents.tables[table, tower]
    bad = {damage.part for damage in contents.damages if (damage.table, damage.tower) == (table, tower)}

    def work(txn: Any) -> Repair:
        parts = _Parts(environment, txn, state, tower, bad)
        last, outdated = parts.outdated()
        hit = [number for number, rows in parts.bad_blocks.items() if rows is not None]
        gone = np.union1d(np.flatnonzero(np.isin(parts.newest, hit)), outdated)
        removals = {number: no_rows() if rows is None else rows for number, rows in parts.bad_blocks.items()}
        after = replace(state, rows=int((parts.newest >= 0).sum()) - len(gone), repairs=state.repairs + 1)
        if len(outdated):
            place = min(last, state.sealed)  # behind the last block, where the tail is to blame
            removals[place] = np.union1d(removals.get(place, no_rows()), outdated)
            after = replace(after, sealed=max(state.sealed, place + 1))
        after = _remove(environment, txn, after, removals)
        if any(part.startswith("tail") for part in bad):
            kept = [
                _without(rows, features, outdated) if at < last else (rows, features)
                for at, rows, features in parts.tails
            ]
            after = _restage(environment, txn, after, tower, [part for part in kept if len(part[0])])
        txn.put(state_key(table, tower), after.to_bytes(), db=environment.database("meta"))
        named = tuple(sorted(bad, key=lambda part: (part.split()[0], int(part.split()[-1]) if " " in part else 0)))
        return Repair(table, tower, named, tuple(gone.tolist()), parts.unknown)

    return environment.write(work)


def _without(rows: Rows, features: Stored, gone: Rows) -> tuple[Rows, Stored]:
    kept = ~np.isin(rows, gone)
    return rows[kept], features[kept]


def _remove(environment: Environment, txn: Any, state: TableState, removals: dict[int, Rows]) -> TableState:
    """Take blocks away, and write into their row lists that these rows are gone."""
    freed = 0
    for number, rows in removals.items():
        key = part_key(state.id, number)
        value = encode_removed(key, rows)
        freed -= len(value)
        for name in ("blocks", "index"):
            old = txn.pop(key, db=environment.database(name))
            freed += len(old) if old is not None else 0
        txn.put(key, value, db=environment.database("index"))
    return replace(state, sealed_bytes=max(0, state.sealed_bytes - freed))


def _restage(
    environment: Environment, txn: Any, state: TableState, tower: str, sound: list[tuple[Rows, Stored]]
) -> TableState:
    """The tail again without its damaged parts, under new numbers."""
    tail = environment.database("tail")
    for number in range(state.tail_first, state.tail_next):
        txn.delete(part_key(state.id, number), db=tail)
    state = replace(state, tail_first=state.tail_next, tail_rows=sum(len(rows) for rows, _ in sound))
    for rows, features in sound:
        value = encode_tail(environment.uuid, state, tower, state.tail_next, rows, features)
        txn.put(part_key(state.id, state.tail_next), value, db=tail)
        state = replace(state, tail_next=state.tail_next + 1)
    return state
