"""The rules: 90 % (a teacher teaches where it is right), gain (where it beats the student), none (where it says so),
published (where the paper's authors say so).

The 90 % rule in one sentence: where a teacher is right at least nine times in ten it teaches every sample of that
domain, elsewhere only the samples of which it is at least 90 % sure and right. That covers both readings of the paper
(MMKD-CLIP, arXiv 2506.22567): its text speaks of accuracy, its released data lists trusted teachers per sample.

The rule by gain replaces the first half by a comparison: a teacher teaches every sample of a domain where it is better
than the present student. Elsewhere it is sample by sample too: a small probe split leaves many comparisons open, and a
domain that nobody taught would be the worse for it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from mmkd_core.errors import TrustError
from mmkd_core.settings import Seed
from mmkd_core.statistics import GroupBootstrap, Interval, macro_auc, paired_auc_difference, wilson_lower
from mmkd_core.trust.evidence import DomainEvidence, Evidence, TeacherView, measure
from mmkd_core.trust.published import PublishedTrust
from mmkd_core.trust.results import DomainTrust, TeacherTrust

if TYPE_CHECKING:
    from mmkd_core.data.manifest import Corpus

Rule = Literal["90", "gain", "none", "published"]
RULES: tuple[str, ...] = get_args(Rule)

ONE_SIDED = 0.90
"""Confidence of a two-sided interval whose lower bound is a one-sided 95 % bound."""


@dataclass(frozen=True)
class TrustConfig:
    """Which rule, and how strict.

    Raises:
        TrustError: an unknown rule, or a threshold outside 0..1.
    """

    rule: Rule = "90"
    threshold: float = 0.90
    strict: bool = False
    """Ask of the one-sided 95 % Wilson bound what is otherwise asked of the accuracy."""
    seed: Seed = 0

    def __post_init__(self) -> None:
        if self.rule not in RULES:
            raise TrustError(f"unknown trust rule {self.rule!r}", next=f"Use one of {', '.join(RULES)}.")
        if not 0 < self.threshold <= 1:
            raise TrustError(f"a trust threshold of {self.threshold} is not a share", next="Use a number such as 0.9.")


@dataclass(frozen=True)
class StudentProbe:
    """The present student on the probe split, for the rule by gain."""

    scores: Mapping[str, NDArray[np.floating]]
    """By domain, (v, C): rows are ``corpus.where("val", [domain])``, columns ``corpus.classes(domain)``."""


@dataclass(frozen=True)
class _Case:
    """All that a rule looks at in one domain."""

    domain: str
    declared: bool
    claimed: float | None
    evidence: DomainEvidence
    auc: Interval | None
    bootstrap: GroupBootstrap | None

    @property
    def n(self) -> int:
        return len(self.evidence.probe)

    @property
    def correct(self) -> int:
        return _correct(self.evidence)


@dataclass(frozen=True)
class _Verdict:
    admit: NDArray[np.bool_]
    trusted: bool
    reason: str
    gain: Interval | None = None


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
    return judge(measure(view, corpus, config.seed), corpus, config, student, published)


def judge(
    evidence: Evidence,
    corpus: Corpus,
    config: TrustConfig,
    student: StudentProbe | None = None,
    published: PublishedTrust | None = None,
) -> TeacherTrust:
    """Apply a rule to evidence that was measured on ``corpus``."""
    view = evidence.view
    mask, domains = np.zeros(len(corpus), dtype=bool), {}
    listed = _listed(view.name, corpus, published) if config.rule == "published" else mask
    for domain, found in evidence.domains.items():
        case = _case(view, corpus, domain, found, config.seed)
        if config.rule == "90":
            verdict = _ninety(case, config)
        elif config.rule == "gain":
            verdict = _gain(case, corpus, config, student)
        elif config.rule == "published":
            verdict = _published(listed[found.train])
        else:
            verdict = _everyone(case)
        mask[found.train] = verdict.admit
        domains[domain] = DomainTrust(
            n=case.n,
            accuracy=case.correct / case.n if case.n else None,
            lower=wilson_lower(case.correct, case.n) if case.n else None,
            claimed=case.claimed,
            verified=case.n > 0,
            trusted=verdict.trusted,
            admitted=int(verdict.admit.sum()),
            of=len(found.train),
            reason=verdict.reason,
            auc=case.auc,
            gain=verdict.gain,
        )
    return TeacherTrust(view.name, mask, domains, asdict(config), corpus.fingerprint)


def _case(view: TeacherView, corpus: Corpus, domain: str, found: DomainEvidence, seed: int) -> _Case:
    auc, bootstrap = None, None
    estimate = macro_auc(found.scores, found.truth) if len(found.probe) else None
    if estimate is not None:
        bootstrap = GroupBootstrap(corpus.group_id[found.probe], seed=seed)
        auc = bootstrap.interval(estimate, bootstrap.macro_auc(found.scores, found.truth))
    return _Case(domain, domain in view.domains, view.claims.get(domain), found, auc, bootstrap)


def admitted_at(
    found: DomainEvidence, claimed: float | None, thresholds: Sequence[float], strict: bool = False
) -> tuple[NDArray[np.int64], float | None]:
    """What the 90 % rule would admit in one domain at other thresholds: the masks are made again, no feature is.

    Returns:
        (T,) train samples admitted at each threshold, as ``judge`` would admit them, and the share up to which the
        teacher teaches the whole domain (None if never).
    """
    standing = _standing(found, claimed, strict)
    asked = np.asarray(thresholds, dtype=np.float64)
    sure = np.sort(found.sure[found.right])
    some = len(sure) - np.searchsorted(sure, asked.astype(sure.dtype), side="left")
    whole = np.zeros(len(asked), dtype=bool) if standing is None else asked <= standing
    return np.where(whole, len(found.train), some), standing


def _standing(found: DomainEvidence, claimed: float | None, strict: bool) -> float | None:
    """What the threshold is set against: accuracy on the probe images or its lower bound, else the claim."""
    if not len(found.probe):
        return claimed
    correct = _correct(found)
    return wilson_lower(correct, len(found.probe)) if strict else correct / len(found.probe)


def _correct(found: DomainEvidence) -> int:
    return int((found.scores.argmax(axis=1) == found.truth).sum()) if len(found.probe) else 0


def _ninety(case: _Case, config: TrustConfig) -> _Verdict:
    everything = np.ones(len(case.evidence.train), dtype=bool)
    standing = _standing(case.evidence, case.claimed, config.strict)
    if case.n:
        found = f"{_points(case.correct / case.n)} % right on {case.n} probe images"
        if config.strict and standing is not None:
            found += f" (at least {_points(standing)} % with 95 % confidence)"
    elif standing is not None:
        found = f"claims {_points(standing)} %, unverified for want of probe images"
    else:
        found = "no probe images and no claim"
    if standing is not None and standing >= config.threshold:
        return _Verdict(everything, True, f"{found}: teaches all {len(everything)}")
    return _sample_by_sample(case, config, found)


def _gain(case: _Case, corpus: Corpus, config: TrustConfig, student: StudentProbe | None) -> _Verdict:
    if student is None:
        how = "Use `--trust 90`, or pretrain a student first."
        raise TrustError("the rule by gain compares a teacher with a student, and there is none yet", next=how)
    everything = np.ones(len(case.evidence.train), dtype=bool)
    if case.auc is None or case.bootstrap is None:
        return _sample_by_sample(case, config, "no probe images of two classes to compare on")
    ours = _student_scores(case, corpus, student)
    gain = paired_auc_difference(case.evidence.scores, ours, case.evidence.truth, case.bootstrap, ONE_SIDED)
    assert gain is not None  # the AUC of the same samples is defined
    against = case.auc.estimate - gain.estimate
    found = (
        f"AUC {_points(case.auc.estimate)} against the student's {_points(against)} on {case.n} probe images, "
        f"a difference of at least {100 * gain.lower:+.1f} points"
    )
    if gain.lower > 0:
        return _Verdict(everything, True, f"{found}: teaches all {len(everything)}", gain)
    return _sample_by_sample(case, config, found, gain)


def _sample_by_sample(case: _Case, config: TrustConfig, found: str, gain: Interval | None = None) -> _Verdict:
    """Where a teacher is not trusted with the domain: the samples of which it is sure and right."""
    admit = (case.evidence.sure >= config.threshold) & case.evidence.right
    sure = f"{100 * config.threshold:g} % sure of and right about"
    return _Verdict(admit, False, f"{found}: only the {int(admit.sum())} of {len(admit)} it is {sure}", gain)


def _everyone(case: _Case) -> _Verdict:
    admit = np.full(len(case.evidence.train), case.declared)
    if case.declared:
        return _Verdict(admit, True, f"declared by the teacher: teaches all {len(admit)}")
    return _Verdict(admit, False, "not declared by the teacher: teaches nothing")


def _listed(teacher: str, corpus: Corpus, published: PublishedTrust | None) -> NDArray[np.bool_]:
    if published is None:
        raise TrustError(
            "the rule `published` needs the list that the paper's authors publish",
            next="Run `mmkd store import mmkd-clip DIR`",
        )
    return published.mask(teacher, corpus)


def _published(listed: NDArray[np.bool_]) -> _Verdict:
    return _Verdict(listed, bool(listed.all()), f"the paper's authors list it for {int(listed.sum())} of {len(listed)}")


def _student_scores(case: _Case, corpus: Corpus, student: StudentProbe) -> NDArray[np.floating]:
    rows = corpus.where("val", [case.domain])
    expected = (len(rows), case.evidence.scores.shape[1])
    scores = student.scores.get(case.domain)
    if scores is None or scores.shape != expected:
        found = "no scores" if scores is None else f"scores of shape {scores.shape}"
        what = f"the student has {found} for the probe images of {case.domain}, where {expected} is needed"
        raise TrustError(what, next="Evaluate the student on the val split of this corpus.")
    if not np.isfinite(scores).all():
        raise TrustError(f"the student's scores on {case.domain} hold NaN or infinity", next="Check its training log.")
    return scores[np.searchsorted(rows, case.evidence.probe)]


def _points(share: float) -> str:
    return f"{100 * share:.1f}"
