"""Which rows come in which batch, as a function of (seed, epoch, step, rank, world) and nothing else.

Nothing is kept between calls, so that a run which starts again at any step, on any rank, sees what it would have seen.
An order is a keyed permutation that tells the row at one position without the others (four rounds of a Feistel network
and walking along its cycle until it is back in range), so that neither time nor memory grow with the corpus.

Two orders. *Random*: any row may follow any other; right where the features fit into memory. *Block-shuffled*, for
stores larger than memory: blocks of consecutive rows in random order, a window of some blocks at a time, random order
inside the window. It reads every block once an epoch, as a whole, and ``will_need`` asks for the next window while this
one is used.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from feature_store.errors import StoreError
from feature_store.layout import BLOCK_ROWS, Rows
from feature_store.store import FeatureStore
from feature_store.writing import as_rows

_ROUNDS = 4
_MIX = (np.uint64(0xFF51AFD7ED558CCD), np.uint64(0xC4CEB9FE1A85EC53))
"""Multipliers of MurmurHash3's 64-bit finaliser."""
_SHIFT = np.uint64(33)

Words = NDArray[np.uint64]


def permuted(positions: ArrayLike, size: int, *key: int) -> Rows:
    """Image of ``positions`` (n,) under the permutation of 0 .. size - 1 that belongs to ``key``."""
    out = np.array(positions, np.uint64)
    if size < 2 or not len(out):
        return out.astype(np.int64)
    half = np.uint64(max(1, -(-(size - 1).bit_length() // 2)))
    rounds = np.asarray(np.random.SeedSequence(key).generate_state(_ROUNDS, np.uint64), np.uint64)
    todo = np.arange(len(out))
    while len(todo):  # at most four times the range: four steps on average
        out[todo] = _feistel(out[todo], half, rounds)
        todo = todo[out[todo] >= size]
    return out.astype(np.int64)


def _feistel(words: Words, half: np.uint64, rounds: Words) -> Words:
    """Permutation of the numbers of 2 * half bits."""
    mask = (np.uint64(1) << half) - np.uint64(1)
    left, right = words >> half, words & mask
    for secret in rounds:
        mixed = right + secret
        for factor in _MIX:
            mixed = (mixed ^ (mixed >> _SHIFT)) * factor
        left, right = right, left ^ ((mixed ^ (mixed >> _SHIFT)) & mask)
    return (left << half) | right


@dataclass(frozen=True)
class Order:
    """The batches of one rank over a corpus of ``size`` samples.

    Each epoch shows every sample exactly once over all ranks. The ranks share each step: together they take the next
    ``batch * world`` positions of one order, so that they have the same number of steps and, block-shuffled, work in
    the same window. In the last step they share what is left, evenly.

    Attributes:
        size: number of samples.
        batch: samples in a batch of one rank.
        seed: another order for each.
        rank, world: this process, and how many there are.
        window: blocks in a window; 0 for the random order.
        block: consecutive samples that stay together until their window is shuffled.
    """

    size: int
    batch: int
    seed: int = 0
    rank: int = 0
    world: int = 1
    window: int = 0
    block: int = BLOCK_ROWS

    def __post_init__(self) -> None:
        if self.size < 0 or min(self.batch, self.world, self.block) < 1 or self.window < 0 or self.seed < 0:
            raise StoreError(f"batches cannot be made of {self}", next="Sizes are at least 1, seed and window 0")
        if not 0 <= self.rank < self.world:
            raise StoreError(f"there is no rank {self.rank} among {self.world}", next="Ranks count from 0")

    @property
    def steps(self) -> int:
        """Batches in an epoch; the last may be smaller than the others."""
        return -(-self.size // (self.batch * self.world))

    def indices(self, epoch: int, step: int) -> Rows:
        """Samples (n,) of one batch.

        Raises:
            StoreError: the epoch has no such step.
        """
        if epoch < 0 or not 0 <= step < self.steps:
            raise StoreError(f"epoch {epoch} has no step {step}", next=f"An epoch has {self.steps} steps, from 0")
        first = step * self.batch * self.world
        due = min(self.batch * self.world, self.size - first)
        mine = np.arange(first + due * self.rank // self.world, first + due * (self.rank + 1) // self.world)
        if not self.window:
            return permuted(mine, self.size, self.seed, epoch)
        windows = _windows(self.size, self.block, self.window, self.seed, epoch)
        numbers = np.searchsorted(windows.ends, mine, side="right")
        parts = [windows.samples(int(number), mine[numbers == number]) for number in np.unique(numbers)]
        return np.concatenate(parts) if parts else mine

    def window_of(self, epoch: int, step: int) -> int:
        """Number of the window that the step begins in."""
        if not self.window:
            return 0
        windows = _windows(self.size, self.block, self.window, self.seed, epoch)
        return int(np.searchsorted(windows.ends, step * self.batch * self.world, side="right"))

    def window_rows(self, epoch: int, number: int) -> Rows:
        """Samples of a window, in the order in which they lie; none beyond the last window."""
        if not self.window:
            return np.empty(0, np.int64)
        windows = _windows(self.size, self.block, self.window, self.seed, epoch)
        return windows.rows(number) if number < len(windows.ends) else np.empty(0, np.int64)


@dataclass(frozen=True)
class _Windows:
    """Windows of one epoch: 16 bytes for each block of the corpus."""

    size: int
    block: int
    window: int
    key: tuple[int, int]
    blocks: Rows
    """Blocks in the order in which they come."""
    ends: Rows
    """Position after the last of each window."""

    def samples(self, number: int, positions: Rows) -> Rows:
        """Samples at these positions, all in the window ``number``."""
        start = int(self.ends[number - 1]) if number else 0
        inside = permuted(positions - start, int(self.ends[number]) - start, *self.key, number)
        blocks = self._blocks(number)
        after = np.cumsum(self._sizes(blocks))
        place = np.searchsorted(after, inside, side="right")
        found: Rows = blocks[place] * self.block + inside - (after - self._sizes(blocks))[place]
        return found

    def rows(self, number: int) -> Rows:
        """Every sample of the window ``number``."""
        blocks = np.sort(self._blocks(number))
        rows: Rows = (blocks[:, None] * self.block + np.arange(self.block)).ravel()
        return rows[rows < self.size]

    def _blocks(self, number: int) -> Rows:
        return self.blocks[number * self.window : (number + 1) * self.window]

    def _sizes(self, blocks: Rows) -> Rows:
        sizes: Rows = np.minimum(self.block, self.size - blocks * self.block)
        return sizes


@lru_cache(maxsize=4)
def _windows(size: int, block: int, window: int, seed: int, epoch: int) -> _Windows:
    """Made again from its arguments by whoever needs it; kept only because it is asked for at every step."""
    count = -(-size // block)
    blocks = permuted(np.arange(count), count, seed, epoch)
    ends = np.cumsum(np.minimum(block, size - blocks * block))
    last = np.minimum(np.arange(window, count + window, window), count) - 1
    return _Windows(size, block, window, (seed, epoch), blocks, ends[last])


def will_need(
    store: FeatureStore,
    tables: Sequence[str],
    images: ArrayLike | None = None,
    texts: ArrayLike | None = None,
    *,
    view: int = 0,
) -> int:
    """Ask the system to read the blocks that hold these rows, without waiting for it.

    Args:
        store: an open store.
        tables: the teachers' fingerprints; one that has no features is passed over.
        images: rows of the images, usually those of ``Order.window_rows`` one window ahead.
        texts: rows of their captions.
        view: which view of the images.

    Returns:
        Bytes asked for.
    """
    towers: dict[str, Any] = {"image": images, "text": texts}
    rows = {name: as_rows(value) for name, value in towers.items() if value is not None}
    asked = [(table, tower, view if tower == "image" else 0) for table in tables for tower in rows]
    total = 0
    with store.reading(*asked) as (txn, columns):
        for (_, tower, _), one in zip(asked, columns, strict=True):
            for start, length in one.extents(txn, rows[tower]).tolist():
                one.files.will_need(start, length)
                total += length
    return total
