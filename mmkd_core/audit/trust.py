"""Claims against measurements: is each teacher as good as its plugin says, and what would another threshold admit?"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from mmkd_core.audit.comparison import Verdict
from mmkd_core.statistics import wilson_lower
from mmkd_core.trust import DomainTrust, Evidence, TeacherTrust, admitted_at

if TYPE_CHECKING:
    from mmkd_core.contract import TrustClaim

THRESHOLDS = tuple(round(0.01 * step, 2) for step in range(101))
"""0 to 1, at which the sweep counts what is admitted."""

CHECKED = {
    "holds": Verdict.PASS,
    "no claim": Verdict.PASS,
    "overclaimed": Verdict.FAIL,
    "unverified": Verdict.INCONCLUSIVE,
    "not comparable": Verdict.INCONCLUSIVE,
}
"""What each finding comes to."""


@dataclass(frozen=True)
class TrustRow:
    """One teacher in one domain."""

    teacher: str
    domain: str
    claimed: float | None
    metric: str | None
    """Of the claim."""
    measured: float | None
    """Of the same metric, on the probe split; accuracy where there is no claim."""
    lower: float | None
    """One-sided 95 % bound of ``measured`` (accuracy), or the lower end of its 95 % interval (AUC)."""
    upper: float | None
    n: int
    finding: str
    """``holds``, ``overclaimed`` (all of the interval lies below the claim), ``unverified`` (nothing to measure on),
    ``not comparable`` (another metric), or ``no claim``."""
    trusted: bool
    admitted: int
    of: int
    reason: str


@dataclass(frozen=True)
class DomainSweep:
    """What one teacher would teach in one domain at each threshold."""

    of: int
    """Train samples of the domain."""
    admitted: tuple[int, ...]
    """(T,) of them, by threshold."""
    whole_up_to: float | None
    """The largest threshold at which it is trusted with the whole domain; None if it is with none."""
    everyone: int
    """Samples that it teaches where no rule is applied: all of the domains that it declares."""


def trust_table(trusts: Iterable[TeacherTrust], claims: Mapping[str, Mapping[str, TrustClaim]]) -> list[TrustRow]:
    """Set what was measured beside what was claimed, teacher by teacher, domain by domain.

    Args:
        trusts: outcomes of a trust rule.
        claims: by teacher and domain: ``TeacherSpec.trust``.
    """
    return [
        _row(trust.teacher, domain, found, claims.get(trust.teacher, {}).get(domain))
        for trust in trusts
        for domain, found in trust.domains.items()
    ]


def verdict(rows: Iterable[TrustRow]) -> Verdict:
    """FAIL if a claim is refuted, else INCONCLUSIVE if one could not be checked, else PASS."""
    return Verdict.of(CHECKED[row.finding] for row in rows)


def sweep(evidence: Evidence, strict: bool = False, thresholds: Sequence[float] = THRESHOLDS) -> dict[str, DomainSweep]:
    """What the 90 % rule would admit at other thresholds, by domain, from evidence measured once."""
    view, found = evidence.view, {}
    for domain, known in evidence.domains.items():
        admitted, standing = admitted_at(known, view.claims.get(domain), thresholds, strict)
        of = len(known.train)
        everyone = of if domain in view.domains else 0
        found[domain] = DomainSweep(of, tuple(admitted.tolist()), standing, everyone)
    return found


def _row(teacher: str, domain: str, found: DomainTrust, claim: TrustClaim | None) -> TrustRow:
    metric = claim.metric if claim else None
    measured, lower, upper = _measured(found, metric or "accuracy")
    if claim is None:
        finding = "no claim"
    elif not found.n:
        finding = "unverified"
    elif measured is None or upper is None:
        finding = "not comparable"
    else:
        finding = "overclaimed" if upper < claim.score else "holds"
    return TrustRow(
        teacher=teacher,
        domain=domain,
        claimed=claim.score if claim else None,
        metric=metric,
        measured=measured,
        lower=lower,
        upper=upper,
        n=found.n,
        finding=finding,
        trusted=found.trusted,
        admitted=found.admitted,
        of=found.of,
        reason=found.reason,
    )


def _measured(found: DomainTrust, metric: str) -> tuple[float | None, float | None, float | None]:
    """Value and bounds of the metric that a claim is about, if it is one of the two that are measured."""
    name = metric.lower()
    if "auc" in name or "auroc" in name:
        return (found.auc.estimate, found.auc.lower, found.auc.upper) if found.auc else (None, None, None)
    if "balanced" in name or "acc" not in name or found.accuracy is None:
        return None, None, None
    wrong = found.n - round(found.accuracy * found.n)
    return found.accuracy, found.lower, 1 - wilson_lower(wrong, found.n)
