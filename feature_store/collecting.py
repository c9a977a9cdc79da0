"""Space inside the file: dropping tables that nobody needs and versions of rows that were replaced.

A table is gone once its entry in ``meta`` is; its parts are swept afterwards, a few per commit. Whenever a run is
killed, what is left are parts that no table owns, and the next run sweeps them. The pages become free for later puts;
``compact`` gives them back to the disk.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from feature_store.environment import Environment
from feature_store.layout import TableState, decode_index, part_key, state_key
from feature_store.listing import DRAFT, read_states
from feature_store.pages import Snapshot

if TYPE_CHECKING:
    from feature_store.store import FeatureStore

_BATCH = 256
_PARTS = ("blocks", "index", "tail")


@dataclass(frozen=True)
class Garbage:
    """What can go, or went.

    Args:
        tables: (table, tower, rows, bytes) of each table that nobody needs.
        replaced: (table, tower, rows, bytes) of versions that newer ones replaced, where there are any.
        ownerless: parts that a killed run left behind.
        bytes: all of these together; parts without an owner are not counted.
        free_bytes: pages of the file that hold nothing, before anything was dropped.
    """

    tables: tuple[tuple[str, str, int, int], ...]
    replaced: tuple[tuple[str, str, int, int], ...]
    ownerless: int
    bytes: int
    free_bytes: int


def collect(store: FeatureStore, environment: Environment, keep: Collection[str] | None, dry_run: bool) -> Garbage:
    """See ``FeatureStore.gc``."""
    with environment.read() as txn:
        states = read_states(environment, txn, drafts=True)
        unwanted = [entry for entry in states if entry[0] == DRAFT or (keep is not None and entry[0] not in keep)]
        kept = [entry for entry in states if entry not in unwanted]
        outdated = [(table, tower, state, _replaced(environment, txn, state)) for table, tower, state in kept]
        ownerless = len(_ownerless(environment, txn, {state.id for _, _, state in states}))
        free = Snapshot(environment.data_file, txn.id()).free_bytes()
    tables = tuple((table, tower, state.rows, state.stored_bytes) for table, tower, state in unwanted)
    replaced = tuple((table, tower, rows, rows * state.row_bytes) for table, tower, state, rows in outdated if rows)
    if not dry_run:
        _drop(environment, [entry[:2] for entry in unwanted])
        _sweep(environment)
        for table, tower, state, rows in outdated:
            if rows:
                _rewrite(store, environment, table, tower, state)
                _sweep(environment)
    return Garbage(tables, replaced, ownerless, sum(entry[3] for entry in (*tables, *replaced)), free)


def _replaced(environment: Environment, txn: Any, state: TableState) -> int:
    """Number of rows of a table that lie in it once more, in a newer version."""
    held = state.tail_rows
    for number in range(state.sealed):
        key = part_key(state.id, number)
        rows = decode_index(key, bytes(txn.get(key, db=environment.database("index")) or b""))
        held += 0 if rows is None else len(rows)
    return held - state.rows


def _drop(environment: Environment, tables: list[tuple[str, str]]) -> None:
    def work(txn: Any) -> None:
        meta = environment.database("meta")
        for table, tower in tables:
            txn.delete(state_key(table, tower), db=meta)
        left = {table for table, _, _ in read_states(environment, txn)}
        for table in {table for table, _ in tables} - left:
            txn.delete(f"facts/{table}".encode(), db=meta)

    if tables:
        environment.write(work)


def _owners(txn: Any, database: Any) -> Iterator[int]:
    """Ids of the tables that have parts in a database, without reading the parts."""
    cursor, owner = txn.cursor(db=database), 0
    while cursor.set_range(part_key(owner, 0)):
        owner = int.from_bytes(bytes(cursor.key())[:4], "big")
        yield owner
        owner += 1


def _ownerless(environment: Environment, txn: Any, owners: set[int]) -> list[tuple[str, bytes]]:
    found = []
    for name in _PARTS:
        database = environment.database(name)
        for owner in _owners(txn, database):
            cursor = txn.cursor(db=database)
            if owner in owners or not cursor.set_range(part_key(owner, 0)):
                continue
            for key in cursor.iternext(keys=True, values=False):
                if int.from_bytes(bytes(key)[:4], "big") != owner:
                    break
                found.append((name, bytes(key)))
    return found


def _sweep(environment: Environment) -> None:
    """Delete parts that no table owns."""
    with environment.read() as txn:
        owners = {state.id for _, _, state in read_states(environment, txn)}
        found = _ownerless(environment, txn, owners)
    for first in range(0, len(found), _BATCH):
        part = found[first : first + _BATCH]

        def work(txn: Any, part: list[tuple[str, bytes]] = part) -> None:
            for name, key in part:
                txn.delete(key, db=environment.database(name))

        environment.write(work)


def _rewrite(store: FeatureStore, environment: Environment, table: str, tower: str, old: TableState) -> None:
    """Copy the rows that count into a draft, then let the draft be the table, in one commit."""
    rows, step = store.present(table, tower), 8 * environment.block_rows
    for first in range(0, len(rows), step):
        part = rows[first : first + step]
        store.put(DRAFT, tower, part, store.gather(table, tower, part), dtype=old.dtype)

    def work(txn: Any) -> None:
        meta = environment.database("meta")
        new = TableState.from_bytes(txn.pop(state_key(DRAFT, tower), db=meta))
        new = replace(new, loss_rows=old.loss_rows, loss_units=old.loss_units, loss_worst=old.loss_worst)
        txn.put(state_key(table, tower), new.to_bytes(), db=meta)

    environment.write(work)
