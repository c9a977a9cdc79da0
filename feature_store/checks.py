"""Checks of the small values, so that a flipped bit in any of them is noticed: bookkeeping, lists of removed rows.

The bookkeeping in ``meta`` is small and changes with every commit, so one digest over all of it is written with each.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable
from typing import Any

import numpy as np

from feature_store.layout import Rows, decode_index, digest, encode_index

DIGEST_KEY = b"digest"
"""Key in ``meta`` of the digest over its other entries."""
_REMOVED = b"gone"


def encode_removed(key: bytes, rows: Rows) -> bytes:
    """One value of ``index`` that stands for a block that was dropped: these rows have no features any more."""
    runs = encode_index(key, rows)[16:] if len(rows) else b""
    return digest(key, runs, _REMOVED) + runs + _REMOVED


def decode_removed(key: bytes, raw: bytes) -> Rows | None:
    """Rows of a dropped block; None if the value is something else."""
    runs = raw[16:-4]
    if raw[-4:] != _REMOVED or len(runs) % 8 or raw[:16] != digest(key, runs, _REMOVED):
        return None
    return decode_index(key, digest(key, runs) + runs)


def meta_digest(entries: Iterable[tuple[Any, Any]]) -> bytes:
    """Digest over the entries of ``meta``, in order, without the digest itself."""
    parts: list[bytes] = []
    for key, value in entries:
        if bytes(key) != DIGEST_KEY:
            parts += (struct.pack("<II", len(key), len(value)), bytes(key), bytes(value))
    return digest(*parts)


def sign_meta(txn: Any, meta: Any) -> None:
    """Write the digest of ``meta``; the last act of each write transaction, which writes nothing if nothing changed."""
    digest = meta_digest(txn.cursor(db=meta))
    if txn.get(DIGEST_KEY, db=meta) != digest:
        txn.put(DIGEST_KEY, digest, db=meta)


def no_rows() -> Rows:
    """An empty list of rows."""
    return np.empty(0, np.int64)
