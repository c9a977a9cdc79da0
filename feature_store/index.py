"""Which row lies at which slot of a table: a few numbers while the rows lie in order, else 4 bytes for each row.

A slot is a place in a table: slot s lies in block s // block_rows, or in the tail if that block is not sealed yet. An
extraction that goes through the corpus in order makes one run of consecutive rows, which needs no array however long it
is. Anything else (gaps, another order, rows put again) is an array from row to slot: looking up a batch in runs by
bisection would take a tenth of the time of copying its features. Teachers that answered the same samples in the same
order have equal indices, so that a batch is looked up once for all of them (``identity``).
"""

from __future__ import annotations

from collections.abc import Hashable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from feature_store.layout import Rows, digest

Slots = NDArray[np.integer[Any]]
ABSENT = np.iinfo(np.int32).max
"""Slot of a row that has no features: beyond any other."""


class RowIndex:
    """Slot of each row. A row that is assigned again lies at its newest slot. Not thread-safe."""

    def __init__(self) -> None:
        self._row, self._count = 0, 0
        self._dense: NDArray[np.int32] | None = None
        self._digest = b""

    @property
    def identity(self) -> Hashable:
        """Two indices of which this is equal hold every row at the same slot."""
        if self._dense is None:
            return self._row, self._count
        if not self._digest:
            self._digest = digest(self._dense.data)
        return self._digest

    def assign(self, row: int, count: int, slot: int) -> None:
        """Rows ``row``, ``row + 1``, ... lie at ``count`` consecutive slots from ``slot``."""
        if self._dense is None:
            if not self._count and not slot:
                self._row = row
            if (row, slot) == (self._row + self._count, self._count):
                self._count += count
                return
        self._array(row + count)[row : row + count] = np.arange(slot, slot + count, dtype=np.int32)

    def assign_rows(self, rows: Rows, slot: int) -> None:
        """These rows (n,), in any order, lie at consecutive slots from ``slot``."""
        if not len(rows):
            return
        if int(rows[-1]) - int(rows[0]) == len(rows) - 1 and (np.diff(rows) == 1).all():
            self.assign(int(rows[0]), len(rows), slot)
        else:
            self._array(int(rows.max()) + 1)[rows] = np.arange(slot, slot + len(rows), dtype=np.int32)

    def remove(self, rows: Rows) -> None:
        """These rows (n,) have no features any more."""
        if len(rows) and (self._dense is not None or self._count):
            known = self._array(0)
            known[rows[rows < len(known)]] = ABSENT

    def _array(self, end: int) -> NDArray[np.int32]:
        """The array to be written to, for rows below ``end`` at least."""
        known, self._digest = self._dense, b""
        if known is None:
            known = np.full(max(end, self._row + self._count), ABSENT, np.int32)
            known[self._row : self._row + self._count] = np.arange(self._count, dtype=np.int32)
        elif end > len(known):
            grown = np.full(max(end, len(known) + len(known) // 4), ABSENT, np.int32)
            grown[: len(known)] = known
            known = grown
        self._dense = known
        return known

    def slots(self, rows: Rows) -> Slots:
        """Slot of each row (n,); ``ABSENT`` where the row has no features."""
        if self._dense is None:
            offsets = self.likely(rows)
            return np.where(offsets < self._count, offsets, ABSENT)
        inside = rows.view(np.uint64) < len(self._dense)  # negative numbers are large ones
        if inside.all():
            return self._dense[rows]
        found = np.full(len(rows), ABSENT, np.int32)
        found[inside] = self._dense[rows[inside]]
        return found

    def likely(self, rows: Rows) -> Slots:
        """Like ``slots``, but any number beyond the last slot stands for a row without features. Quicker."""
        if self._dense is not None:
            return self.slots(rows)
        offsets = rows - self._row if self._row else rows
        return np.minimum(offsets.view(np.uint64), self._count).view(np.int64)

    def since(self, slot: int) -> tuple[Rows, Slots]:
        """Rows at ``slot`` or after it, and their slots, in the order of the slots."""
        if self._dense is None:
            slots = np.arange(max(slot, 0), max(slot, 0, self._count))
            return slots + self._row, slots
        rows = np.flatnonzero((self._dense >= slot) & (self._dense < ABSENT))
        found = self._dense[rows]
        order = np.argsort(found)
        return rows[order], found[order]
