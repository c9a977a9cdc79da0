"""What a result was made from, kept with it by name: a change is named before the result is used.

A record is a JSON file with a hash over itself. Beside facts of its own it may hold ``inputs`` (settings, and hashes of
what is larger) and ``files`` (the sha256 of each file of the result, by its path from the result's folder).
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from hashlib import sha256
from pathlib import Path
from typing import Any

from mmkd_core.errors import MmkdError, WorkspaceError
from mmkd_core.integrate.workspace import write_json

SHOWN = 4
"""Changes that a sentence names; of more it gives the number."""
_HASH = re.compile(r"[0-9a-f]{16,}")


def write_record(path: Path, facts: Mapping[str, Any]) -> None:
    """Write facts with a hash over all of them."""
    whole = json.loads(json.dumps(facts))  # as they will be read: tuples are lists
    write_json(path, {**whole, "sha256": digest(whole)})


def read_record(path: Path, of: str, next: str, error: type[MmkdError] = WorkspaceError) -> dict[str, Any] | None:
    """The facts that ``write_record`` wrote; None if there is no file.

    Args:
        of: the result in words.
        next: how to get a whole one.

    Raises:
        MmkdError: as ``error``, if the file is damaged.
    """
    try:
        facts = json.loads(path.read_bytes())
        seal = facts.pop("sha256", None)
    except FileNotFoundError:
        return None
    except (OSError, ValueError, AttributeError, TypeError, RecursionError) as problem:
        raise error(f"{of} is damaged: {path.name} cannot be read", where=str(path), next=next) from problem
    if seal is None:
        what = f"{of} is of another version of mmkd, or damaged: {path.name} has no hash of itself"
        raise error(what, where=str(path), next=next)
    if seal != digest(facts):
        raise error(f"{of} is damaged: {path.name} is not as it was written", where=str(path), next=next)
    return facts  # type: ignore[no-any-return]


def digest(facts: Mapping[str, Any]) -> str:
    """sha256 over JSON-able facts, whatever their order."""
    return sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()


def require_same(
    was: Mapping[str, Any], now: Mapping[str, Any], of: str, next: str, error: type[MmkdError] = WorkspaceError
) -> None:
    """Refuse a result that was made from other inputs than the present ones.

    Args:
        of: the result in words.
        next: the command that makes it again.

    Raises:
        MmkdError: as ``error``; names what changed, with both values where they can be read.
    """
    if found := list(changes(was, now)):
        more = f" and {len(found) - SHOWN} more" if len(found) > SHOWN else ""
        raise error(f"{of} was made from other inputs: {'; '.join(found[:SHOWN])}{more}", next=next)


def changes(was: Mapping[str, Any], now: Mapping[str, Any]) -> Iterator[str]:
    """Each input that changed, in words: ``student.embed_dim was 128, is 64``; of hashes only that they did."""
    before, after = (_flat(json.loads(json.dumps(table))) for table in (was, now))
    for name in dict.fromkeys([*before, *after]):
        if name in before and name in after and before[name] == after[name]:
            continue
        values = [_said(table[name]) if name in table else "not given" for table in (before, after)]
        yield f"{name} changed" if "" in values else f"{name} was {values[0]}, is {values[1]}"


def _flat(table: Mapping[str, Any], above: str = "") -> dict[str, Any]:
    """Nested names joined by dots; an empty mapping has no names."""
    flat: dict[str, Any] = {}
    for key, value in table.items():
        name = f"{above}{key}"
        flat |= _flat(value, f"{name}.") if isinstance(value, Mapping) else {name: value}
    return flat


def _said(value: Any) -> str:
    """A value that people can read; empty for a hash."""
    text = value if isinstance(value, str) else json.dumps(value)
    return "" if _HASH.fullmatch(text) else f"{text:.60}" or "empty"
