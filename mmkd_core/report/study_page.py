"""Writes the page of a study: what was asked, what was found, every cell by domain, and every run behind it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from markupsafe import Markup

from mmkd_core.report import html
from mmkd_core.report.figures import HeatRow, heat_map
from mmkd_core.report.forest import ForestRow, ForestWords, forest_plot
from mmkd_core.study.findings import Row, Run, Spread, in_words, rows

Facts = Mapping[str, Any]


class StudyView:
    """A study as the template reads it.

    Args:
        facts: name, question, cells (name to what is different in it) and ``asked`` (its runs, finished or not).
        runs: those that are finished, of the first cell at least one.
    """

    def __init__(self, facts: Facts, runs: Sequence[Run]) -> None:
        self.name, self.question = str(facts["name"]), str(facts["question"])
        self.cells: Mapping[str, str] = facts["cells"]
        self.asked = len(facts["asked"])
        self.runs = sorted(runs, key=lambda run: (list(self.cells).index(run.cell), run.seed))
        self.first = next(iter(self.cells))
        self.table = rows(self.runs, self.first)

    @cached_property
    def command(self) -> str:
        """What runs the study, or goes on with it."""
        return f"mmkd study {self.name.replace('-', ' ', 1)} --seeds {self.asked // len(self.cells)}"

    @cached_property
    def words(self) -> str:
        """What was found and what was not, without the question, which is the headline."""
        return in_words(self.question, self.table).removeprefix(self.question).strip()

    @cached_property
    def seeds(self) -> list[int]:
        """All that a finished run has."""
        return sorted({run.seed for run in self.runs})

    @cached_property
    def domains(self) -> list[str]:
        """In the order of the data."""
        return list(self.table[0].domains)

    @cached_property
    def counts(self) -> list[str]:
        """What else was counted, such as trusted pairs."""
        return list(self.table[0].counts)

    @cached_property
    def forest(self) -> dict[str, Markup]:
        """The change of the mean by cell, wide and narrow; empty where there is nothing to compare."""
        if len(self.table) < 2:
            return {}
        sizes = (("wide", 880), ("narrow", 430))
        return {name: Markup(changes_plot(self.table, f"study-{name}", width)) for name, width in sizes}

    @cached_property
    def heat(self) -> Markup:
        """Mean AUC of every cell by domain."""
        found = [HeatRow(row.cell, {d: s.mean for d, s in row.domains.items()}, row.mean.mean) for row in self.table]
        return Markup(heat_map([], found, self.domains, uid="study-heat", students_are="Cell"))


def changes_plot(table: Sequence[Row], uid: str, width: int = 880) -> str:
    """The change of the mean AUC of each cell against the first, with its interval over seeds."""
    shown = [
        ForestRow(row.cell, c.mean, c.lower, c.upper, len(row.seeds), None, verdict(c))
        for row in table
        if (c := row.change)
    ]
    words = ForestWords(f"Change of mean AUC against {table[0].cell}", "seeds", "")
    return forest_plot(shown, None, None, uid, width, words)


def verdict(change: Spread) -> str:
    """BETTER or WORSE where the interval is clear of 0, OPEN where it is not; nothing without an interval."""
    if change.lower is None:
        return ""
    if not change.decided:
        return "OPEN"
    return "BETTER" if change.mean > 0 else "WORSE"


def write_study(facts: Facts, runs: Sequence[Run], out: Path) -> Path:
    """Write the page of a study to ``out``, whole or not at all, and return its path."""
    return html.write(render_study(facts, runs), out, "the page of the study")


def render_study(facts: Facts, runs: Sequence[Run]) -> str:
    """The page as a string."""
    return html.render("study.html.j2", v=StudyView(html.cleaned(facts), runs), verdict=verdict)
