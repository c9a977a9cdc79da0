"""Writes the page of a chain of releases: the matrix, every name for forgetting, and what is left of each domain."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from markupsafe import Markup

from mmkd_core.report import figures, html
from mmkd_core.report.figures import HeatRow
from mmkd_core.report.words import signed

Facts = Mapping[str, Any]

NAMES = {
    "acc": ("ACC", "mean AUC of the newest release"),
    "bwt": ("BWT", "mean change since a domain was learnt"),
    "fwt": ("FWT", "mean gain over the student before any teacher, in the release before the domain’s own"),
    "forgetting_max_last": ("Forgetting, max − last", "best earlier release minus the newest, mean over domains"),
    "forgetting_first_last": ("Forgetting, first − last", "when learnt minus the newest, mean over domains; minus BWT"),
}


class ChainView:
    """The facts of a chain (its JSON) as the template reads them."""

    def __init__(self, facts: Facts) -> None:
        self.facts = facts
        self.releases: Sequence[str] = facts["releases"]
        self.verdict = str(facts["verdict"])
        self.before_name, self.after_name = "when learnt", self.releases[-1]

    @cached_property
    def headline(self) -> str:
        """The verdict in a sentence."""
        count = len(self.releases)
        hurt = [row for row in self.facts["comparisons"] if row["verdict"] == self.verdict]
        named = "; ".join(f"{row['part']} {signed(row['delta'])}" for row in hurt[:4])
        if self.verdict == "PASS":
            return f"Over {count} releases, no domain lost more than its margin since it was learnt."
        if self.verdict == "FAIL":
            return f"Over {count} releases too much was forgotten: {named}."
        return f"The test data cannot show that {count} releases forgot nothing: {named}."

    @cached_property
    def heat(self) -> Markup:
        """The matrix; the release that learnt a domain has an outline."""
        rows = [
            HeatRow(
                f"release {name}",
                self.facts["matrix"][name],
                sum(self.facts["matrix"][name].values()) / len(self.facts["matrix"][name]),
                {domain: (1, 1) for domain, learnt in self.facts["learnt"].items() if learnt == name},
            )
            for name in self.releases
        ]
        return Markup(figures.heat_map([], rows, list(self.facts["learnt"]), uid="chain"))

    @cached_property
    def named(self) -> list[tuple[str, str, Facts | None]]:
        """Figure, definition, and its interval."""
        return [(*words, self.facts["figures"][key]) for key, words in NAMES.items()]


def write_chain(facts: Facts, out: Path) -> Path:
    """Write the page of a chain to ``out``, whole or not at all, and return its path."""
    return html.write(render_chain(facts), out, "the page of the chain")


def render_chain(facts: Facts) -> str:
    """The page as a string."""
    return html.render("chain.html.j2", v=ChainView(html.cleaned(facts)))
