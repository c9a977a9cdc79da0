"""Two models on the same samples and the same resamples: every comparison that can be made, and those that cannot."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from mmkd_core.audit.comparison import MEAN, Undefined, Unjudged
from mmkd_core.audit.evidence import Evidence, Gap, Key, SampleValues
from mmkd_core.audit.gate import Gate
from mmkd_core.audit.metrics import TABLE, AuditMetric, of_family
from mmkd_core.audit.pairing import SAME, AuditError, paired_domains, paired_values
from mmkd_core.evaluate.metrics import METRICS
from mmkd_core.evaluate.predictions import DomainPredictions
from mmkd_core.evaluate.summary import mean_draws, status
from mmkd_core.statistics import Change, GroupBootstrap, paired_shares, resampled

AGAIN = "Make the candidate again on the data that its parent was measured on: `mmkd distill --incremental`"
Floats = NDArray[np.float64]
Pair = tuple[DomainPredictions, DomainPredictions]


@dataclass(frozen=True, eq=False)
class Compared:
    """Everything that was measured of two models, before it is judged."""

    rows: list[Unjudged]
    pairs: dict[str, Pair]
    """By domain (candidate, parent), rows by sample id."""
    undefined: tuple[Undefined, ...]


def measured(candidate: Evidence, parent: Evidence, gate: Gate) -> Compared:
    """Measure two models on the same samples and the same resamples; ``forgetting`` says what is passed over.

    Raises:
        AuditError: samples, labels, groups, classes or protocols differ, or the data allow no comparison that decides.
    """
    pairs = paired_domains(candidate.predictions, parent.predictions)
    both = [key for key in parent.outcomes if key in candidate.outcomes]
    shared = {key: paired_values(" ".join(key), candidate.outcomes[key], parent.outcomes[key]) for key in both}
    gaps = dict([*_unlabelled(pairs), *_lost_domains(candidate, parent), *_lost_outcomes(candidate, parent)])
    undefined = tuple(Undefined.of(key, gap, gate) for key, gap in gaps.items())
    rows: list[Unjudged] = []
    if pairs or shared:
        draws = Draws(pairs, [old for _, old in shared.values()], gate)
        rows += _zero_shot(pairs, draws, gate)
        rows += [_value_change(key, *pair, draws, gate) for key, pair in shared.items()]
        rows += [row for metric in of_family("calibration") for row in _changes(metric, pairs, draws, gate)]
        rows += _flip_rates(pairs, gate)
    if not any(gate.rule(*row.key[:2]).gates for row in rows) and not any(row.verdict for row in undefined):
        what = "no domain has samples of two classes, so there is no AUC to compare, and nothing else that decides"
        raise AuditError(what, next=SAME)
    return Compared(rows, pairs, undefined)


def _unlabelled(pairs: Mapping[str, Pair]) -> Iterator[tuple[Key, Gap]]:
    """Figures of domains that no model has on these samples, and those of all domains where none has them."""
    for metric in (metric for metric in TABLE if metric.of_domain):
        lacking = [d for d, (_, old) in pairs.items() if METRICS[metric.name].estimate(old) is None]
        for domain in lacking:
            yield Key(metric.family, metric.name, domain), Gap(status(pairs[domain][1]).removeprefix("undefined: "))
        if len(lacking) == len(pairs):
            yield Key(metric.family, metric.name, MEAN), Gap("no domain has samples of two classes")


def _lost_domains(candidate: Evidence, parent: Evidence) -> Iterator[tuple[Key, Gap]]:
    """Domains that the parent was measured on and the candidate was not."""
    for domain in parent.predictions.domains:
        if domain not in candidate.predictions.domains:
            gap = Gap(f"the candidate was not evaluated on {domain}, its parent was", AGAIN)
            yield from ((Key(m.family, m.name, domain), gap) for m in TABLE if m.of_domain or m.family == "flips")


def _lost_outcomes(candidate: Evidence, parent: Evidence) -> Iterator[tuple[Key, Gap]]:
    """What the parent could not be measured by, and what it was measured by and the candidate was not."""
    yield from parent.undefined.items()
    for key in parent.outcomes:
        if key not in candidate.outcomes:
            gap = candidate.undefined.get(key, Gap("the candidate was not measured by it, its parent was"))
            yield key, Gap(gap.reason, gap.next or AGAIN)


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


def _zero_shot(pairs: Mapping[str, Pair], draws: Draws, gate: Gate) -> Iterator[Unjudged]:
    for metric in of_family("zero-shot"):
        if metric.name not in OUTCOMES:
            yield from _changes(metric, pairs, draws, gate)
            continue
        found = {domain: [OUTCOMES[metric.name](domain, part) for part in pair] for domain, pair in pairs.items()}
        parts = {domain: (new, old) for domain, (new, old) in found.items() if new and old}
        for domain, (new, old) in parts.items():
            yield _value_change(Key("zero-shot", metric.name, domain), new, old, draws, gate)
        if parts:
            whole = [SampleValues.joined([pair[side] for pair in parts.values()]) for side in (0, 1)]
            yield _value_change(Key("zero-shot", metric.name, MEAN), whole[0], whole[1], draws, gate)


def _hits(domain: str, part: DomainPredictions) -> SampleValues | None:
    """Accuracy: whether each sample is named rightly, or the share of its findings."""
    names = np.full(len(part), domain, dtype=object)
    return SampleValues(part.sample_id, part.group_id, names, part.hits, np.ones(len(part))) if part.chooses else None


def _recalls(domain: str, part: DomainPredictions) -> SampleValues | None:
    """Balanced accuracy: each answer counts by one over the samples of which it is the true one.

    Of findings every one that is there in some samples and not in others is a question of its own, with the samples
    once for each; a domain where all samples have one true answer has no such figure.
    """
    truth, choice = (np.atleast_2d(column.T).T for column in (part.truth, part.choice))  # (n, questions)
    kept = [question for question in range(truth.shape[1]) if len(np.unique(truth[:, question])) > 1]
    if not kept:
        return None
    rows, weights = np.tile(np.arange(len(part)), len(kept)), []
    for question in kept:
        _, place, members = np.unique(truth[:, question], return_inverse=True, return_counts=True)
        weights.append(1 / (len(members) * members[place]))
    right = np.concatenate([choice[:, question] == truth[:, question] for question in kept])
    names = np.full(len(rows), domain, dtype=object)
    return SampleValues(part.sample_id[rows], part.group_id[rows], names, right, np.concatenate(weights))


OUTCOMES = {"accuracy": _hits, "balanced_accuracy": _recalls}
"""Metrics of zero-shot that are means of one outcome per sample, by name; the others are compared by resampling."""


def _value_change(key: Key, new: SampleValues, old: SampleValues, draws: Draws, gate: Gate) -> Unjudged:
    """The change of a mean of outcomes: the score test for yes or no, else from resamples."""
    if old.values.dtype == bool:
        row = _shares(key, new.values, old.values, old.group_id, gate, old.weight, old.note)
        samples = len(set(old.sample_id))  # of which some have several outcomes: findings, captions
        return replace(row, change=replace(row.change, n=samples, effect=row.change.effect * samples / len(old)))
    bootstrap = draws.of(old.sample_id)
    difference = bootstrap.mean(new.values - old.values, old.weight)
    return _resampled(key, old.mean(), new.mean(), difference, bootstrap, gate, old.note)


def _changes(metric: AuditMetric, pairs: Mapping[str, Pair], draws: Draws, gate: Gate) -> Iterator[Unjudged]:
    """A metric in every domain that has it, and its mean over them. Of an error the change is the parent's minus the
    candidate's.
    """
    figure, family, name, less = METRICS[metric.name], metric.family, metric.name, metric.less_is_better
    values: list[tuple[float, float]] = []
    differences, olds = [], []
    for domain, (new, old) in pairs.items():
        before, after = figure.estimate(old), figure.estimate(new)
        if before is None or after is None:
            continue
        bootstrap = draws.of(old.sample_id)
        change = figure.draws(new, bootstrap) - figure.draws(old, bootstrap)
        values.append((before, after))
        differences.append(-change if less else change)
        olds.append(old)
        note = status(old) if name == "auc" else "ok"
        yield _resampled(Key(family, name, domain), before, after, differences[-1], bootstrap, gate, note, less)
    if olds:
        yield _mean(family, name, values, differences, olds, draws, gate, less)


def _flip_rates(pairs: Mapping[str, Pair], gate: Gate) -> Iterator[Unjudged]:
    """Share of negative flips against a cap: its change is from none to that share."""
    for domain, (new, old) in pairs.items():
        if not old.chooses:
            continue
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
