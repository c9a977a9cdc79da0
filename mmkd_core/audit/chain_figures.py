"""The names for forgetting over a chain of releases: a table, which computes them, and which terminal and page read.

A figure is the mean over parts of something of the part's row R[1..T] of the matrix, with l the place of the release
that learnt the part and b the student before any teacher. Where less is better the signs of all but ACC are turned.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Row:
    """One part.

    Attributes:
        values: (T,) or, with resamples, (T, B).
        learnt: place of the release that learnt it.
        before: of the student before any teacher; 0 where there is none.
        sign: -1 where less is better.
    """

    values: Floats
    learnt: int
    before: float
    sign: float

    @property
    def best(self) -> Floats:
        """The best of the releases before the last that have the figure, negative where less is better."""
        earlier = self.values[:-1]
        return np.asarray(np.where(np.isfinite(earlier), self.sign * earlier, -np.inf).max(axis=0))


@dataclass(frozen=True)
class ChainFigure:
    """One name for forgetting.

    Attributes:
        name: in files.
        title: for people.
        words: what it is, for people.
        over: all parts, those that an earlier release learnt (``old``), or those that a later one did (``late``).
        of: its value for a part.
    """

    name: str
    title: str
    words: str
    over: Literal["all", "old", "late"]
    of: Callable[[Row], Floats]


ACC = ChainFigure("acc", "ACC", "mean of the newest release", "all", lambda row: row.values[-1])
BWT = ChainFigure(  # Lopez-Paz and Ranzato 2017, eq. 3
    "bwt",
    "BWT",
    "mean gain since a part was learnt",
    "old",
    lambda row: row.sign * (row.values[-1] - row.values[row.learnt]),
)
FWT = ChainFigure(  # the same, eq. 4
    "fwt",
    "FWT",
    "mean gain over the student before any teacher, in the release before the part's own",
    "late",
    lambda row: row.sign * (row.values[row.learnt - 1] - row.before),
)
MAX_LAST = ChainFigure(  # Chaudhry et al. 2018
    "forgetting_max_last",
    "forgetting, max - last",
    "best earlier release minus the newest, mean over parts",
    "old",
    lambda row: row.best - row.sign * row.values[-1],
)
FIRST_LAST = ChainFigure(  # Avalanche
    "forgetting_first_last",
    "forgetting, first - last",
    "when learnt minus the newest, mean over parts; minus BWT",
    "old",
    lambda row: row.sign * (row.values[row.learnt] - row.values[-1]),
)
CHAIN_FIGURES = (ACC, BWT, FWT, MAX_LAST, FIRST_LAST)
