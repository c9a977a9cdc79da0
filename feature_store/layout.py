"""How features lie in LMDB: keys, headers, row lists and digests. Pure functions; nothing here opens a file.

Five named databases in one environment:

    meta    "store" -> JSON (format, uuid, block_rows); "count/TOWER", "tables" -> how many there are (u64);
            "table/TOWER/NAME" -> TableState; "facts/NAME" -> JSON; "sealed" -> the last generation;
            "digest" -> digest of all these (``checks``)
    ids     (tower byte, first row u64) -> the ids of up to 4096 consecutive rows, and their hashes (``ids``)
    blocks  (table u32, block u64) -> 4080 bytes of header, then ``block_rows`` rows of features
    index   (table u32, block u64) -> digest, then runs (first row u32, length u32): which rows the block holds; of a
            block that ``repair`` dropped: which rows it took away
    tail    (table u32, sequence u64) -> 64 bytes of header, row numbers (u32), rows of features

LMDB puts a value above half a page on pages of its own, 16 bytes into the first, so a header of 4080 bytes starts the
rows on a page boundary. A block holds ``block_rows`` rows in whatever order they came, so a teacher that covers part
of the corpus leaves no holes, and once written it is never written again. What does not fill a block yet waits in the
tail, one value per put: rewriting the open block instead would write 13 times as much.

Views of an image (augmentations) are towers of their own beside "image": "image@1", "image@2", ... They share its rows.

The digest is xxh3-128 (docs/decisions/0016): it finds damage, it does not stop a forger.

Does not: support big-endian machines.
"""

from __future__ import annotations

import json
import struct
from dataclasses import asdict, dataclass
from functools import cached_property
from math import gcd

import numpy as np
import xxhash
from numpy.typing import NDArray

from feature_store.precision import DTYPES, Stored, storage_type, width

FORMAT = 3
"""Number of this layout. A store with another number is refused, never guessed at."""
BLOCK_ROWS = 4096
PAGE = 4096
HEADER = PAGE - 16
TOWERS = ("image", "text")
MOST_VIEWS = 1 << 16
"""Views of one image, the plain one included."""
DATABASES = ("meta", "ids", "blocks", "index", "tail")
MAX_NAME = 200
"""Longest table name and id in bytes of utf-8; LMDB's keys end at 511."""

Rows = NDArray[np.int64]

_FIELDS = struct.Struct("<8s16sIBBHIIQ")
_DIGEST = 16
TAIL_HEADER = _FIELDS.size + _DIGEST
_MAGIC = b"mmkdFS\x01\x00"
_LOSS_UNIT = 1e-15


@dataclass(frozen=True)
class TableState:
    """The bookkeeping of one table and tower, stored with each put in the same transaction.

    ``loss_units`` sums the rounding loss in integer steps of 1e-15, so that the mean does not depend on how rows were
    grouped into puts.
    """

    id: int
    dim: int
    dtype: str
    rows: int = 0
    sealed: int = 0
    sealed_bytes: int = 0
    tail_rows: int = 0
    tail_first: int = 0
    tail_next: int = 0
    loss_rows: int = 0
    loss_units: int = 0
    loss_worst: float = 0.0
    repairs: int = 0

    @cached_property
    def row_bytes(self) -> int:
        """Bytes of one row of features."""
        return self.width * storage_type(self.dtype).itemsize

    @cached_property
    def width(self) -> int:
        """Items of one stored row."""
        return width(self.dtype, self.dim)

    @cached_property
    def step(self) -> int:
        """Bytes between one place in the map and the next: divides a row and a page, so that any row has a place."""
        return gcd(self.row_bytes, PAGE)

    @property
    def stored_bytes(self) -> int:
        """Payload, headers and row lists; a tail row counts as itself plus its number (see ``TableInfo``)."""
        return self.sealed_bytes + self.tail_rows * (self.row_bytes + 4)

    @property
    def loss_mean(self) -> float:
        """Mean cosine loss of the rounding."""
        return self.loss_units * _LOSS_UNIT / self.loss_rows if self.loss_rows else 0.0

    def to_bytes(self) -> bytes:
        """Canonical JSON."""
        return json.dumps(asdict(self), sort_keys=True).encode()

    @classmethod
    def from_bytes(cls, raw: bytes) -> TableState:
        """Inverse of ``to_bytes``."""
        return cls(**json.loads(bytes(raw)))


def state_key(table: str, tower: str) -> bytes:
    """Key of a ``TableState`` in ``meta``."""
    return f"table/{tower}/{table}".encode()


def part_key(table_id: int, number: int) -> bytes:
    """Key in ``blocks``, ``index`` and ``tail``: big-endian, so that LMDB keeps the parts of a table together."""
    return struct.pack(">IQ", table_id, number)


def digest(*parts: bytes | memoryview) -> bytes:
    """Hash of the parts joined: xxh3-128, 16 bytes."""
    state = xxhash.xxh3_128()
    for part in parts:
        state.update(part)
    return state.digest()


def view_tower(tower: str, view: int) -> str:
    """Name of the tower that holds view number ``view`` of ``tower``; view 0 is the tower itself."""
    return f"{tower}@{view}" if view else tower


def split_tower(tower: str) -> tuple[str, int]:
    """Inverse of ``view_tower``: "image@3" is view 3 of the images, and shares their rows."""
    base, _, view = tower.partition("@")
    return base, int(view or 0)


def header_fields(uuid: bytes, state: TableState, tower: str, number: int, rows: int) -> bytes:
    """Return the first 48 bytes of a block or a tail part: enough to tell it from every other part of every store."""
    base, view = split_tower(tower)
    kind = DTYPES.index(state.dtype)
    return _FIELDS.pack(_MAGIC, uuid, state.id, TOWERS.index(base), kind, view, state.dim, rows, number)


def encode_block(uuid: bytes, state: TableState, tower: str, number: int, features: Stored) -> bytes:
    """One value of ``blocks``: header, digest of header and payload, padding, rows."""
    fields = header_fields(uuid, state, tower, number, len(features))
    payload = np.ascontiguousarray(features).data.cast("B")
    padding = bytes(HEADER - TAIL_HEADER)
    return b"".join((fields, digest(fields, padding, payload), padding, payload))


def block_damage(raw: memoryview, uuid: bytes, state: TableState, tower: str, number: int, rows: int) -> str:
    """Say what is wrong with a value of ``blocks``; empty if nothing is."""
    fields = header_fields(uuid, state, tower, number, rows)
    if len(raw) != HEADER + rows * state.row_bytes:
        return f"is {len(raw)} bytes long instead of {HEADER + rows * state.row_bytes}"
    if raw[: len(fields)] != fields:
        return "has a header that belongs to no block of this table"
    if raw[len(fields) : TAIL_HEADER] != digest(fields, raw[TAIL_HEADER:]):
        return "does not match its digest"
    return ""


def encode_index(key: bytes, rows: Rows) -> bytes:
    """One value of ``index``: the rows of a block, in their order, as runs of consecutive numbers."""
    breaks = np.flatnonzero(np.diff(rows) != 1) + 1
    starts = np.concatenate(([0], breaks))
    lengths = np.diff(np.concatenate((starts, [len(rows)])))
    runs = np.stack((rows[starts], lengths), axis=1).astype("<u4").tobytes()
    return digest(key, runs) + runs


def decode_runs(key: bytes, raw: bytes) -> Rows | None:
    """Runs (k, 2) of a block, first row and length, or None if the value does not match its digest."""
    found, runs = raw[:_DIGEST], raw[_DIGEST:]
    if digest(key, runs) != found or len(runs) % 8:
        return None
    return np.frombuffer(runs, "<u4").reshape(-1, 2).astype(np.int64)


def expand_runs(runs: Rows) -> Rows:
    """Every row (n,) of these runs (k, 2), in their order."""
    ends = np.cumsum(runs[:, 1])
    first: Rows = np.repeat(runs[:, 0] - (ends - runs[:, 1]), runs[:, 1])
    return first + np.arange(len(first), dtype=np.int64)


def decode_index(key: bytes, raw: bytes) -> Rows | None:
    """Rows of a block in their order, or None if the value does not match its digest."""
    runs = decode_runs(key, raw)
    return None if runs is None else expand_runs(runs)


def encode_tail(uuid: bytes, state: TableState, tower: str, number: int, rows: Rows, features: Stored) -> bytes:
    """One value of ``tail``: header, digest, row numbers, rows of features."""
    fields = header_fields(uuid, state, tower, number, len(rows))
    body = rows.astype("<u4").tobytes() + np.ascontiguousarray(features).tobytes()
    return b"".join((fields, digest(fields, body), body))


def decode_tail(raw: memoryview, uuid: bytes, state: TableState, tower: str, number: int) -> tuple[Rows, Stored] | None:
    """Row numbers and a view of their features, valid as long as ``raw``; None if the value is damaged."""
    if len(raw) < TAIL_HEADER or (len(raw) - TAIL_HEADER) % (4 + state.row_bytes):
        return None
    count = (len(raw) - TAIL_HEADER) // (4 + state.row_bytes)
    fields = header_fields(uuid, state, tower, number, count)
    if raw[: len(fields)] != fields or raw[len(fields) : TAIL_HEADER] != digest(fields, raw[TAIL_HEADER:]):
        return None
    rows = np.frombuffer(raw, "<u4", count, TAIL_HEADER).astype(np.int64)
    features = np.frombuffer(raw, storage_type(state.dtype), count * state.width, TAIL_HEADER + 4 * count)
    return rows, features.reshape(count, state.width)


def loss_units(loss: NDArray[np.float64]) -> int:
    """Sum of cosine losses (n,) in the integer steps of ``TableState.loss_units``."""
    return int(np.rint(loss / _LOSS_UNIT).astype(np.int64).sum())
