"""What a study found: a table with intervals over seeds, paired differences, and a paragraph in plain words.

A seed is one draw of everything that is random (weights, batches, drawn texts). Cells of one seed share stage 1, so
differences are taken seed by seed; their interval is Student's t over seeds. With three seeds it is wide, and says so.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from scipy import stats

Auc = Mapping[str, float]
"""Domain to AUC, as a fraction."""


@dataclass(frozen=True)
class Run:
    """One cell with one seed: test AUC by domain, and what else was counted."""

    cell: str
    seed: int
    auc: Auc
    counts: Mapping[str, float]
    """Such as trusted pairs, or the largest loss on the way."""

    @property
    def mean(self) -> float:
        """Over domains."""
        return float(np.mean(list(self.auc.values())))


@dataclass(frozen=True)
class Spread:
    """A mean over seeds with its 95 % interval; the bounds are None with one seed."""

    mean: float
    lower: float | None
    upper: float | None

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        """Student's t over seeds."""
        mean = float(np.mean(values))
        if len(values) < 2:
            return cls(mean, None, None)
        half = float(stats.t.ppf(0.975, len(values) - 1) * np.std(values, ddof=1) / np.sqrt(len(values)))
        return cls(mean, mean - half, mean + half)

    @property
    def decided(self) -> bool:
        """Whether 0 lies outside of the interval."""
        return self.lower is not None and self.upper is not None and (self.lower > 0 or self.upper < 0)


@dataclass(frozen=True)
class Row:
    """One cell over all seeds."""

    cell: str
    mean: Spread
    change: Spread | None
    """Of the mean AUC against the first cell, seed by seed; None for that cell."""
    domains: dict[str, Spread]
    changes: dict[str, Spread]
    counts: dict[str, float]
    seeds: tuple[int, ...]

    def to_json(self) -> dict[str, Any]:
        """Plain JSON."""
        return asdict(self)


def rows(runs: Sequence[Run], first: str) -> list[Row]:
    """A row per cell, in the order in which cells come among the runs; changes are against the cell ``first``."""
    by = {(run.cell, run.seed): run for run in runs}
    return [_row(cell, first, by) for cell in dict.fromkeys(run.cell for run in runs)]


def _row(cell: str, first: str, by: Mapping[tuple[str, int], Run]) -> Row:
    seeds = tuple(sorted(seed for name, seed in by if name == cell))
    mine = [by[cell, seed] for seed in seeds]
    domains = {domain: Spread.of([run.auc[domain] for run in mine]) for domain in mine[0].auc}
    paired = [(by[cell, seed], by[first, seed]) for seed in seeds if cell != first and (first, seed) in by]
    change = Spread.of([one.mean - other.mean for one, other in paired]) if paired else None
    changes = {d: Spread.of([one.auc[d] - other.auc[d] for one, other in paired]) for d in domains} if paired else {}
    counts = {name: float(np.mean([run.counts[name] for run in mine])) for name in mine[0].counts}
    return Row(cell, Spread.of([run.mean for run in mine]), change, domains, changes, counts, seeds)


def in_words(question: str, table: Sequence[Row]) -> str:
    """A paragraph: what was found, how sure it is, and what was not found."""
    first, others = table[0], [row for row in table[1:] if row.change is not None]
    seeds = len(first.seeds)
    said = [f"{question} With {seeds} seed{'s' if seeds != 1 else ''}, {first.cell} reaches {_points(first.mean)}."]
    sure = [row for row in others if row.change and row.change.decided]
    for row in sorted(sure, key=lambda row: row.change.mean if row.change else 0.0):
        assert row.change
        said.append(f"{row.cell} is {_change(row.change)} points {'better' if row.change.mean > 0 else 'worse'}.")
    unsure = [row for row in others if row not in sure]
    if unsure:
        named = ", ".join(f"{row.cell} ({100 * row.change.mean:+.1f})" for row in unsure if row.change)
        why = "one seed has no interval" if seeds < 2 else f"within what {seeds} seeds can tell apart"
        said.append(f"No difference was found for {named}: {why}.")
    hurt = [
        (row.cell, domain, spread)
        for row in others
        for domain, spread in row.changes.items()
        if spread.decided and row.change and (spread.mean > 0) != (row.change.mean > 0)
    ]
    for cell, domain, spread in hurt:
        said.append(f"Against the mean, {cell} is {_change(spread)} points {_way(spread)} in {domain}.")
    return " ".join(said)


def markdown(question: str, table: Sequence[Row]) -> str:
    """The paragraph and the table."""
    domains, counts = list(table[0].domains), list(table[0].counts)
    head = ["cell", "mean AUC", "against the first", *domains, *counts]
    lines = [head, ["---"] * len(head)]
    for row in table:
        cells = [row.cell, _points(row.mean), _points(row.change, sign=True) if row.change else ""]
        cells += [f"{100 * row.domains[domain].mean:.1f}" for domain in domains]
        lines.append([*cells, *(f"{row.counts[name]:,.4g}" for name in counts)])
    return f"{in_words(question, table)}\n\n" + "".join(f"| {' | '.join(line)} |\n" for line in lines)


def _points(spread: Spread, sign: bool = False) -> str:
    form = "+.1f" if sign else ".1f"
    if spread.lower is None or spread.upper is None:
        return f"{100 * spread.mean:{form}}"
    return f"{100 * spread.mean:{form}} ({100 * spread.lower:{form}} to {100 * spread.upper:{form}})"


def _change(spread: Spread) -> str:
    assert spread.lower is not None
    assert spread.upper is not None
    low, high = sorted((abs(spread.lower), abs(spread.upper)))
    return f"{100 * abs(spread.mean):.1f} ({100 * low:.1f} to {100 * high:.1f})"


def _way(spread: Spread) -> str:
    return "better" if spread.mean > 0 else "worse"
