"""Which caption of a sample a step reads: one drawn from all that it has, the same for everybody who asks.

Captions of N samples are numbered like ``Corpus.texts``: caption i < N is the first of sample i, the further ones
follow, sample after sample. So a corpus with one caption each needs no index.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mmkd_core.data.manifest import Corpus
from mmkd_core.student.batches import Rows

_MIX = ((np.uint64(30), np.uint64(0xBF58476D1CE4E5B9)), (np.uint64(27), np.uint64(0x94D049BB133111EB)))
"""Shifts and multipliers of SplitMix64."""


@dataclass(frozen=True, eq=False)
class Captions:
    """The further captions of N samples.

    Attributes:
        offsets: (N + 1,) those of sample i are the captions from N + offsets[i] to N + offsets[i + 1]; None where every
            sample has one caption.
    """

    offsets: Rows | None = None

    @classmethod
    def of(cls, corpus: Corpus) -> Captions:
        """The index of a corpus."""
        further = corpus.owners[len(corpus) :]
        return cls(np.searchsorted(further, np.arange(len(corpus) + 1)) if len(further) else None)

    def drawn(self, samples: Rows, seed: int, step: int) -> Rows:
        """Numbers (B,) of one caption of each of ``samples`` (B,): a function of (seed, step, sample) alone."""
        if self.offsets is None:
            return samples
        start, end = self.offsets[samples], self.offsets[samples + 1]
        key = np.uint64(np.random.SeedSequence([seed, step, 4]).generate_state(1, np.uint64)[0])
        place = (_mixed(key + samples.astype(np.uint64)) % (end - start + 1).astype(np.uint64)).astype(np.int64)
        return np.where(place == 0, samples, len(self.offsets) - 2 + start + place)


ONE_EACH = Captions()


def _mixed(words: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Spread each word evenly over all of them."""
    words = words * np.uint64(0x9E3779B97F4A7C15)
    for shift, factor in _MIX:
        words = (words ^ (words >> shift)) * factor
    return words ^ (words >> np.uint64(31))
