"""Claims against measurements: is each teacher as good as its plugin says, does what was measured hold on the test
split, and what would another threshold admit?
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from mmkd_core.audit.comparison import Verdict
from mmkd_core.audit.gap import Gap
from mmkd_core.statistics import wilson_lower
from mmkd_core.trust import DomainTrust, Evidence, TeacherTrust, TrustConfig, admitted_at

if TYPE_CHECKING:
    from mmkd_core.contract import TrustClaim

THRESHOLDS = tuple(round(0.01 * step, 2) for step in range(101))
"""0 to 1, at which the sweep counts what is admitted."""


@dataclass(frozen=True)
class Finding:
    """What became of a claim, or of a measurement.

    Attributes:
        name: in tables and JSON.
        verdict: what it comes to; None where nothing was claimed, so that there is nothing to compare with.
        words: for people, after the names of teachers and domains.
    """

    name: str
    verdict: Verdict | None
    words: str


FINDINGS = {
    finding.name: finding
    for finding in (
        Finding("knows the probe", Verdict.FAIL, "far better on the probe than on the test split"),
        Finding("overclaimed", Verdict.FAIL, "claims more than is found here"),
        Finding("unverified", Verdict.INCONCLUSIVE, "claims what could not be measured here"),
        Finding("not comparable", Verdict.INCONCLUSIVE, "claims another metric than is measured here"),
        Finding("holds", Verdict.PASS, "is as good as it claims"),
        Finding("no claim", None, "claims nothing"),
    )
}
"""The worst first."""


@dataclass(frozen=True)
class TrustRow:
    """One teacher in one domain."""

    teacher: str
    domain: str
    claimed: float | None
    metric: str | None
    """Of the claim."""
    measured: float | None
    """Of the same metric, on the probe images; accuracy where there is no claim."""
    lower: float | None
    """One-sided 95 % bound of ``measured`` (accuracy), or the lower end of its 95 % interval (AUC)."""
    upper: float | None
    balanced: float | None
    """Balanced accuracy on the probe images."""
    auc: float | None
    n: int
    patients: int
    status: str
    """``measured``, ``not better than chance`` or ``not measured``."""
    finding: str
    """A name among ``FINDINGS``."""
    trusted: bool
    on_claim: bool
    admitted: int
    of: int
    reason: str
    gap: Gap | None = None
    """What held on the probe and does not on the test split; None where either has nothing to measure."""


@dataclass(frozen=True)
class DomainSweep:
    """What one teacher would teach in one domain at each threshold."""

    of: int
    """Train samples of the domain."""
    admitted: tuple[int, ...]
    """(T,) of them, by threshold."""
    everyone: int
    """Samples that it teaches where no rule is applied: all of the domains that it declares."""


def trust_table(
    trusts: Iterable[TeacherTrust],
    claims: Mapping[str, Mapping[str, TrustClaim]],
    gaps: Mapping[tuple[str, str], Gap] | None = None,
) -> list[TrustRow]:
    """Set what was measured beside what was claimed, teacher by teacher, domain by domain.

    Args:
        trusts: outcomes of a trust rule.
        claims: by teacher and domain: ``TeacherSpec.trust``.
        gaps: by teacher and domain, where probe and test split were compared.
    """
    return [
        _row(
            trust.teacher,
            domain,
            found,
            claims.get(trust.teacher, {}).get(domain),
            (gaps or {}).get((trust.teacher, domain)),
        )
        for trust in trusts
        for domain, found in trust.domains.items()
    ]


def verdict(rows: Iterable[TrustRow]) -> Verdict | None:
    """FAIL if a claim is refuted or a probe is known by heart, else INCONCLUSIVE if a claim is open, else PASS.

    None where no teacher claims anything.
    """
    found = [verdict for row in rows if (verdict := FINDINGS[row.finding].verdict)]
    return Verdict.of(found) if found else None


def sweep(evidence: Evidence, config: TrustConfig, thresholds: Sequence[float] = THRESHOLDS) -> dict[str, DomainSweep]:
    """What the 90 % rule would admit at other thresholds, by domain, from evidence measured once."""
    found = {}
    for domain, known in evidence.domains.items():
        admitted = admitted_at(evidence, domain, thresholds, config)
        of = len(known.train)
        found[domain] = DomainSweep(of, tuple(admitted.tolist()), of if domain in evidence.view.domains else 0)
    return found


def _row(teacher: str, domain: str, found: DomainTrust, claim: TrustClaim | None, gap: Gap | None) -> TrustRow:
    metric = claim.metric if claim else None
    measured, lower, upper = _measured(found, metric or "accuracy")
    return TrustRow(
        teacher=teacher,
        domain=domain,
        claimed=claim.score if claim else None,
        metric=metric,
        measured=measured,
        lower=lower,
        upper=upper,
        balanced=found.balanced,
        auc=found.auc.estimate if found.auc else None,
        n=found.n,
        patients=found.patients,
        status=found.status,
        finding="knows the probe" if gap and gap.unexplained else _finding(found, claim, upper),
        trusted=found.trusted,
        on_claim=found.on_claim,
        admitted=found.admitted,
        of=found.of,
        reason=found.reason,
        gap=gap,
    )


def _finding(found: DomainTrust, claim: TrustClaim | None, upper: float | None) -> str:
    if claim is None:
        return "no claim"
    if not found.verified:
        return "unverified"
    if upper is None:
        return "not comparable"
    return "overclaimed" if upper < claim.score else "holds"


def _measured(found: DomainTrust, metric: str) -> tuple[float | None, float | None, float | None]:
    """Value and bounds of the metric that a claim is about, if it is one of the two that are measured."""
    name = metric.lower()
    if "auc" in name or "auroc" in name:
        return (found.auc.estimate, found.auc.lower, found.auc.upper) if found.auc else (None, None, None)
    if "balanced" in name or "acc" not in name or found.accuracy is None or found.lower is None:
        return None, None, None
    wrong = found.n - round(found.accuracy * found.n)
    return found.accuracy, found.lower, 1 - wilson_lower(wrong, found.n)
