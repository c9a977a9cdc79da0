"""A whole chain of releases: what each knew of each domain, and what was forgotten on the way, by every name for it.

With R[t, d] the zero-shot AUC of release t = 1..T on domain d, and l(d) the release that learnt d (the first that has a
teacher for it; the first of all where none ever came):

    acc                    mean over d of R[T, d]
    bwt                    mean over d with l(d) < T of R[T, d] - R[l(d), d]        (Lopez-Paz and Ranzato 2017, eq. 3)
    fwt                    mean over d with l(d) > 1 of R[l(d) - 1, d] - b[d]       (the same, eq. 4)
    forgetting_max_last    mean over d with l(d) < T of (max over t < T of R[t, d]) - R[T, d]  (Chaudhry et al. 2018)
    forgetting_first_last  mean over d with l(d) < T of R[l(d), d] - R[T, d]        (Avalanche; minus bwt)

Libraries call both of the last two "forgetting"; the first is never smaller. b is the student before any teacher, or
chance.

The verdict compares the newest release with the one that learnt each domain: steps that each lose less than the margin
may add up to more.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mmkd_core.audit.comparison import Comparison, Measured, Verdict, judge
from mmkd_core.audit.evidence import Key
from mmkd_core.audit.forgetting import Draws
from mmkd_core.audit.gate import Gate
from mmkd_core.audit.pairing import SAME, AuditError, paired_domains
from mmkd_core.evaluate.predictions import DomainPredictions, Predictions
from mmkd_core.evaluate.summary import mean_draws
from mmkd_core.statistics import Interval, macro_auc, percentile_interval, resampled

CHANCE = 0.5
Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Chain:
    """The matrix of a chain and its figures, as fractions."""

    releases: tuple[str, ...]
    matrix: dict[str, dict[str, float]]
    """AUC by release and domain."""
    learnt: dict[str, str]
    """By domain: the release that learnt it."""
    baseline: dict[str, float]
    """By domain: b of ``fwt``."""
    figures: dict[str, Interval | None]
    """``acc``, ``bwt``, ``fwt`` and both kinds of forgetting; None where no domain counts."""
    domains: dict[str, dict[str, float]]
    """Both kinds of forgetting by domain, where it was learnt before the last release."""
    comparisons: tuple[Comparison, ...]
    """The newest release against the one that learnt each domain."""
    gate: Gate

    @property
    def verdict(self) -> Verdict:
        """FAIL if any domain fails, else INCONCLUSIVE if any is, else PASS."""
        return Verdict.of(row.verdict for row in self.comparisons)

    def to_json(self) -> dict[str, Any]:
        """Plain JSON."""
        return {
            "schema": "mmkd.chain/v1",
            "verdict": self.verdict.value,
            "exit_code": self.verdict.exit_code,
            "gate": {"hash": self.gate.hash, **self.gate.model_dump(mode="json", by_alias=True)},
            "releases": list(self.releases),
            "matrix": self.matrix,
            "learnt": self.learnt,
            "baseline": self.baseline,
            "figures": {name: asdict(found) if found else None for name, found in self.figures.items()},
            "domains": self.domains,
            "comparisons": [row.to_json() for row in self.comparisons],
        }


def chain(
    predictions: Mapping[str, Predictions],
    learnt: Mapping[str, str],
    baseline: Mapping[str, float],
    gate: Gate | None = None,
) -> Chain:
    """The matrix of releases and domains, all on the same samples and the same resamples.

    Args:
        predictions: by release, oldest first; at least two.
        learnt: by domain the release that learnt it; a domain that is missing counts as learnt by the first.
        baseline: AUC by domain of the student before any teacher; chance where it is missing.
        gate: its rule for zero-shot AUC judges.

    Raises:
        AuditError: fewer than two releases, other samples, or no domain with an AUC.
    """
    gate, names = gate or Gate(), tuple(predictions)
    if len(names) < 2:
        raise AuditError("a chain needs at least two releases", next="Run `mmkd distill --incremental`")
    matrix = _Matrix(predictions, gate)
    first = {domain: names.index(learnt.get(domain, names[0])) for domain in matrix.parts}
    chance = {domain: baseline.get(domain, CHANCE) for domain in matrix.parts}
    old = [domain for domain in first if first[domain] < len(names) - 1]
    late = [domain for domain in first if first[domain] > 0]
    auc = matrix.auc
    return Chain(
        releases=names,
        matrix={name: {domain: float(row[t]) for domain, row in auc.items()} for t, name in enumerate(names)},
        learnt={domain: names[place] for domain, place in first.items()},
        baseline=chance,
        figures={
            "acc": matrix.mean(list(first), lambda d, r: r[-1]),
            "bwt": matrix.mean(old, lambda d, r: r[-1] - r[first[d]]),
            "fwt": matrix.mean(late, lambda d, r: r[first[d] - 1] - chance[d]),
            "forgetting_max_last": matrix.mean(old, lambda d, r: r[:-1].max(axis=0) - r[-1]),
            "forgetting_first_last": matrix.mean(old, lambda d, r: r[first[d]] - r[-1]),
        },
        domains={
            d: {"max_last": float(auc[d][:-1].max() - auc[d][-1]), "first_last": float(auc[d][first[d]] - auc[d][-1])}
            for d in old
        },
        comparisons=tuple(judge([matrix.against(d, first[d], names[first[d]]) for d in old], gate)),
        gate=gate,
    )


class _Matrix:
    """AUC of T releases on each domain, as they are and in every resample, on the same rows."""

    def __init__(self, predictions: Mapping[str, Predictions], gate: Gate) -> None:
        self.gate = gate
        self.parts = _aligned(predictions)
        self._draws = Draws({domain: (parts[-1], parts[0]) for domain, parts in self.parts.items()}, [], gate)
        self.auc = {domain: np.array([_auc(part) for part in parts]) for domain, parts in self.parts.items()}
        """(T,) by domain."""
        self.drawn = {domain: self._resamples(parts) for domain, parts in self.parts.items()}
        """(T, B) by domain."""

    def _resamples(self, parts: Sequence[DomainPredictions]) -> Floats:
        bootstrap = self._draws.of(parts[0].sample_id)
        return np.stack([bootstrap.macro_auc(part.scores, part.truth) for part in parts])

    def mean(self, domains: list[str], of: Callable[[str, Floats], Floats]) -> Interval | None:
        """Mean over domains of a figure of a row of the matrix, (T,) or (T, B)."""
        if not domains:
            return None
        whole = self._draws.of(np.concatenate([self.parts[domain][0].sample_id for domain in domains]))
        estimate = float(np.mean([of(domain, self.auc[domain]) for domain in domains]))
        drawn = mean_draws([of(domain, self.drawn[domain]) for domain in domains])
        limits = (-1.0, 1.0)
        return percentile_interval(estimate, drawn, whole.samples, whole.groups, self.gate.confidence, limits)

    def against(self, domain: str, place: int, name: str) -> Measured:
        """The newest release against an earlier one."""
        bootstrap, margin = (
            self._draws.of(self.parts[domain][0].sample_id),
            self.gate.rule("zero-shot", "auc").of(domain),
        )
        before, after = float(self.auc[domain][place]), float(self.auc[domain][-1])
        difference = self.drawn[domain][-1] - self.drawn[domain][place]
        change = resampled(
            after - before, difference, bootstrap.samples, bootstrap.groups, margin, self.gate.confidence
        )
        return Measured(
            Key("zero-shot", "auc", domain), before, after, change, f"since release {name}, which learnt it"
        )


def _aligned(predictions: Mapping[str, Predictions]) -> dict[str, list[DomainPredictions]]:
    """By domain with an AUC that the first release knows: each release's rows in one order."""
    parent, *others = predictions.values()
    pairs = [paired_domains(candidate, parent) for candidate in others]
    aligned = {domain: [pairs[0][domain][1], *(pair[domain][0] for pair in pairs)] for domain in parent.domains}
    defined = {domain: parts for domain, parts in aligned.items() if parts[0].auc() is not None}
    if not defined:
        raise AuditError("no domain has samples of two classes, so there is no AUC to compare", next=SAME)
    return defined


def _auc(part: DomainPredictions) -> float:
    auc = macro_auc(part.scores, part.truth)
    assert auc is not None  # domains without one were set aside
    return auc
