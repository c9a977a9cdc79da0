"""Is a candidate still as good as its parent? Paired non-inferiority tests, resampled by patient, and one verdict.

A rule on point estimates passes a true loss of the size of the margin about half of the time. Here PASS means that
each gating figure is shown to have lost less than its margin, FAIL that one is shown to have lost more, and
INCONCLUSIVE says how many more samples would decide.

Does not: repair, promote or write anything. It reads what two models said about the same samples.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from mmkd_core.audit.comparison import Comparison, Undefined, Verdict, judge, overall
from mmkd_core.audit.evidence import Evidence
from mmkd_core.audit.gate import Gate
from mmkd_core.audit.measure import measured
from mmkd_core.evaluate.predictions import DomainPredictions

SCHEMA = "mmkd.audit/v2"


@dataclass(frozen=True)
class Flips:
    """Samples of one domain whose first choice turned right or wrong."""

    positive: tuple[str, ...]
    """Sample ids that the parent got wrong and the candidate gets right."""
    negative: tuple[str, ...]
    """Sample ids that the parent got right and the candidate gets wrong."""


@dataclass(frozen=True)
class ForgettingAudit:
    """The comparison of a candidate with its parent, and its verdict."""

    comparisons: tuple[Comparison, ...]
    flips: dict[str, Flips]
    """By domain."""
    gate: Gate
    undefined: tuple[Undefined, ...] = ()
    """Comparisons that were not made, and why."""

    @property
    def verdict(self) -> Verdict:
        """``comparison.overall``."""
        return overall(self.comparisons, self.undefined)

    @property
    def exit_code(self) -> int:
        """That of the verdict."""
        return self.verdict.exit_code

    def __getitem__(self, key: tuple[str, str, str]) -> Comparison:
        """One comparison by family, metric and part."""
        return next(row for row in self.comparisons if row.key == key)

    def family(self, family: str, metric: str) -> dict[str, Comparison]:
        """Comparisons of one metric by part."""
        return {row.part: row for row in self.comparisons if (row.family, row.metric) == (family, metric)}

    @property
    def blocking(self) -> list[Undefined]:
        """Comparisons that decide and could be made, and were not."""
        return [row for row in self.undefined if row.verdict]

    @property
    def open(self) -> list[Comparison]:
        """Gating comparisons that keep the audit from passing: the failed ones first."""
        found = [row for row in self.comparisons if row.gates and row.verdict is not Verdict.PASS]
        return sorted(found, key=lambda row: row.verdict is not Verdict.FAIL)

    def to_json(self) -> dict[str, Any]:
        """Plain JSON; ``from_json`` reads it back."""
        return {
            "schema": SCHEMA,
            "verdict": self.verdict.value,
            "exit_code": self.exit_code,
            "gate": {"hash": self.gate.hash, **self.gate.model_dump(mode="json", by_alias=True)},
            "comparisons": [row.to_json() for row in self.comparisons],
            "flips": {d: {"positive": [*f.positive], "negative": [*f.negative]} for d, f in self.flips.items()},
            "undefined": [row.to_json() for row in self.undefined],
        }

    @classmethod
    def from_json(cls, facts: Mapping[str, Any]) -> ForgettingAudit:
        """Read what ``to_json`` wrote."""
        settings = {key: value for key, value in facts["gate"].items() if key != "hash"}
        flips = {d: Flips(tuple(f["positive"]), tuple(f["negative"])) for d, f in facts["flips"].items()}
        rows = tuple(Comparison.from_json(row) for row in facts["comparisons"])
        undefined = tuple(Undefined.from_json(row) for row in facts["undefined"])
        return cls(rows, flips, Gate.model_validate(settings), undefined)


def forgetting(candidate: Evidence, parent: Evidence, gate: Gate | None = None) -> ForgettingAudit:
    """Compare two models on the same samples, with the same resamples of groups for both and for all metrics.

    What only the candidate was measured by (a new domain, the head of a new teacher) cannot have been forgotten and is
    passed over. What only the parent was measured by is a comparison that cannot be made.

    Args:
        candidate: what the new model said, in any order of samples.
        parent: what the one said that it is to replace.
        gate: margins, confidence, resamples and seed.

    Raises:
        AuditError: samples, labels, groups, classes or protocols differ, or the data allow no comparison that decides.
    """
    gate = gate or Gate()
    found = measured(candidate, parent, gate)
    flips = {domain: _flips(*pair) for domain, pair in found.pairs.items()}
    return ForgettingAudit(tuple(judge(found.rows, gate)), flips, gate, found.undefined)


def _flips(new: DomainPredictions, old: DomainPredictions) -> Flips:
    was, now = old.right, new.right
    names = old.sample_id.astype(str)
    return Flips(tuple(names[~was & now].tolist()), tuple(names[was & ~now].tolist()))
