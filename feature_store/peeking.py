"""Where blocks lie in the file, read off the leaf pages of LMDB's tree: no block is touched, not even its first page.

A leaf page has a header of 16 bytes, the last four of which are where its list of nodes ends and where the free space
does; the list, two bytes for each node; and the nodes: 8 bytes (size, flags, length of the key), the key, and for a
large value the number of its first page. The value begins after that page's header of 16 bytes.
"""

from __future__ import annotations

import ctypes
import struct
from collections.abc import Iterable
from typing import Any

import numpy as np

from feature_store.layout import part_key

_PART = struct.Struct(">IQ")
_NODE_BYTES = 8 + _PART.size + 8
_ELSEWHERE = 1
"""Flag of a node whose value lies on pages of its own."""


def find_blocks(txn: Any, database: Any, table_id: int, numbers: Iterable[int]) -> dict[int, int]:
    """Where LMDB says that blocks of a table start in the file: those asked for, and their neighbours.

    What is not there, or does not look as expected, is left out. Nobody may believe this without a look at the block.
    """
    cursor, size = txn.cursor(db=database), int(txn.stat(database)["psize"])
    starts: dict[int, int] = {}
    for number in numbers:
        if number not in starts and cursor.set_key(part_key(table_id, number)):
            address = np.frombuffer(cursor.key(), np.uint8).ctypes.data
            starts |= _listed(ctypes.string_at(address - address % size, size), table_id)
    return starts


def _listed(page: bytes, table_id: int) -> dict[int, int]:
    """Starts of the table's blocks on one leaf page, by number."""
    (end,) = struct.unpack_from("<H", page, 12)
    found = {}
    for (at,) in struct.iter_unpack("<H", page[16 : min(end, len(page)) & ~1]):
        if at + _NODE_BYTES <= len(page) and struct.unpack_from("<HH", page, at + 4) == (_ELSEWHERE, _PART.size):
            owner, number = _PART.unpack_from(page, at + 8)
            if owner == table_id:
                (first,) = struct.unpack_from("<Q", page, at + 8 + _PART.size)
                found[number] = first * len(page) + 16
    return found
