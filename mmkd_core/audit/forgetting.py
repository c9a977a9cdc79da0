"""Is a candidate still as good as its parent? A paired non-inferiority test per domain, resampled by patient.

A rule on point estimates passes a true loss of the size of the margin about half of the time. Here PASS means that the
lower bound of the change lies above minus the margin, FAIL that the upper bound lies below it, and INCONCLUSIVE says
how many more samples would decide.

Does not: repair, promote or write anything. It reads predictions of two models on the same samples.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mmkd_core.errors import MmkdError
from mmkd_core.evaluate.predictions import DomainPredictions, Predictions
from mmkd_core.evaluate.summary import mean_draws, mean_interval, paired_bootstraps, status
from mmkd_core.statistics import Interval, macro_auc, samples_to_decide

_SAME = "Evaluate both releases on the same split of the same corpus with `mmkd eval zero-shot`."


class AuditError(MmkdError):
    """Two sets of predictions that cannot be compared."""


class Verdict(StrEnum):
    """Outcome of an audit; ``exit_code`` is that of ``mmkd audit``."""

    PASS = "PASS"
    FAIL = "FAIL"
    INCONCLUSIVE = "INCONCLUSIVE"

    @property
    def exit_code(self) -> int:
        """0, 1 or 2."""
        return {"PASS": 0, "FAIL": 1, "INCONCLUSIVE": 2}[self.value]


@dataclass(frozen=True)
class AuditConfig:
    """What counts as forgetting, fixed before the candidate is looked at.

    Raises:
        AuditError: a margin or a confidence that makes no test.
    """

    margin: float = 0.02
    """Loss of AUC that is tolerated, as a fraction."""
    confidence: float = 0.95
    """Of the two-sided interval: a true loss equal to the margin passes with probability (1 - confidence) / 2."""
    resamples: int = 2000
    seed: int = 0

    def __post_init__(self) -> None:
        if not 0 <= self.margin < 1:
            raise AuditError(f"a margin of {self.margin} is not a loss of AUC", next="Use a fraction such as 0.02.")
        if not 0 < self.confidence < 1 or self.resamples < 100:
            what = f"no interval comes from confidence {self.confidence} and {self.resamples} resamples"
            raise AuditError(what, next="Use 0.95 and at least 100.")


@dataclass(frozen=True)
class DomainChange:
    """Candidate minus parent in one domain, as a fraction of AUC."""

    delta: float
    lower: float
    upper: float
    n: int
    groups: int
    verdict: Verdict
    needed: int | None
    """Samples still needed to decide with power 0.8, were the change true: 0 if decided, None if no number would do."""
    before: float
    """AUC of the parent."""
    after: float
    """AUC of the candidate."""
    positive_flips: int
    """Samples that the parent got wrong and the candidate gets right (first choice among the classes)."""
    negative_flips: int
    """Samples that the parent got right and the candidate gets wrong."""
    status: str
    """``ok``, or which classes are not in the AUC because the split has no sample of them."""


@dataclass(frozen=True)
class ForgettingAudit:
    """The comparison of a candidate with its parent, and its verdict."""

    domains: dict[str, DomainChange]
    mean: DomainChange
    """Over ``domains``, each counting the same."""
    verdict: Verdict
    """FAIL if any domain or the mean fails, else INCONCLUSIVE if any is, else PASS."""
    config: AuditConfig
    undefined: dict[str, str] = field(default_factory=dict)
    """Domains that have no AUC on these samples, and why. They have no part in the verdict."""

    @property
    def exit_code(self) -> int:
        """0 PASS, 1 FAIL, 2 INCONCLUSIVE."""
        return self.verdict.exit_code

    def to_json(self) -> dict[str, Any]:
        """Plain JSON; ``from_json`` reads it back."""
        return asdict(self) | {"exit_code": self.exit_code}

    @classmethod
    def from_json(cls, facts: dict[str, Any]) -> ForgettingAudit:
        """Read what ``to_json`` wrote."""
        return cls(
            {domain: _change_from_json(entry) for domain, entry in facts["domains"].items()},
            _change_from_json(facts["mean"]),
            Verdict(facts["verdict"]),
            AuditConfig(**facts["config"]),
            dict(facts["undefined"]),
        )


def forgetting(candidate: Predictions, parent: Predictions, config: AuditConfig | None = None) -> ForgettingAudit:
    """Compare two models on the same samples, with the same resamples of groups for both.

    Domains that only the candidate was measured on cannot have been forgotten and are passed over.

    Args:
        candidate: predictions of the new model, in any order of samples.
        parent: predictions of the one that it is to replace.
        config: margin, confidence, resamples and seed.

    Raises:
        AuditError: samples, labels, groups, classes or protocols differ, or no domain has an AUC.
    """
    config = config or AuditConfig()
    if candidate.protocol != parent.protocol:
        what = f"the candidate was measured by {candidate.protocol} and the parent by {parent.protocol}"
        raise AuditError(what, next=_SAME)
    pairs = {domain: _paired(domain, candidate, parent) for domain in parent.domains}
    undefined = {domain: status(old) for domain, (_, old) in pairs.items() if old.auc() is None}
    compared = Predictions({d: old for d, (_, old) in pairs.items() if d not in undefined}, parent.protocol)
    if not compared.domains:
        raise AuditError("no domain has samples of two classes, so there is no AUC to compare", next=_SAME)

    bootstraps = paired_bootstraps(compared, config.resamples, config.seed)
    domains, draws = {}, []
    for domain, old in compared.domains.items():
        new, bootstrap = pairs[domain][0], bootstraps[domain]
        draw = bootstrap.macro_auc(new.scores, new.truth) - bootstrap.macro_auc(old.scores, old.truth)
        before, after = _auc(old), _auc(new)
        interval = bootstrap.interval(after - before, draw, config.confidence, (-1.0, 1.0))
        domains[domain] = _change(interval, draw, before, after, _flips(new, old), status(old), config)
        draws.append(draw)
    mean = _mean(compared, domains, draws, config)
    return ForgettingAudit(domains, mean, _overall([*domains.values(), mean]), config, undefined)


def _mean(
    compared: Predictions, domains: dict[str, DomainChange], draws: list[NDArray[np.float64]], config: AuditConfig
) -> DomainChange:
    changes = list(domains.values())
    interval = mean_interval(compared.domains, [c.delta for c in changes], draws, config.confidence, (-1.0, 1.0))
    draw = mean_draws(draws)
    flips = sum(c.positive_flips for c in changes), sum(c.negative_flips for c in changes)
    before, after = float(np.mean([c.before for c in changes])), float(np.mean([c.after for c in changes]))
    return _change(interval, draw, before, after, flips, f"over {len(changes)} domains", config)


def _change(
    interval: Interval,
    draws: NDArray[np.float64],
    before: float,
    after: float,
    flips: tuple[int, int],
    note: str,
    config: AuditConfig,
) -> DomainChange:
    if interval.lower > -config.margin:
        verdict = Verdict.PASS
    elif interval.upper < -config.margin:
        verdict = Verdict.FAIL
    else:
        verdict = Verdict.INCONCLUSIVE
    return DomainChange(
        delta=interval.estimate,
        lower=interval.lower,
        upper=interval.upper,
        n=interval.n,
        groups=interval.groups,
        verdict=verdict,
        needed=0 if verdict is not Verdict.INCONCLUSIVE else _needed(interval, draws, config),
        before=before,
        after=after,
        positive_flips=flips[0],
        negative_flips=flips[1],
        status=note,
    )


def _needed(interval: Interval, draws: NDArray[np.float64], config: AuditConfig) -> int | None:
    if interval.groups < 2:
        return None
    spread = float(np.nanstd(draws)) * interval.n**0.5
    whole = samples_to_decide(spread, config.margin, interval.estimate, (1 - config.confidence) / 2)
    return max(1, math.ceil(whole) - interval.n) if math.isfinite(whole) else None


def _overall(changes: list[DomainChange]) -> Verdict:
    verdicts = {change.verdict for change in changes}
    return next((verdict for verdict in (Verdict.FAIL, Verdict.INCONCLUSIVE) if verdict in verdicts), Verdict.PASS)


def _flips(new: DomainPredictions, old: DomainPredictions) -> tuple[int, int]:
    was, now = (part.scores.argmax(axis=1) == part.truth for part in (old, new))
    return int((~was & now).sum()), int((was & ~now).sum())


def _auc(part: DomainPredictions) -> float:
    auc = macro_auc(part.scores, part.truth)
    assert auc is not None  # domains without one were set aside
    return auc


def _paired(domain: str, candidate: Predictions, parent: Predictions) -> tuple[DomainPredictions, DomainPredictions]:
    """Candidate and parent on one domain with rows in one order, or the first thing in which they differ."""
    if domain not in candidate.domains:
        raise AuditError(f"the candidate was not evaluated on {domain}", next=_SAME)
    new, old = candidate[domain], parent[domain]
    if new.classes != old.classes:
        what = f"the classes of {domain} are {', '.join(new.classes)} for the candidate and {', '.join(old.classes)} "
        raise AuditError(f"{what}for the parent", next=_SAME)
    new, old = (part.take(np.argsort(part.sample_id.astype(str), kind="stable")) for part in (new, old))
    for one, other, names in ((old, new, ("candidate", "parent")), (new, old, ("parent", "candidate"))):
        if lost := sorted(set(one.sample_id) - set(other.sample_id)):
            what = f"the {names[0]} was not evaluated on sample {lost[0]} of {domain}, the {names[1]} was"
            raise AuditError(f"{what} ({len(lost)} such samples)", next=_SAME)
    if len(new) != len(old):
        raise AuditError(f"{len(new)} rows of {domain} for the candidate and {len(old)} for the parent", next=_SAME)
    for name in ("label", "group_id"):
        differs = getattr(new, name) != getattr(old, name)
        if differs.any():
            what = f"candidate and parent give different values of {name} for sample {new.sample_id[differs.argmax()]}"
            raise AuditError(what, where=domain, next=_SAME)
    return new, old


def _change_from_json(facts: dict[str, Any]) -> DomainChange:
    return DomainChange(**{**facts, "verdict": Verdict(facts["verdict"])})
