"""Writes the page of a chain of releases: each family's matrix, every name for forgetting, and what is left of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from markupsafe import Markup

from mmkd_core.audit.chain_figures import CHAIN_FIGURES
from mmkd_core.report import figures, html
from mmkd_core.report.figures import HeatRow
from mmkd_core.report.words import signed

Facts = Mapping[str, Any]


class TableView:
    """The matrix of one metric."""

    def __init__(self, facts: Facts, releases: Sequence[str]) -> None:
        self.facts = facts
        self.title = f"{facts['family']}, {facts['metric']}"
        self.parts: Sequence[str] = list(facts["learnt"])
        self.releases = releases

    @cached_property
    def rows(self) -> list[tuple[str, list[tuple[float | None, bool]]]]:
        """By release: each part's value, and whether that release learnt it."""
        matrix, learnt = self.facts["matrix"], self.facts["learnt"]
        return [(name, [(matrix[name][p], learnt[p] == name) for p in self.parts]) for name in self.releases]

    @cached_property
    def heat(self) -> Markup:
        """The matrix of an AUC; the release that learnt a domain has an outline."""
        rows = [
            HeatRow(
                f"release {name}",
                {part: value for part, (value, _) in zip(self.parts, cells, strict=True)},
                self._mean([value for value, _ in cells]),
                {part: (1, 1) for part, (_, own) in zip(self.parts, cells, strict=True) if own},
            )
            for name, cells in self.rows
        ]
        return Markup(figures.heat_map([], rows, self.parts, uid="chain"))

    @cached_property
    def named(self) -> list[tuple[str, str, Facts | None]]:
        """Figure, definition, and its interval."""
        return [(known.title, known.words, self.facts["figures"][known.name]) for known in CHAIN_FIGURES]

    @staticmethod
    def _mean(values: Sequence[float | None]) -> float | None:
        known = [value for value in values if value is not None]
        return sum(known) / len(known) if known else None


class ChainView:
    """The facts of a chain (its JSON) as the template reads them."""

    def __init__(self, facts: Facts) -> None:
        self.facts = facts
        self.releases: Sequence[str] = facts["releases"]
        self.verdict = str(facts["verdict"])
        self.before_name, self.after_name = "when learnt", self.releases[-1]
        tables = [TableView(table, self.releases) for table in facts["tables"]]
        is_auc = (t for t in tables if (t.facts["family"], t.facts["metric"]) == ("zero-shot", "auc"))
        self.auc = next(is_auc, tables[0])  # without labels there is no AUC
        self.others = [table for table in tables if table is not self.auc]

    @cached_property
    def headline(self) -> str:
        """The verdict in a sentence."""
        count = len(self.releases)
        hurt = [row for row in self.facts["comparisons"] if row["gates"] and row["verdict"] == self.verdict]
        told = [f"{row['family']} {row['part']} {signed(row['delta'])}" for row in hurt]
        told += [f"{row['family']} {row['part']} not compared" for row in self.facts["undefined"] if row["verdict"]]
        named = "; ".join(told[:4])
        if self.verdict == "PASS":
            return f"Over {count} releases, nothing lost more than its margin since it was learnt."
        if self.verdict == "FAIL":
            return f"Over {count} releases too much was forgotten: {named}."
        return f"The test data cannot show that {count} releases forgot nothing: {named or 'nothing that decides'}."

    def compared(self, gates: bool) -> dict[str, list[Facts]]:
        """Comparisons by family and metric: those that decide, or those that are only reported."""
        found: dict[str, list[Facts]] = {}
        for row in self.facts["comparisons"]:
            if row["gates"] == gates:
                found.setdefault(f"{row['family']}, {row['metric']}", []).append(row)
        return found


def write_chain(facts: Facts, out: Path) -> Path:
    """Write the page of a chain to ``out``, whole or not at all, and return its path."""
    return html.write(render_chain(facts), out, "the page of the chain")


def render_chain(facts: Facts) -> str:
    """The page as a string."""
    return html.render("chain.html.j2", v=ChainView(html.cleaned(facts)))
