"""What a run really did: which samples its steps drew, and which of them each source taught.

Batches and turns are functions of the step, so this is read off them when the run is over, however often it was killed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from mmkd_core.distill.sources import Mask, Source
from mmkd_core.student.batches import Rows


@dataclass(frozen=True)
class Lessons:
    """Samples of a run over a corpus of N.

    Attributes:
        drawn: (N,) samples that stood in a batch; empty without any source.
        taught: by source the number of distinct samples that it taught.
    """

    drawn: Mask
    taught: Mapping[str, int]


class Teaching(Protocol):
    """An objective, as far as it decides which source teaches which sample."""

    def teaching(self, rows: Rows, step: int) -> Mask:
        """(T, B) samples that each source teaches in a step."""


def lessons(objective: Teaching, sources: Sequence[Source], batches: Callable[[int], Rows], steps: int) -> Lessons:
    """Read off the first ``steps`` steps what was drawn and taught."""
    samples = len(sources[0].mask) if sources else 0
    drawn, taught = np.zeros(samples, bool), np.zeros((len(sources), samples), bool)
    for step in range(steps if sources else 0):
        rows = batches(step)
        drawn[rows] = True
        taught[:, rows] |= objective.teaching(rows, step)
    return Lessons(drawn, {source.name: int(mine.sum()) for source, mine in zip(sources, taught, strict=True)})
