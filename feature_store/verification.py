"""Reading everything again and comparing it with its digests."""

from __future__ import annotations

from collections.abc import Iterator

from feature_store.environment import Environment
from feature_store.errors import StoreError
from feature_store.facts import Damage
from feature_store.layout import Rows, TableState, block_damage, decode_index, decode_tail, part_key


def verify_table(environment: Environment, table: str, tower: str, state: TableState) -> Iterator[Damage]:
    """Every damaged part of one table and tower, in order. One block in memory at a time, one transaction per part."""
    for number in range(state.sealed):
        rows, reason = _index(environment, state, number)
        known = () if rows is None else tuple(rows.tolist())
        if reason:
            yield Damage(table, tower, f"index {number}", reason)
        reason = _block(environment, state, tower, number)
        if reason:
            yield Damage(table, tower, f"block {number}", reason, known)
    for number in range(state.tail_first, state.tail_next):
        reason = _tail(environment, state, tower, number)
        if reason:
            yield Damage(table, tower, f"tail {number}", reason)


def _index(environment: Environment, state: TableState, number: int) -> tuple[Rows | None, str]:
    key = part_key(state.id, number)
    try:
        with environment.read() as txn:
            raw = txn.get(key, db=environment.database("index"))
            if raw is None:
                return None, "is missing"
            rows = decode_index(key, bytes(raw))
    except StoreError as problem:
        return None, problem.what
    return rows, "" if rows is not None else "does not match its digest"


def _block(environment: Environment, state: TableState, tower: str, number: int) -> str:
    try:
        with environment.read() as txn:
            raw = txn.get(part_key(state.id, number), db=environment.database("blocks"))
            if raw is None:
                return "is missing"
            return block_damage(raw, environment.uuid, state, tower, number, environment.block_rows)
    except StoreError as problem:
        return problem.what


def _tail(environment: Environment, state: TableState, tower: str, number: int) -> str:
    try:
        with environment.read() as txn:
            raw = txn.get(part_key(state.id, number), db=environment.database("tail"))
            if raw is None:
                return "is missing"
            sound = decode_tail(raw, environment.uuid, state, tower, number) is not None
    except StoreError as problem:
        return problem.what
    return "" if sound else "does not match its digest"
