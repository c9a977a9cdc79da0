"""Writes the page of an audit of trust: claims beside measurements, pairs by threshold, and the students of a study."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from markupsafe import Markup

from mmkd_core.audit.comparison import Verdict
from mmkd_core.audit.trust import FINDINGS
from mmkd_core.report import html
from mmkd_core.report.curves import share_panel
from mmkd_core.report.forest import ForestRow, ForestWords, forest_plot

Facts = Mapping[str, Any]


class SweepView:
    """What other thresholds admit and make of the student, as both pages show it.

    Args:
        facts: ``sweep`` (``thresholds``; ``teachers`` by name and domain) and ``students`` of the JSON of an audit.
    """

    def __init__(self, facts: Facts) -> None:
        self.teachers: Facts = facts["sweep"]["teachers"]
        self.thresholds: Sequence[float] = facts["sweep"]["thresholds"]
        self.students: Facts = facts["students"]
        self.threshold = float(facts["threshold"])

    @cached_property
    def pairs(self) -> list[tuple[str, int]]:
        """Trusted pairs of all teachers by threshold; the last is where no rule is applied."""
        cells = [cell for domains in self.teachers.values() for cell in domains.values()]
        counted = [sum(cell["admitted"][i] for cell in cells) for i in range(len(self.thresholds))]
        named = [(f"{threshold:.2f}", count) for threshold, count in zip(self.thresholds, counted, strict=True)]
        return [*named[::10], ("no rule", sum(cell["everyone"] for cell in cells))]

    @cached_property
    def panels(self) -> list[Markup]:
        """One per teacher: the share of the training samples that it would teach, in all and by domain."""
        drawn = []
        for number, (name, domains) in enumerate(self.teachers.items()):
            of = sum(cell["of"] for cell in domains.values()) or 1
            whole = [sum(c["admitted"][i] for c in domains.values()) / of for i in range(len(self.thresholds))]
            parts = {d: [count / c["of"] for count in c["admitted"]] for d, c in domains.items() if c["of"]}
            drawn.append(Markup(share_panel(name, self.thresholds, whole, parts, self.threshold, f"sweep-{number}")))
        return drawn

    @cached_property
    def changes(self) -> Markup | None:
        """Change of the student's mean AUC against the default threshold, where seeds give it an interval."""
        changed = [(row["cell"], row["change"], len(row["seeds"])) for row in self.students["rows"] if row["change"]]
        shown = [ForestRow(cell, c["mean"], c["lower"], c["upper"], seeds, None, "") for cell, c, seeds in changed]
        words = ForestWords("Change of mean AUC against threshold 0.90", "seeds", "")
        return Markup(forest_plot(shown, None, None, uid="students", words=words)) if shown else None


class TrustView:
    """The facts of an audit of trust (its JSON) as the template reads them."""

    def __init__(self, facts: Facts) -> None:
        self.facts = facts
        self.verdict = str(facts["verdict"] or "no verdict")
        self.sweep = SweepView(facts) if "sweep" in facts else None

    @cached_property
    def rows(self) -> dict[str, list[Facts]]:
        """Rows of the table by teacher."""
        found: dict[str, list[Facts]] = {}
        for row in self.facts["rows"]:
            found.setdefault(row["teacher"], []).append(row)
        return found

    @cached_property
    def headline(self) -> str:
        """The verdict in a sentence."""
        worst = next((finding for finding in FINDINGS.values() if finding.name in self.found), None)
        if worst is None or worst.verdict is None:
            return "No teacher claims anything, so there is nothing to compare with."
        if worst.verdict is Verdict.PASS:
            return "No teacher claims more than it does here."
        named = "; ".join(self.found[worst.name][:4])
        return f"{worst.words[:1].upper()}{worst.words[1:]}: {named}."

    @cached_property
    def found(self) -> dict[str, list[str]]:
        """Teachers and domains by finding."""
        named: dict[str, list[str]] = {}
        for row in self.facts["rows"]:
            named.setdefault(row["finding"], []).append(f"{row['teacher']} in {row['domain']}")
        return named

    def classed(self, finding: str) -> str:
        """The style of a finding in the table."""
        verdict = FINDINGS[finding].verdict
        return "" if verdict in (None, Verdict.PASS) else verdict.mark


def write_trust(facts: Facts, out: Path) -> Path:
    """Write the page of an audit of trust to ``out``, whole or not at all, and return its path."""
    return html.write(render_trust(facts), out, "the page of the audit")


def render_trust(facts: Facts) -> str:
    """The page as a string."""
    return html.render("trust.html.j2", v=TrustView(html.cleaned(facts)))
