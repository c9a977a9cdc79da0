"""Does the audit raise false alarms on this very test split? An A/A test: two copies between which nothing was lost.

What a release would be with another seed cannot be known without training it again. What can be known is how the audit
treats two models that differ as much as these two do, without either being better: for each patient a coin decides
which of two copies gets the answers of the release and which those of its parent. The copies are alike by construction,
they disagree on as many samples, their patients and classes are those of the split, and the resamples have another seed
each time. A FAIL is then a false alarm, and an interval that excludes zero is an error of its own.

Not covered: the scatter of training itself. For that, train once more with another seed and name that release with
``--against``.
"""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from mmkd_core.audit.comparison import Verdict
from mmkd_core.audit.evidence import Evidence, SampleValues
from mmkd_core.audit.forgetting import forgetting
from mmkd_core.audit.gate import Gate
from mmkd_core.audit.pairing import paired_domains, paired_values
from mmkd_core.evaluate.predictions import DomainPredictions, Predictions
from mmkd_core.progress import Progress, Silent
from mmkd_core.statistics import wilson_lower

ROUNDS = 200


@dataclass(frozen=True)
class Rate:
    """A share with its 95 % interval."""

    share: float
    lower: float
    upper: float
    nominal: float


@dataclass(frozen=True)
class SelfTest:
    """What the audit said about two copies that are alike."""

    rounds: int
    verdicts: dict[str, int]
    false_alarms: Rate
    """Rounds with a FAIL; Wilson's interval; at most alpha by design (Holm over all gating comparisons)."""
    excluded: dict[str, Rate]
    """By family and metric: intervals that exclude zero, mean over rounds; 1 - confidence by design."""
    gate: str
    """Hash."""

    @property
    def passed(self) -> bool:
        """Whether the rate of false alarms is not shown to be above what the gate promises."""
        return self.false_alarms.lower <= self.false_alarms.nominal

    def to_json(self) -> dict[str, Any]:
        """Plain JSON."""
        return {"schema": "mmkd.self-test/v1", "passed": self.passed, **asdict(self)}


def self_test(
    candidate: Evidence, parent: Evidence, gate: Gate, rounds: int = ROUNDS, progress: Progress | None = None
) -> SelfTest:
    """Audit two copies that are dealt anew in each round.

    Raises:
        AuditError: the two models cannot be compared.
    """
    verdicts: Counter[str] = Counter()
    excluded: dict[str, list[float]] = {}
    with (progress or Silent()).task("self-test: audits of alike copies", rounds, "audits") as advance:
        for number in range(rounds):
            copies = deal(candidate, parent, np.random.default_rng([gate.seed, number]))
            found = forgetting(*copies, gate.model_copy(update={"seed": gate.seed + 1 + number}))
            verdicts[found.verdict.value] += 1
            outside: dict[str, list[bool]] = {}
            for row in found.comparisons:
                if row.family != "flips":  # whose change is a share of flips, which copies have
                    outside.setdefault(f"{row.family} {row.metric}", []).append(not row.lower <= 0 <= row.upper)
            for name, marks in outside.items():
                excluded.setdefault(name, []).append(float(np.mean(marks)))
            advance(1)
    failed = verdicts[Verdict.FAIL.value]
    rate = Rate(
        failed / rounds,
        wilson_lower(failed, rounds, 0.975),
        1 - wilson_lower(rounds - failed, rounds, 0.975),
        gate.alpha,
    )
    return SelfTest(
        rounds, dict(verdicts), rate, {name: _rate(shares, gate) for name, shares in excluded.items()}, gate.hash
    )


def deal(candidate: Evidence, parent: Evidence, rng: np.random.Generator) -> tuple[Evidence, Evidence]:
    """Two copies: of each group one gets the candidate's answers and the other the parent's, by a coin."""
    pairs = paired_domains(candidate.predictions, parent.predictions)
    both = [key for key in parent.outcomes if key in candidate.outcomes]
    outcomes = {key: paired_values(" ".join(key), candidate.outcomes[key], parent.outcomes[key]) for key in both}
    groups = {str(g) for _, old in pairs.values() for g in old.group_id}
    groups |= {str(g) for _, old in outcomes.values() for g in old.group_id}
    heads = {group: bool(coin) for group, coin in zip(sorted(groups), rng.integers(0, 2, len(groups)), strict=True)}
    copies = []
    for swap in (False, True):
        parts = {domain: _mixed(new, old, heads, swap) for domain, (new, old) in pairs.items()}
        mixed = {key: _mixed_values(new, old, heads, swap) for key, (new, old) in outcomes.items()}
        copies.append(Evidence(Predictions(parts, parent.predictions.protocol), mixed))
    return copies[0], copies[1]


def _mixed(new: DomainPredictions, old: DomainPredictions, heads: dict[str, bool], swap: bool) -> DomainPredictions:
    mine = np.array([heads[str(group)] != swap for group in old.group_id], dtype=bool)
    return replace(old, logits=np.where(mine[:, None], new.logits, old.logits))


def _mixed_values(new: SampleValues, old: SampleValues, heads: dict[str, bool], swap: bool) -> SampleValues:
    mine = np.array([heads[str(group)] != swap for group in old.group_id], dtype=bool)
    return replace(old, values=np.where(mine, new.values, old.values))


def _rate(shares: list[float], gate: Gate) -> Rate:
    """Comparisons of one round go together, rounds do not: the interval is over rounds."""
    mean, error = float(np.mean(shares)), float(np.std(shares)) / math.sqrt(len(shares))
    return Rate(mean, max(0.0, mean - 1.96 * error), min(1.0, mean + 1.96 * error), 1 - gate.confidence)
