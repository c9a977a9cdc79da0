"""Is a candidate still as good as its parent? Paired non-inferiority tests, resampled by patient, and one verdict.

A rule on point estimates passes a true loss of the size of the margin about half of the time. Here PASS means that
each gating figure is shown to have lost less than its margin, FAIL that one is shown to have lost more, and
INCONCLUSIVE says how many more samples would decide.

Does not: repair, promote or write anything. It reads what two models said about the same samples.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mmkd_core.audit.comparison import MEAN, Comparison, Unjudged, Verdict, judge
from mmkd_core.audit.evidence import Evidence, Key, SampleValues
from mmkd_core.audit.gate import Gate
from mmkd_core.audit.pairing import SAME, AuditError, paired_domains, paired_values
from mmkd_core.evaluate.metrics import METRICS
from mmkd_core.evaluate.predictions import DomainPredictions
from mmkd_core.evaluate.summary import mean_draws, status
from mmkd_core.statistics import Change, GroupBootstrap, paired_shares, resampled

SCHEMA = "mmkd.audit/v1"
Floats = NDArray[np.float64]
Pair = tuple[DomainPredictions, DomainPredictions]


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
    undefined: dict[str, str] = field(default_factory=dict)
    """What could not be compared (domains without an AUC, teachers without features), and why."""

    @property
    def verdict(self) -> Verdict:
        """FAIL if any gating comparison fails, else INCONCLUSIVE if any is or none could be made, else PASS."""
        gating = [row.verdict for row in self.comparisons if row.gates]
        return Verdict.of(gating) if gating else Verdict.INCONCLUSIVE

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
            "undefined": dict(self.undefined),
        }

    @classmethod
    def from_json(cls, facts: Mapping[str, Any]) -> ForgettingAudit:
        """Read what ``to_json`` wrote."""
        settings = {key: value for key, value in facts["gate"].items() if key != "hash"}
        flips = {d: Flips(tuple(f["positive"]), tuple(f["negative"])) for d, f in facts["flips"].items()}
        rows = tuple(Comparison.from_json(row) for row in facts["comparisons"])
        return cls(rows, flips, Gate.model_validate(settings), dict(facts["undefined"]))


def forgetting(candidate: Evidence, parent: Evidence, gate: Gate | None = None) -> ForgettingAudit:
    """Compare two models on the same samples, with the same resamples of groups for both and for all metrics.

    Domains that only the candidate was measured on cannot have been forgotten and are passed over, and so is what only
    one of the two could be measured on (the head of a teacher that is new).

    Args:
        candidate: what the new model said, in any order of samples.
        parent: what the one said that it is to replace.
        gate: margins, confidence, resamples and seed.

    Raises:
        AuditError: samples, labels, groups, classes or protocols differ, or nothing that decides can be measured:
            no domain has an AUC, and neither retrieval nor fidelity is known.
    """
    gate = gate or Gate()
    found = measured(candidate, parent, gate)
    flips = {domain: _flips(*pair) for domain, pair in found.pairs.items()}
    return ForgettingAudit(tuple(judge(found.rows, gate)), flips, gate, found.undefined)


@dataclass(frozen=True, eq=False)
class Compared:
    """Everything that was measured of two models, before it is judged."""

    rows: list[Unjudged]
    pairs: dict[str, Pair]
    """By domain (candidate, parent), rows by sample id."""
    undefined: dict[str, str]
    """Domains without an AUC, and why."""


def measured(candidate: Evidence, parent: Evidence, gate: Gate) -> Compared:
    """Measure two models on the same samples and the same resamples; ``forgetting`` says what is passed over.

    Raises:
        AuditError: samples, labels, groups, classes or protocols differ, or nothing that decides can be measured.
    """
    pairs = paired_domains(candidate.predictions, parent.predictions)
    undefined = {domain: status(old) for domain, (_, old) in pairs.items() if old.auc() is None}
    defined = {domain: pair for domain, pair in pairs.items() if domain not in undefined}
    undefined |= {" ".join(key): why for key, why in parent.undefined.items()}
    both = [key for key in parent.outcomes if key in candidate.outcomes]
    if not defined and not any(gate.rule(*key[:2]).gates for key in both):
        what = "no domain has samples of two classes, so there is no AUC to compare, and nothing else that decides"
        raise AuditError(what, next=SAME)
    shared = {key: paired_values(" ".join(key), candidate.outcomes[key], parent.outcomes[key]) for key in both}
    draws = Draws(pairs, [old for _, old in shared.values()], gate)
    rows = [_value_change(key, *pair, draws, gate) for key, pair in shared.items()]
    if not defined:  # captions alone: what is found by them decides
        return Compared(rows, {}, {**undefined, "zero-shot": "no domain has samples of two classes"})
    rows = [*_zero_shot(defined, pairs, draws, gate), *rows, *_calibration(pairs, draws, gate)]
    return Compared([*rows, *_flip_rates(pairs, gate)], pairs, undefined)


class Draws:
    """One set of resamples of groups, shared by everything that is compared.

    Each domain is resampled on its own, as the domains are fixed. Where some group has samples in several domains, all
    groups are resampled together instead, so that a patient is drawn equally often in each of them.
    """

    def __init__(self, pairs: Mapping[str, Pair], outcomes: list[SampleValues], gate: Gate) -> None:
        facts: dict[str, tuple[str, str]] = {}
        for domain, (_, old) in pairs.items():
            facts |= {str(s): (str(g), domain) for s, g in zip(old.sample_id, old.group_id, strict=True)}
        for part in outcomes:
            rows = zip(part.sample_id, part.group_id, part.domain, strict=True)
            facts |= {str(s): (str(g), str(d)) for s, g, d in rows if str(s) not in facts}
        self._row = {sample: row for row, sample in enumerate(facts)}
        groups, domains = zip(*facts.values(), strict=True)
        spans = len(set(facts.values())) > len(set(groups))
        self._whole = GroupBootstrap(groups, gate.resamples, gate.seed, None if spans else domains)

    def of(self, sample_id: NDArray[np.object_]) -> GroupBootstrap:
        """The resamples as these samples see them."""
        return self._whole.take([self._row[str(sample)] for sample in sample_id])


def _zero_shot(defined: Mapping[str, Pair], pairs: Mapping[str, Pair], draws: Draws, gate: Gate) -> Iterator[Unjudged]:
    yield from _changes("zero-shot", "auc", defined, draws, gate)
    hits = {domain: [_hits(domain, part) for part in pair] for domain, pair in pairs.items()}
    for domain, (new, old) in hits.items():
        yield _value_change(Key("zero-shot", "accuracy", domain), new, old, draws, gate)
    whole = [SampleValues.joined([pair[side] for pair in hits.values()]) for side in (0, 1)]
    yield _value_change(Key("zero-shot", "accuracy", MEAN), whole[0], whole[1], draws, gate)


def _hits(domain: str, part: DomainPredictions) -> SampleValues:
    names = np.full(len(part), domain, dtype=object)
    return SampleValues(part.sample_id, part.group_id, names, part.hits, np.ones(len(part)))


def _value_change(key: Key, new: SampleValues, old: SampleValues, draws: Draws, gate: Gate) -> Unjudged:
    """The change of a mean of outcomes: the score test for yes or no, else from resamples."""
    if old.values.dtype == bool:
        return _shares(key, new.values, old.values, old.group_id, gate, old.weight, old.note)
    bootstrap = draws.of(old.sample_id)
    difference = bootstrap.mean(new.values - old.values, old.weight)
    return _resampled(key, old.mean(), new.mean(), difference, bootstrap, gate, old.note)


def _calibration(pairs: Mapping[str, Pair], draws: Draws, gate: Gate) -> Iterator[Unjudged]:
    for metric in ("ece", "brier"):
        yield from _changes("calibration", metric, pairs, draws, gate)


def _changes(family: str, name: str, pairs: Mapping[str, Pair], draws: Draws, gate: Gate) -> Iterator[Unjudged]:
    """One of ``METRICS`` in every domain, and its mean over them. Of an error the change is the parent's minus the
    candidate's.
    """
    metric, less = METRICS[name], METRICS[name].lower_is_better
    values: list[tuple[float, float]] = []
    differences = []
    for domain, (new, old) in pairs.items():
        bootstrap = draws.of(old.sample_id)
        before, after = metric.estimate(old), metric.estimate(new)
        assert before is not None  # domains without the figure were set aside
        assert after is not None
        change = metric.draws(new, bootstrap) - metric.draws(old, bootstrap)
        values.append((before, after))
        differences.append(-change if less else change)
        note = status(old) if name == "auc" else "ok"
        yield _resampled(Key(family, name, domain), before, after, differences[-1], bootstrap, gate, note, less)
    yield _mean(family, name, values, differences, [old for _, old in pairs.values()], draws, gate, less)


def _flip_rates(pairs: Mapping[str, Pair], gate: Gate) -> Iterator[Unjudged]:
    """Share of negative flips against a cap: its change is from none to that share."""
    for domain, (new, old) in pairs.items():
        kept = ~(old.right & ~new.right)
        key = Key("flips", "negative", domain)
        margin = gate.rule(*key[:2]).of(domain)
        change = paired_shares(kept, np.ones(len(kept), bool), old.group_id, margin, gate.confidence)
        yield Unjudged(key, None, -change.estimate, change)


def _resampled(
    key: Key,
    before: float,
    after: float,
    difference: Floats,
    bootstrap: GroupBootstrap,
    gate: Gate,
    note: str = "ok",
    less_is_better: bool = False,
) -> Unjudged:
    margin = gate.rule(key.family, key.metric).of(key.part)
    estimate = before - after if less_is_better else after - before
    change = resampled(estimate, difference, bootstrap.samples, bootstrap.groups, margin, gate.confidence)
    return Unjudged(key, before, after, change, note)


def _mean(
    family: str,
    metric: str,
    values: list[tuple[float, float]],
    differences: list[Floats],
    parts: list[DomainPredictions],
    draws: Draws,
    gate: Gate,
    less_is_better: bool = False,
) -> Unjudged:
    """Over domains, each counting the same."""
    before, after = (float(part) for part in np.mean(values, axis=0))
    whole = draws.of(np.concatenate([part.sample_id for part in parts]))
    note = f"over {len(parts)} domains"
    return _resampled(
        Key(family, metric, MEAN), before, after, mean_draws(differences), whole, gate, note, less_is_better
    )


def _shares(
    key: Key,
    new: NDArray[np.bool_],
    old: NDArray[np.bool_],
    groups: NDArray[np.object_],
    gate: Gate,
    weight: Floats | None = None,
    note: str = "ok",
) -> Unjudged:
    margin = gate.rule(key.family, key.metric).of(key.part)
    change: Change = paired_shares(new, old, groups, margin, gate.confidence, weight)
    before, after = (float(np.average(part, weights=weight)) for part in (old, new))
    return Unjudged(key, before, after, change, note)


def _flips(new: DomainPredictions, old: DomainPredictions) -> Flips:
    was, now = old.right, new.right
    names = old.sample_id.astype(str)
    return Flips(tuple(names[~was & now].tolist()), tuple(names[was & ~now].tolist()))
