"""From evidence to trust: a rule is applied domain by domain."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from mmkd_core.errors import TrustError
from mmkd_core.trust.case import Case, Ruling
from mmkd_core.trust.evidence import Evidence, TeacherView, measure
from mmkd_core.trust.findings import case_of
from mmkd_core.trust.measured import Status
from mmkd_core.trust.published import PublishedTrust
from mmkd_core.trust.results import DomainTrust, TeacherTrust
from mmkd_core.trust.rules import RULES, TrustConfig

if TYPE_CHECKING:
    from mmkd_core.data.manifest import Corpus


@dataclass(frozen=True)
class StudentProbe:
    """The present student on the validation split, for the rule by gain."""

    logits: Mapping[str, NDArray[np.floating]]
    """By domain, (v, C): rows are ``corpus.where("val", [domain])``, columns ``corpus.classes(domain)``."""


def decide(
    view: TeacherView,
    corpus: Corpus,
    config: TrustConfig,
    student: StudentProbe | None = None,
    published: PublishedTrust | None = None,
) -> TeacherTrust:
    """Measure a teacher on a corpus and apply a rule.

    Raises:
        TrustError: features that do not fit the corpus; ``gain`` without a student to gain on, or ``published``
            without a list.
    """
    return judge(measure(view, corpus, config), corpus, config, student, published)


def judge(
    evidence: Evidence,
    corpus: Corpus,
    config: TrustConfig,
    student: StudentProbe | None = None,
    published: PublishedTrust | None = None,
) -> TeacherTrust:
    """Apply a rule to evidence that was measured on ``corpus``."""
    rule, mask, domains = RULES[config.rule], np.zeros(len(corpus), dtype=bool), {}
    for case in _cases(evidence, corpus, config, student, published):
        ruling = rule.decide(case, config)
        mask[case.evidence.train] = ruling.admit
        domains[case.domain] = _trust(case, ruling)
    return TeacherTrust(evidence.view.name, mask, domains, asdict(config), corpus.fingerprint, config.sentence)


def admitted_at(evidence: Evidence, domain: str, thresholds: Sequence[float], config: TrustConfig) -> NDArray[np.int64]:
    """(T,) train samples of a domain that the 90 % rule admits at each threshold; only masks are made again."""
    rule, case = RULES["90"], case_of(Case(evidence.view, domain, evidence.domains[domain], config.seed))
    asked = [replace(config, rule=rule.name, threshold=max(threshold, 1e-9)) for threshold in thresholds]
    return np.array([int(rule.decide(case, settings).admit.sum()) for settings in asked])


def _cases(
    evidence: Evidence,
    corpus: Corpus,
    config: TrustConfig,
    student: StudentProbe | None,
    published: PublishedTrust | None,
) -> Iterator[Case]:
    listed = published.mask(evidence.view.name, corpus) if published else None
    for domain, found in evidence.domains.items():
        case = Case(evidence.view, domain, found, config.seed)
        if listed is not None:
            case = replace(case, listed=listed[found.train])
        if student and not found.parts:
            case = replace(case, student=_student(case, corpus, student))
        yield case_of(case)


def _trust(case: Case, ruling: Ruling) -> DomainTrust:
    found = case.evidence.found
    return DomainTrust(
        n=found.n,
        accuracy=found.accuracy,
        lower=found.lower,
        claimed=case.claimed,
        verified=found.status is not Status.UNKNOWN,
        trusted=ruling.whole,
        admitted=int(ruling.admit.sum()),
        of=len(ruling.admit),
        reason=ruling.reason,
        auc=found.auc,
        gain=ruling.gain,
        status=found.status.value,
        balanced=found.balanced,
        patients=found.patients,
        classes=found.classes,
        probe=case.evidence.probe.split,
        temperature=found.temperature,
        sure_of=ruling.sure_of,
        on_claim=ruling.on_claim,
    )


def _student(case: Case, corpus: Corpus, student: StudentProbe) -> NDArray[np.floating]:
    """(n, C) what the student says of the teacher's probe images; of none where these are training images."""
    probe, rows = case.evidence.probe, corpus.where("val", [case.domain])
    if probe.split != "val" or not len(probe):
        return np.zeros((0, len(probe.names)))
    expected, said = (len(rows), len(probe.names)), student.logits.get(case.domain)
    if said is None or said.shape != expected:
        found = "no scores" if said is None else f"scores of shape {said.shape}"
        what = f"the student has {found} for the probe images of {case.domain}, where {expected} is needed"
        raise TrustError(what, next="Evaluate the student on the val split of this corpus.")
    if not np.isfinite(said).all():
        raise TrustError(f"the student's scores on {case.domain} hold NaN or infinity", next="Check its training log.")
    return said[np.searchsorted(rows, probe.rows)]
