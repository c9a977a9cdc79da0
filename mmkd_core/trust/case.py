"""One teacher in one domain as a rule sees it: what is known, and the rulings that can be made of it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from mmkd_core.errors import TrustError
from mmkd_core.statistics import GroupBootstrap, Interval, paired_auc_difference, wilson_lower
from mmkd_core.statistics.odds import log_odds
from mmkd_core.trust.evidence import DomainEvidence, TeacherView
from mmkd_core.trust.measured import ONE_SIDED, Status, certain, points
from mmkd_core.trust.sureness import CANDIDATES, best_posterior

if TYPE_CHECKING:
    from mmkd_core.trust.rules import TrustConfig

Mask = NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class Ruling:
    """What a teacher may teach in one domain.

    Attributes:
        admit: (m,) True for each train sample that it may teach.
        reason: for people.
        whole: it is trusted with the domain, whatever the sample.
        on_claim: because of its authors' claim alone.
        sure_of: classes of which it teaches the samples that it is sure of and right about.
        gain: AUC above the student's.
    """

    admit: Mask
    reason: str
    whole: bool = False
    on_claim: bool = False
    sure_of: tuple[str, ...] = ()
    gain: Interval | None = None


@dataclass(frozen=True, eq=False)
class Case:
    """One teacher in one domain.

    Attributes:
        view: the teacher.
        domain: the domain.
        evidence: what was measured.
        seed: of resamples.
        student: (v, C) logits of the present student on the validation images; for the rule by gain.
        listed: (m,) True for each train sample for which the paper's authors list the teacher.
    """

    view: TeacherView
    domain: str
    evidence: DomainEvidence
    seed: int = 0
    student: NDArray[np.floating] | None = None
    listed: Mask | None = None

    # What is known

    @property
    def claimed(self) -> float | None:
        """Accuracy that its authors claim."""
        return self.view.claims.get(self.domain)

    @property
    def names(self) -> tuple[str, ...]:
        """Classes of the domain."""
        return self.evidence.probe.names

    @cached_property
    def unproven(self) -> tuple[str, ...]:
        """Classes of the train samples of which the probe has too few to measure anything."""
        named = [self.evidence.probe.names[c] for c in np.unique(self.evidence.answers.truth)]
        return tuple(name for name in named if name in self.evidence.found.scarce)

    def of_unproven(self) -> Mask:
        """(m,) True for each train sample of such a class."""
        answers, found = self.evidence.answers, self._no_samples()
        found[answers.place] = np.isin(self.names, self.unproven)[answers.truth]
        return found

    def right_often(self, config: TrustConfig) -> bool:
        """Measured, better than chance, and right as often as the threshold asks."""
        found = self.evidence.found
        standing = found.lower if config.strict else found.accuracy
        return found.status is Status.MEASURED and standing is not None and standing >= config.threshold

    def claims_enough(self, config: TrustConfig) -> bool:
        """Nothing can be measured, and its authors claim as much as the threshold asks."""
        unknown = self.evidence.found.status is Status.UNKNOWN
        return unknown and self.claimed is not None and self.claimed >= config.threshold

    def reliable(self, config: TrustConfig) -> NDArray[np.bool_]:
        """(C,) True for each class whose answers, given with certainty, are right as often as the threshold asks."""
        probe = self.evidence.probe
        sure = certain(probe.logits, self.evidence.found.temperature)
        choice, right = sure.argmax(axis=1), probe.right
        given = sure.max(axis=1) >= config.threshold
        good = np.zeros(len(probe.names), dtype=bool)
        for c in range(len(good)):
            answers = given & (choice == c)
            n, hits = int(answers.sum()), int((answers & right).sum())
            if n >= config.answers and len(set(probe.group[answers])) >= config.patients:
                good[c] = (wilson_lower(hits, n) if config.strict else hits / n) >= config.threshold
        return good

    def sure_and_right_of(self, config: TrustConfig) -> Mask:
        """(m,) True for each labelled train sample of whose class it is sure and right."""
        answers, found = self.evidence.answers, self._no_samples()
        found[answers.place] = answers.right & (answers.sure >= config.threshold)
        return found

    def proven(self, config: TrustConfig) -> tuple[tuple[str, ...], Mask]:
        """Classes of which its certain answers have proved right; (m,) train samples that it rightly gives them to."""
        good, answers = self.reliable(config), self.evidence.answers
        admit = self.sure_and_right_of(config)
        admit[answers.place] &= good[answers.truth]
        return tuple(name for name, fine in zip(self.names, good, strict=True) if fine), admit

    # What can be ruled

    def whole(self, found: str = "", gain: Interval | None = None) -> Ruling:
        """Every train sample of the domain, but for classes of which the probe has too few to show anything."""
        admit, names = ~self.of_unproven(), self.names
        found = found or self._found
        if not self.unproven:
            return Ruling(admit, f"{found}: teaches all {len(admit)}", whole=True, sure_of=names, gain=gain)
        but = f"all but {', '.join(self.unproven)}, of which the probe has too few"
        sure_of = tuple(name for name in names if name not in self.unproven)
        return Ruling(admit, f"{found}: teaches {int(admit.sum())} of {len(admit)}, {but}", sure_of=sure_of, gain=gain)

    def on_its_claim(self) -> Ruling:
        """Every train sample, because a person said that claims count."""
        assert self.claimed is not None
        found = f"claims {points(self.claimed)} %, {self._found}"
        return replace(self._everything(f"{found}, on its claim"), on_claim=True)

    def by_sample(self, config: TrustConfig, found: str = "", gain: Interval | None = None) -> Ruling:
        """Where it is not trusted with the domain: samples of which being sure means being right."""
        found, status = found or self._found, self.evidence.found.status
        if status is Status.CHANCE:
            return replace(self._nothing(found), gain=gain)
        if status is Status.UNKNOWN:
            return replace(self._by_caption(config, found), gain=gain)
        names, admit = self.proven(config)
        caught = self._confirmed(config)
        admit |= caught
        if not names and not caught.any():
            return replace(self._nothing(f"{found}{self._unsure(config)}"), gain=gain)
        within = f"in {', '.join(names)}, where such answers are right" if names else "by their captions"
        reason = f"{found}: only the {int(admit.sum())} of {len(admit)} it is {config.percent} sure of and right about"
        return Ruling(admit, f"{reason} {within}", sure_of=names, gain=gain)

    def sure_and_right(self, config: TrustConfig) -> Ruling:
        """Samples of whose label, or caption, it is sure and right, whatever such answers are worth."""
        captions, admit = self.evidence.captions, self._no_samples()
        admit[captions.place] = captions.right & (captions.sure >= config.threshold)
        admit |= self.sure_and_right_of(config)
        reason = f"only the {int(admit.sum())} of {len(admit)} it is {config.percent} sure of and right about"
        return Ruling(admit, f"{self._found}: {reason}", sure_of=self.names)

    def as_declared(self) -> Ruling:
        """Every train sample if it declares the domain, else none."""
        if self.domain in self.view.domains:
            return self._everything("declared by the teacher")
        return self._nothing("not declared by the teacher")

    def as_listed(self) -> Ruling:
        """The train samples for which the paper's authors list it.

        Raises:
            TrustError: there is no list.
        """
        if self.listed is None:
            raise TrustError(
                "the rule `published` needs the list that the paper's authors publish",
                next="Run `mmkd store import mmkd-clip DIR`",
            )
        reason = f"the paper's authors list it for {int(self.listed.sum())} of {len(self.listed)}"
        return Ruling(self.listed, reason, whole=bool(self.listed.all()), sure_of=self.names)

    def gain(self) -> Interval | None:
        """AUC above the present student's on the validation images, with a one-sided 95 % lower bound by patient.

        None where they are too few, or where the teacher ranks no better than chance there.

        Raises:
            TrustError: there is no student to compare with, or it was not evaluated on these images.
        """
        if self.student is None:
            how = "Use `--trust 90`, or pretrain a student first."
            raise TrustError("the rule by gain compares a teacher with a student, and there is none yet", next=how)
        probe, found = self.evidence.probe, self.evidence.found
        if probe.split != "val" or found.status is Status.UNKNOWN or found.auc is None or found.auc.lower <= 0.5:
            return None
        bootstrap = GroupBootstrap(probe.group, seed=self.seed)
        ours = log_odds(self.student)
        return paired_auc_difference(log_odds(probe.logits), ours, probe.truth, bootstrap, ONE_SIDED)

    def compared(self, gain: Interval | None) -> str:
        """The comparison with the student, for people."""
        auc = self.evidence.found.auc
        if gain is None or auc is None:
            return f"not compared with the student, {self._found}"
        return (
            f"AUC {points(auc.estimate)} against the student's {points(auc.estimate - gain.estimate)} on "
            f"{self.evidence.found.n} probe images, a difference of at least {100 * gain.lower:+.1f} points"
        )

    # In words

    @property
    def _found(self) -> str:
        """What the probe images say."""
        found = self.evidence.found
        where = " of the training split" if self.evidence.probe.split == "train" else ""
        words = {
            Status.MEASURED: f"{found.words}{where}",
            Status.CHANCE: f"not better than chance: {found.words}{where}, {found.why}",
            Status.UNKNOWN: f"not measured: {found.why}",
        }[found.status]
        return words if found.temperature == 1 else f"{words}, temperature {found.temperature:.2f}"

    def _everything(self, found: str) -> Ruling:
        admit = np.ones(len(self.evidence.train), dtype=bool)
        return Ruling(admit, f"{found}: teaches all {len(admit)}", whole=True, sure_of=self.names)

    def _nothing(self, found: str) -> Ruling:
        return Ruling(self._no_samples(), f"{found}: teaches nothing")

    def _no_samples(self) -> Mask:
        return np.zeros(len(self.evidence.train), dtype=bool)

    def _confirmed(self, config: TrustConfig) -> Mask:
        """(m,) True for each sample whose own caption the teacher finds, where finding one means something."""
        captions, admit = self.evidence.captions, self._no_samples()
        if not captions.why and not captions.precise(config):
            admit[captions.place] = captions.right & (captions.sure >= config.threshold)
        return admit

    def _by_caption(self, config: TrustConfig, found: str) -> Ruling:
        captions = self.evidence.captions
        if why := captions.why or captions.precise(config):
            among = best_posterior(self.view.logit_scale, min(CANDIDATES, captions.texts))
            limit = self._limit(among, "captions") if among < config.threshold else ""
            return self._nothing(f"{found}; by captions: {why}{limit}")
        admit = self._confirmed(config)
        how = f"whose own caption it finds among {min(CANDIDATES, captions.texts)} and is {config.percent} sure of"
        return Ruling(admit, f"{found}: only the {int(admit.sum())} of {len(admit)} {how}")

    def _unsure(self, config: TrustConfig) -> str:
        """Why no class is taught although the teacher is better than chance."""
        probe, temperature = self.evidence.probe, self.evidence.found.temperature
        best = best_posterior(self.view.logit_scale / temperature, len(probe.names))
        if best < config.threshold:
            return self._limit(best, "classes")
        sure = certain(probe.logits, temperature).max(axis=1) >= config.threshold
        if sure.all():
            return f", and {config.percent} sure of all of them: its logit scale tells nothing apart"
        right = int((probe.right & sure).sum())
        share = f", right in {points(right / int(sure.sum()))} % of these" if sure.any() else ""
        return f", {config.percent} sure of {int(sure.sum())} of them{share}, which proves no class"

    def _limit(self, best: float, among: str) -> str:
        scale = f"{self.view.logit_scale:.3g}"
        return f"; with its logit scale of {scale} it can be at most {points(best)} % sure among so many {among}"
