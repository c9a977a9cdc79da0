"""Reading everything again and comparing it with its digests, without asking LMDB, which trusts its pages."""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from feature_store import ids
from feature_store.checks import DIGEST_KEY, decode_removed, meta_digest
from feature_store.facts import Damage
from feature_store.layout import (
    DATABASES,
    TOWERS,
    Rows,
    TableState,
    block_damage,
    decode_index,
    decode_tail,
    digest,
    split_tower,
)
from feature_store.pages import Snapshot, Tree

_PART = struct.Struct(">IQ")
Parts = dict[tuple[int, int], memoryview]


@dataclass
class Contents:
    """What one snapshot of a store holds, read page by page.

    ``tables`` maps (table, tower) to its state; ``digests`` names every part and its digest, as a manifest lists them.
    """

    uuid: bytes = b""
    block_rows: int = 0
    counts: dict[str, int] = field(default_factory=dict)
    facts: dict[str, Any] = field(default_factory=dict)
    tables: dict[tuple[str, str], TableState] = field(default_factory=dict)
    damages: list[Damage] = field(default_factory=list)
    digests: dict[str, str] = field(default_factory=dict)


def verify_file(path: Path, txn: int | None = None) -> Contents:
    """Read one snapshot of a data file and name every damaged part. ``txn``: the one that a transaction holds open."""
    snapshot, contents = Snapshot(path, txn), Contents()
    trees = snapshot.trees()
    for name in DATABASES:
        if name not in trees:
            contents.damages.append(Damage("", "", f"database {name!r}", "is missing"))
    _meta(snapshot, trees, contents)
    _ids(snapshot, trees, contents)
    index = dict(_parts(snapshot, trees, "index"))
    tails = dict(_parts(snapshot, trees, "tail"))
    checked = _blocks(snapshot, trees, contents, index)
    for (table, tower), state in sorted(contents.tables.items()):
        _table(contents, table, tower, state, index, tails, checked)
    snapshot.unaccounted()
    for flaw in snapshot.flaws:
        part = f"page {flaw.page}" if flaw.page >= 0 else "file"
        contents.damages.append(Damage("", "", part, flaw.reason))
    return contents


def _entries(snapshot: Snapshot, trees: dict[str, Tree], name: str) -> Iterator[tuple[bytes, memoryview]]:
    return snapshot.entries(trees[name], name) if name in trees else iter(())


def _parts(snapshot: Snapshot, trees: dict[str, Tree], name: str) -> Iterator[tuple[tuple[int, int], memoryview]]:
    for key, value in _entries(snapshot, trees, name):
        if len(key) == _PART.size:
            yield _PART.unpack(key), value


def _meta(snapshot: Snapshot, trees: dict[str, Tree], contents: Contents) -> None:
    entries = list(_entries(snapshot, trees, "meta"))
    held = dict(entries)
    contents.digests["meta"] = meta_digest(entries).hex()
    if bytes(held.get(DIGEST_KEY, b"")) != meta_digest(entries):
        contents.damages.append(Damage("", "", "bookkeeping", "does not match its digest"))
    try:
        for key, raw in entries:
            kind, _, rest = key.decode().partition("/")
            if kind == "store":
                facts = json.loads(bytes(raw))
                contents.uuid, contents.block_rows = bytes.fromhex(facts["uuid"]), int(facts["block_rows"])
            elif kind == "count":
                contents.counts[rest] = struct.unpack("<Q", raw)[0]
            elif kind == "facts":
                contents.facts[rest] = json.loads(bytes(raw))
            elif kind == "table":
                tower, _, table = rest.partition("/")
                contents.tables[table, tower] = TableState.from_bytes(raw)  # type: ignore[arg-type]
    except (ValueError, TypeError, KeyError, struct.error) as problem:
        contents.damages.append(Damage("", "", "bookkeeping", f"cannot be read: {problem}"))


def _ids(snapshot: Snapshot, trees: dict[str, Tree], contents: Contents) -> None:
    """Each part against its digest, and if it fails each id against its hash; each row of a tower must have one."""
    seen = {tower: np.zeros(contents.counts.get(tower, 0), bool) for tower in TOWERS}
    digests = []
    for key, raw in _entries(snapshot, trees, "ids"):
        digests.append(bytes(raw[:16]))
        place, part = ids.split_key(key), ids.decode_part(raw)
        tower, first = place or ("", 0)
        if place is None or part is None or not ids.intact(key, raw):
            lost = tuple((first + np.flatnonzero(~ids.sound(raw))).tolist())
            contents.damages.append(Damage("", tower, f"ids {first}", "do not match their digest", lost))
        if place is not None and part is not None:
            theirs = seen[tower][first : first + len(part.ends)]
            if len(theirs) < len(part.ends) or theirs.any():
                contents.damages.append(Damage("", tower, f"ids {first}", "have rows that are not their own"))
            theirs[:] = True
    contents.digests["ids"] = digest(*digests).hex()
    for tower, rows in seen.items():
        if not rows.all():
            lost = tuple(np.flatnonzero(~rows).tolist())
            contents.damages.append(Damage("", tower, f"ids {lost[0]}", f"{len(lost)} rows have lost their ids", lost))


def _blocks(snapshot: Snapshot, trees: dict[str, Tree], contents: Contents, index: Parts) -> dict[tuple[int, int], str]:
    """What is wrong with each block that is there: one at a time, in the order of the file's keys."""
    owners = {state.id: (tower, state) for (_, tower), state in contents.tables.items()}
    found = {}
    for (owner, number), raw in _parts(snapshot, trees, "blocks"):
        if owner in owners:
            tower, state = owners[owner]
            found[owner, number] = block_damage(raw, contents.uuid, state, tower, number, contents.block_rows)
            contents.digests[f"block {owner}/{number}"] = bytes(raw[48:64]).hex()
    return found


def _table(
    contents: Contents,
    table: str,
    tower: str,
    state: TableState,
    index: Parts,
    tails: Parts,
    checked: dict[tuple[int, int], str],
) -> None:
    known = len(contents.damages)
    live = np.zeros(contents.counts.get(split_tower(tower)[0], 0), bool)

    def damaged(part: str, reason: str, rows: Rows | None = None) -> None:
        listed = () if rows is None else tuple(rows.tolist())
        contents.damages.append(Damage(table, tower, part, reason, listed))

    for number in range(state.sealed):
        raw = bytes(index.get((state.id, number), b""))
        key = _PART.pack(state.id, number)
        removed = decode_removed(key, raw)
        if removed is not None:
            contents.digests[f"index {state.id}/{number}"] = raw[:16].hex()
            _mark(live, removed, False)
            continue
        rows = decode_index(key, raw) if raw else None
        if rows is None:
            damaged(f"index {number}", "does not match its digest" if raw else "is missing")
        else:
            contents.digests[f"index {state.id}/{number}"] = raw[:16].hex()
            _mark(live, rows, True)
        reason = checked.get((state.id, number), "is missing")
        if reason:
            damaged(f"block {number}", reason, rows)
    staged = 0
    for number in range(state.tail_first, state.tail_next):
        tail = tails.get((state.id, number))
        part = None if tail is None else decode_tail(tail, contents.uuid, state, tower, number)
        if part is None:
            damaged(f"tail {number}", "is missing" if tail is None else "does not match its digest")
        else:
            contents.digests[f"tail {state.id}/{number}"] = bytes(tail[48:64]).hex()  # type: ignore[index]
            _mark(live, part[0], True)
            staged += len(part[0])
    if len(contents.damages) == known and (int(live.sum()), staged) != (state.rows, state.tail_rows):
        damaged("rows", f"should be {state.rows}, {state.tail_rows} of them in the tail; are {live.sum()}, {staged}")


def _mark(live: NDArray[np.bool_], rows: Rows, value: bool) -> None:
    live[rows[rows < len(live)]] = value


def known_parts(contents: Contents) -> set[str]:
    """Names of all parts that the bookkeeping says there are, blocks that were dropped excepted."""
    names = chain.from_iterable(
        [*(f"index {state.id}/{n}" for n in range(state.sealed)),
         *(f"tail {state.id}/{n}" for n in range(state.tail_first, state.tail_next))]
        for state in contents.tables.values()
    )  # fmt: skip
    return {"meta", "ids", *names}
