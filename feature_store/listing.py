"""Which tables there are, and which of their rows count."""

from __future__ import annotations

from typing import Any

from feature_store.environment import Environment
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
