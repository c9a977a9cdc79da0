"""Which tables there are, and what there is to know of each."""

from __future__ import annotations

import json
from typing import Any

from feature_store.environment import Environment
from feature_store.facts import TableInfo
from feature_store.layout import TableState

DRAFT = "\0draft"
"""Name of a table that is being rewritten. Nobody sees it; what a killed run left of one is collected."""


def read_states(environment: Environment, txn: Any, drafts: bool = False) -> list[tuple[str, str, TableState]]:
    """Every (table, tower, state), sorted."""
    found = []
    cursor = txn.cursor(db=environment.database("meta"))
    if cursor.set_range(b"table/"):
        for key, raw in cursor:
            parts = bytes(key).decode().split("/", 2)
            if parts[0] != "table":
                break
            if drafts or parts[2] != DRAFT:
                found.append((parts[2], parts[1], TableState.from_bytes(raw)))
    return sorted(found, key=lambda entry: entry[:2])


def table_infos(environment: Environment, txn: Any) -> list[TableInfo]:
    """What there is to know of each table and tower, sorted by name and tower."""
    return [_info(environment, txn, *entry) for entry in read_states(environment, txn)]


def _info(environment: Environment, txn: Any, table: str, tower: str, state: TableState) -> TableInfo:
    raw = txn.get(f"facts/{table}".encode(), db=environment.database("meta"))
    return TableInfo(
        table=table,
        tower=tower,
        dim=state.dim,
        dtype=state.dtype,
        rows=state.rows,
        bytes=state.stored_bytes,
        bytes_raw=state.rows * state.dim * 4,
        cosine_loss_mean=state.loss_mean,
        cosine_loss_worst=state.loss_worst,
        facts={} if raw is None else json.loads(bytes(raw)),
    )
