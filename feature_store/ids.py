"""Ids of a tower: numbered in the order in which they come, stored by row, found by hash, many at a time.

A part is one value of ``ids``: the ids of consecutive rows.

    digest of the key and of all that follows (16 bytes), count (u64),
    xxh3-128 of each id (16 bytes each), end of each id in the text (u32 each), the text: all ids in utf-8

A million ids are hashed in 0.2 s and looked up in less, where one ``get`` for each takes seconds. The hash is the id:
that two of 300 million have the same one is a chance of one in 10^22. The text is for whoever wants to read it, and
tells after damage which ids are still right.

Parts are never changed, but small ones at the end are put together when more is added: a part takes in its predecessor
while that has fewer ids, so that ids that come one by one are written a dozen times and not thousands of times.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator, Sequence
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
import xxhash
from numpy.typing import NDArray

from feature_store.errors import StoreError
from feature_store.layout import MAX_NAME, TOWERS, Rows, digest

PART_ROWS = 4096
"""Most ids in a part: what a damaged page can cost."""
_KEY = struct.Struct(">BQ")
_HEAD = struct.Struct("<16sQ")
_MANY = 1024

Hashes = NDArray[np.uint64]
"""(n, 2): two halves of xxh3-128."""


class Part(NamedTuple):
    """Ids of consecutive rows, as they are stored: hashes (n, 2), ends (n,) in ``text``."""

    hashes: Hashes
    ends: NDArray[np.uint32]
    text: memoryview

    @property
    def names(self) -> list[bytes]:
        """Each id in utf-8."""
        text = bytes(self.text)
        return [text[first:last] for first, last in pairwise([0, *self.ends.tolist()])]


def hashed(names: Iterable[bytes]) -> Hashes:
    """Hash of each id (n, 2)."""
    return np.frombuffer(b"".join(map(xxhash.xxh3_128_digest, names)), "<u8").reshape(-1, 2)


def encoded(tower: str, ids: Sequence[str]) -> list[bytes]:
    """Ids in utf-8.

    Raises:
        StoreError: one has no bytes, more than 200, or is no utf-8.
    """
    try:
        names = list(map(str.encode, ids))
        sizes = np.fromiter(map(len, names), np.int64, len(names))
        wrong = np.flatnonzero((sizes < 1) | (sizes > MAX_NAME))
    except UnicodeEncodeError as problem:
        raise _unfit(tower, problem.object) from problem
    if len(wrong):
        raise _unfit(tower, ids[int(wrong[0])])
    return names


def _unfit(tower: str, name: str) -> StoreError:
    return StoreError(f"an id must have 1 to {MAX_NAME} bytes of utf-8", where=f"tower {tower}, id {name[:40]!r}")


def part_key(tower: str, first: int) -> bytes:
    """Key of the part that begins with row ``first``."""
    return _KEY.pack(TOWERS.index(tower), first)


def split_key(key: bytes) -> tuple[str, int] | None:
    """Inverse of ``part_key``; None if it is no key of a part."""
    if len(key) != _KEY.size or key[0] >= len(TOWERS):
        return None
    tower, first = _KEY.unpack(key)
    return TOWERS[tower], first


def encode_parts(tower: str, first: int, names: Sequence[bytes], hashes: Hashes) -> Iterator[tuple[bytes, bytes]]:
    """Keys and values of the parts that hold the ids of the rows from ``first``."""
    for offset in range(0, len(names), PART_ROWS):
        chosen, key = names[offset : offset + PART_ROWS], part_key(tower, first + offset)
        ends = np.cumsum(list(map(len, chosen)), dtype="<u4").tobytes()
        heads = hashes[offset : offset + PART_ROWS].astype("<u8").tobytes()
        body = b"".join((len(chosen).to_bytes(8, "little"), heads, ends, *chosen))
        yield key, digest(key, body) + body


def decode_part(raw: memoryview) -> Part | None:
    """Views of what a value holds if it has the form of a part, intact or not; None if it has not."""
    if len(raw) < _HEAD.size:
        return None
    _, count = _HEAD.unpack_from(raw)
    text = _HEAD.size + 20 * count
    if text > len(raw):
        return None
    hashes = np.frombuffer(raw, "<u8", 2 * count, _HEAD.size).reshape(-1, 2)
    return Part(hashes, np.frombuffer(raw, "<u4", count, text - 4 * count), raw[text:])


def intact(key: bytes, raw: memoryview) -> bool:
    """Whether a part is as it was written."""
    return bytes(raw[:16]) == digest(key, raw[16:])


def sound(raw: memoryview) -> NDArray[np.bool_]:
    """Mask (n,) over the ids of a part: True where the id is that of its hash. Empty if it cannot even be counted."""
    part = decode_part(raw)
    if part is None:
        return np.zeros(0, np.bool_)
    right: NDArray[np.bool_] = (hashed(part.names) == part.hashes).all(axis=1)
    return right


def parts(txn: Any, database: Any, tower: str, known: int = 0) -> Iterator[tuple[int, Part]]:
    """First row and contents of each part, the last one first, down to the one with row ``known``.

    Raises:
        StoreError: a part is damaged.
    """
    cursor = txn.cursor(db=database)
    there = cursor.prev() if cursor.set_range(bytes((TOWERS.index(tower) + 1,))) else cursor.last()
    while there:
        key = bytes(cursor.key())
        place = split_key(key)
        if place is None or place[0] != tower:
            return
        raw = cursor.value()
        part = decode_part(raw) if intact(key, raw) else None
        if part is None:
            where = f"tower {tower}, ids from row {place[1]}"
            raise StoreError("ids are damaged", where=where, next="Run verify() for the list of damaged parts")
        yield place[1], part
        if place[1] <= known:
            return
        there = cursor.prev()


def append(txn: Any, database: Any, tower: str, names: list[bytes], count: int) -> None:
    """Write new ids behind the ``count`` that there are."""
    first, hashes, taken = count, hashed(names), []
    for start, part in parts(txn, database, tower):
        if len(part.ends) > min(PART_ROWS - 1, len(names)):
            break
        taken.append(part_key(tower, start))
        first, names, hashes = start, [*part.names, *names], np.concatenate((part.hashes, hashes))
    for key in taken:
        txn.delete(key, db=database)
    for key, value in encode_parts(tower, first, names, hashes):
        txn.put(key, value, db=database)


class Ids:
    """Row of each id of one tower, as of the last ``refresh``: 28 bytes in memory for each. Not thread-safe."""

    def __init__(self, tower: str) -> None:
        self.tower, self.count = tower, 0
        self._all: Hashes = np.empty((0, 2), np.uint64)  # of row 0, 1, ...; the end is not used yet
        self._runs: list[tuple[NDArray[np.uint64], NDArray[np.uint32]]] = []  # first halves, ascending, and their rows
        self._sorted = 0

    def refresh(self, txn: Any, database: Any, count: int) -> None:
        """Take over what was added since the last call, of ``count`` ids that there are.

        Raises:
            StoreError: ids are damaged or missing.
        """
        if count == self.count:
            return
        if count > len(self._all):
            grown = np.empty((max(count, 2 * self.count), 2), np.uint64)
            grown[: self.count] = self._all[: self.count]
            self._all = grown
        end = count
        for first, part in parts(txn, database, self.tower, self.count):
            if first + len(part.ends) != end:
                break
            self._all[first:end], end = part.hashes, first
        if end > self.count:
            raise StoreError(f"row {end - 1} has lost its id", where=f"tower {self.tower}", next="Run verify()")
        self.count = count

    def find(self, hashes: Hashes) -> Rows:
        """Row of each of these ids (n,); -1 where it is unknown."""
        rows = np.full(len(hashes), -1)
        todo = np.arange(len(hashes))
        if len(hashes) >= _MANY:  # usually they come in the order in which they were added: no need to search
            for first in np.flatnonzero(self._all[: self.count, 0] == hashes[0, 0])[:1].tolist():
                there = self._all[first : min(first + len(hashes), self.count)]
                same = (there == hashes[: len(there)]).all(axis=1)
                rows[: len(there)][same] = first + np.flatnonzero(same)
            todo = np.flatnonzero(rows < 0)
        if len(todo):
            rows[todo] = self._search(hashes[todo])
        return rows

    def number(self, names: Sequence[bytes]) -> tuple[Rows, list[bytes]]:
        """Row of each of these ids (n,), and those that are new: they get the next rows, in their order."""
        rows = self.find(hashed(names))
        fresh = np.flatnonzero(rows < 0).tolist()
        new = dict.fromkeys(names[position] for position in fresh)
        numbers = range(self.count, self.count + len(new))
        if len(new) == len(fresh):
            rows[fresh] = numbers
        else:  # one came twice
            of = dict(zip(new, numbers, strict=True))
            rows[fresh] = [of[names[position]] for position in fresh]
        return rows, list(new)

    def _search(self, hashes: Hashes) -> Rows:
        self._sort()
        order = np.argsort(hashes[:, 0])  # neighbours are found near each other
        wanted, found = hashes[order], np.full(len(hashes), -1)
        for heads, rows in self._runs:
            at = np.searchsorted(heads, wanted[:, 0])
            todo = np.arange(len(wanted))
            while len(todo):  # more than once only where first halves are the same
                todo = todo[at[todo] < len(heads)]
                todo = todo[heads[at[todo]] == wanted[todo, 0]]
                candidates = rows[at[todo]]
                same = self._all[candidates, 1] == wanted[todo, 1]
                found[todo[same]] = candidates[same]
                todo = todo[~same]
                at[todo] += 1
        out = np.empty_like(found)
        out[order] = found
        return out

    def _sort(self) -> None:
        """Sort what was added, together with earlier runs that are not much larger: there are never many."""
        start = self._sorted
        if start == self.count:
            return
        while self._runs and len(self._runs[-1][1]) <= 2 * (self.count - start):
            start -= len(self._runs.pop()[1])
        order = np.argsort(self._all[start : self.count, 0])
        self._runs.append((self._all[start : self.count, 0][order], (start + order).astype(np.uint32)))
        self._sorted = self.count
