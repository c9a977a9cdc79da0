"""Writes the page of an audit: verdict, every comparison, the images that got worse, drift. One file, no network.

Images are inside the file, small. They are the images of patients: the page must be kept like the data.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from markupsafe import Markup

from mmkd_core.report import figures, html
from mmkd_core.report.figures import MEAN, ForestRow
from mmkd_core.report.words import signed

SHOWN = 36
"""Cards on the page; all of them are in the JSON."""

Facts = Mapping[str, Any]


class AuditView:
    """The facts of an audit (its JSON) as the template reads them.

    Args:
        facts: what ``0002-against-0001.json`` holds.
        pictures: JPEG bytes by sample id; a sample without one is shown in words.
    """

    def __init__(self, facts: Facts, pictures: Mapping[str, bytes]) -> None:
        self.facts, self._pictures = facts, pictures
        self.rows: Sequence[Facts] = facts["comparisons"]
        self.verdict = str(facts["verdict"])
        self.candidate, self.parent = facts["candidate"], facts["parent"]
        self.before_name, self.after_name = self.parent, self.candidate

    @cached_property
    def gating(self) -> list[Facts]:
        """Comparisons that have a part in the verdict."""
        return [row for row in self.rows if row["gates"]]

    @cached_property
    def open(self) -> list[Facts]:
        """Those that keep the audit from passing, the failed ones first."""
        found = [row for row in self.gating if row["verdict"] != "PASS"]
        return sorted(found, key=lambda row: row["verdict"] != "FAIL")

    @cached_property
    def blocking(self) -> list[Facts]:
        """Comparisons that decide and could be made, and were not."""
        return [row for row in self.facts["undefined"] if row["verdict"]]

    @cached_property
    def beyond(self) -> list[Facts]:
        """Comparisons that would decide, and that no model can be measured by on these data."""
        return [row for row in self.facts["undefined"] if row["gates"] and not row["verdict"]]

    @cached_property
    def kept(self) -> int:
        """Gating comparisons that passed."""
        return len(self.gating) - len(self.open)

    @cached_property
    def headline(self) -> str:
        """The verdict in one or two short sentences."""
        hurt = [row for row in self.open if row["verdict"] == self.verdict]
        named = "; ".join(f"{row['metric']} {row['part']} {signed(row['delta'])}" for row in hurt[:3])
        more = f" and {len(hurt) - 3} more" if len(hurt) > 3 else ""
        if self.verdict == "PASS":
            return f"Release {self.candidate} kept what {self.parent} knew."
        if self.verdict == "FAIL":
            return f"Release {self.candidate} forgot too much: {named}{more}."
        if not self.open:
            lacking = "; ".join(f"{row['metric']} {row['part']}" for row in self.blocking[:3])
            return f"What release {self.candidate} kept could not all be compared: {lacking}."
        return f"The test data cannot show that release {self.candidate} forgot nothing: {named}{more}."

    @cached_property
    def lead(self) -> str:
        """One sentence under the headline."""
        names = ", ".join(f"{row['metric']} {row['part']}" for row in self.beyond)
        beyond = f" These data cannot decide {names}." if names else ""
        if self.verdict == "PASS":
            kept = f"All {len(self.gating)} comparisons that decide were shown to lose less than their margins."
            return kept + beyond
        needed = [row["needed"] for row in self.open if row["needed"]]
        more = f" At most {max(needed):,} more samples would decide each of the others." if needed else ""
        kept = f"{self.kept} of {len(self.gating)} comparisons that decide were shown to lose less than their margins."
        lacking = f" {len(self.blocking)} could not be made." if self.blocking else ""
        return kept + more + lacking + beyond

    @cached_property
    def means(self) -> list[tuple[str, Facts]]:
        """Changes of the means over domains, by what decides of them."""
        names = {"auc": "AUC", "balanced_accuracy": "balanced accuracy", "brier": "Brier score"}
        rows = {row["metric"]: row for row in self.rows if row["part"] == MEAN}
        return [(title, rows[name]) for name, title in names.items() if name in rows]

    @cached_property
    def mean(self) -> Facts | None:
        """The change of the mean AUC."""
        return next((row for row in self._auc if row["part"] == MEAN), None)

    @cached_property
    def nearest(self) -> Facts:
        """The gating comparison whose lower bound lies nearest to its margin, or farthest beyond it."""
        return min(self.gating or self.rows, key=lambda row: row["lower"] / row["margin"])

    @cached_property
    def _auc(self) -> list[Facts]:
        return [row for row in self.rows if (row["family"], row["metric"]) == ("zero-shot", "auc")]

    @cached_property
    def forest(self) -> dict[str, Markup]:
        """The change of AUC by domain, wide and narrow; empty where no image has a label."""
        if not self._auc:
            return {}
        rows = [_forest_row(row) for row in self._auc if row["part"] != MEAN]
        mean = _forest_row(self.mean) if self.mean else None
        margin = self._auc[0]["margin"]
        return {
            name: Markup(figures.forest_plot(rows, mean, margin, uid=f"audit-{name}", width=width))
            for name, width in (("wide", 880), ("narrow", 430))
        }

    def families(self, gates: bool) -> dict[str, list[Facts]]:
        """Comparisons by family and metric."""
        found: dict[str, list[Facts]] = {}
        for row in self.rows:
            if row["gates"] is gates:
                found.setdefault(f"{row['family']}, {row['metric']}", []).append(row)
        return found

    @cached_property
    def flips(self) -> tuple[int, int]:
        """First choices that turned right, and wrong."""
        parts = self.facts["flips"].values()
        return sum(len(part["positive"]) for part in parts), sum(len(part["negative"]) for part in parts)

    @cached_property
    def cards(self) -> Sequence[Facts]:
        """The cards that are shown."""
        cards: Sequence[Facts] = self.facts["cards"]
        return cards[:SHOWN]

    def picture(self, sample: str | None) -> str | None:
        """A data URI of a sample."""
        found = self._pictures.get(sample or "")
        return f"data:image/jpeg;base64,{base64.b64encode(found).decode()}" if found else None

    @cached_property
    def drift(self) -> list[tuple[str, Facts]]:
        """Rows of the table of drift."""
        table = self.facts["drift"]
        whole = [("all images", table["images"]), ("all captions", table["texts"])]
        return [*whole, *table["domains"].items()]

    @cached_property
    def rules(self) -> list[tuple[str, str, Facts]]:
        """Family, metric and rule of the gate."""
        families = self.facts["gate"]["families"]
        return [(family, metric, rule) for family, rules in families.items() for metric, rule in rules.items()]


def write_audit(facts: Facts, pictures: Mapping[str, bytes], out: Path) -> Path:
    """Write the page of an audit to ``out``, whole or not at all, and return its path."""
    return html.write(render_audit(facts, pictures), out, "the page of the audit")


def render_audit(facts: Facts, pictures: Mapping[str, bytes]) -> str:
    """The page as a string."""
    return html.render("audit.html.j2", v=AuditView(html.cleaned(facts), pictures), number=_number, sure=_sure)


def _number(value: float | None, digits: int = 2) -> str:
    return "–" if value is None else f"{value:.{digits}f}"


def _sure(value: float) -> str:
    return f"{100 * value:.0f}\N{NO-BREAK SPACE}%"


def _forest_row(row: Facts) -> ForestRow:
    keys = ("delta", "lower", "upper", "n", "groups", "verdict", "needed")
    return ForestRow(row["part"], *(row[key] for key in keys))
