"""The trust rules, one object each: its name, its words and what it decides. Settings, choices of commands, pages and
docs are read off ``RULES``.

Both halves of the 90 % rule come from the paper (MMKD-CLIP, arXiv 2506.22567): its text speaks of accuracy, its
released data lists trusted teachers sample by sample. The sample half is selective accuracy (El-Yaniv and Wiener 2010):
being sure counts only where the probe images show that being sure means being right. Agreement with a label that did
the choosing proves nothing: a constant answer is right about every sample of its class.

Does not: import numpy, so that a command can offer the rules before it needs them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from mmkd_core.errors import TrustError
from mmkd_core.settings import Seed

if TYPE_CHECKING:
    from mmkd_core.data.enough import Minimum
    from mmkd_core.trust.case import Case, Ruling


@dataclass(frozen=True)
class TrustConfig:
    """A rule, and how strict it is.

    Raises:
        TrustError: an unknown rule, or a number that makes no sense.
    """

    rule: str = "90"
    """Name of a trust rule."""
    threshold: float = 0.90
    """How often a teacher must be right, and how sure of a sample it must be."""
    strict: bool = False
    """Ask of one-sided 95 % Wilson bounds what is otherwise asked of the shares themselves."""
    seed: Seed = 0
    """Of the captions among which a sample must find its own, and of resamples."""
    probe: Literal["val", "train"] = "train"
    """Images that measure: of the validation split only, or of the training split where that is too small (not for
    teachers that were made from it)."""
    calibrate: bool = False
    """Fit one temperature per teacher and domain on the probe images, and be sure by that."""
    samples: int = 20
    """Labelled probe images that a measurement needs."""
    patients: int = 5
    """Groups that they must come from."""
    per_class: int = 3
    """Images of a class that it needs to be measured; two classes must have them."""
    answers: int = 10
    """Answers of one class, given with that certainty on the probe, which show whether such answers are right."""

    def __post_init__(self) -> None:
        if self.rule not in RULES:
            raise TrustError(f"unknown trust rule {self.rule!r}", next=f"Use one of {', '.join(RULES)}.")
        if not 0 < self.threshold <= 1:
            raise TrustError(f"a trust threshold of {self.threshold} is not a share", next="Use a number such as 0.9.")
        for name in ("samples", "patients", "per_class", "answers"):
            if getattr(self, name) < 1:
                raise TrustError(f"trust.{name} is {getattr(self, name)}, at least 1 is needed", next="Correct it")

    @property
    def minimum(self) -> Minimum:
        """The least that counts as a measurement."""
        from mmkd_core.data.enough import Minimum

        return Minimum(self.samples, self.patients, self.per_class)

    @property
    def percent(self) -> str:
        """The threshold in words: ``90 %``."""
        return f"{100 * self.threshold:g} %"

    @property
    def sentence(self) -> str:
        """What the rule does under these settings, for people."""
        return RULES[self.rule].sentence(self)


@dataclass(frozen=True)
class Rule:
    """One rule.

    Attributes:
        name: in ``mmkd.yaml`` and behind ``--trust``.
        summary: what a teacher teaches, in a few words.
        sentence: the same under given settings, for pages.
        decide: what a teacher may teach in one domain.
        needs_student: it compares with the present student.
        needs_list: it reads the list that the paper's authors publish.
    """

    name: str
    summary: str
    sentence: Callable[[TrustConfig], str]
    decide: Callable[[Case, TrustConfig], Ruling]
    needs_student: bool = False
    needs_list: bool = False


def _measured(config: TrustConfig) -> str:
    return (
        f"Measured are domains with at least {config.samples} labelled probe images of {config.patients} patients and "
        f"{config.per_class} images of each of two classes, where the teacher is right more often than the commonest "
        f"class alone would be and ranks better than chance."
    )


def _by_sample(config: TrustConfig) -> str:
    bound = ", with 95 % confidence," if config.strict else ""
    return (
        f"the samples of which it is right and at least {config.percent} sure, in classes where the probe images show "
        f"that answers of such certainty are right{bound} in at least {config.percent}"
    )


def _captions(config: TrustConfig) -> str:
    return (
        f"Where nothing can be measured it teaches only the samples whose own caption it finds among others and is "
        f"{config.percent} sure of."
    )


def _ninety(case: Case, config: TrustConfig) -> Ruling:
    return case.whole() if case.right_often(config) else case.by_sample(config)


def _ninety_words(config: TrustConfig) -> str:
    bound = ", by the lower 95 % bound," if config.strict else ""
    return (
        f"The {config.percent} rule: a teacher that is measured and right{bound} on at least {config.percent} of a "
        f"domain's probe images teaches every sample of that domain; elsewhere only {_by_sample(config)}. "
        f"{_measured(config)} {_captions(config)}"
    )


def _labels(case: Case, config: TrustConfig) -> Ruling:
    return case.whole() if case.right_often(config) else case.sure_and_right(config)


def _labels_words(config: TrustConfig) -> str:
    return (
        f"The {config.percent} rule as it was once read: a teacher that is measured and right on at least "
        f"{config.percent} of a domain's probe images teaches every sample of that domain; elsewhere every sample of "
        f"whose label it is right and at least {config.percent} sure, whatever such answers are worth. Kept for "
        f"comparison: a constant answer is right about every sample of its class."
    )


def _claimed(case: Case, config: TrustConfig) -> Ruling:
    return case.on_its_claim() if case.claims_enough(config) else _ninety(case, config)


def _claimed_words(config: TrustConfig) -> str:
    return (
        f"By claim, which is a person's choice: where nothing can be measured, a teacher whose authors claim at least "
        f"{config.percent} teaches every sample of the domain. All else is the rule by measurement. "
        f"{_ninety_words(config)}"
    )


def _gain(case: Case, config: TrustConfig) -> Ruling:
    gain = case.gain()
    found = case.compared(gain)
    return case.whole(found, gain) if gain and gain.lower > 0 else case.by_sample(config, found, gain)


def _gain_words(config: TrustConfig) -> str:
    return (
        f"The gain rule: where a teacher's AUC on the validation images is above chance and above the present "
        f"student's, with 95 % confidence, it teaches every sample of that domain; elsewhere only "
        f"{_by_sample(config)}. {_measured(config)} {_captions(config)}"
    )


def _none(case: Case, config: TrustConfig) -> Ruling:
    return case.as_declared()


def _none_words(config: TrustConfig) -> str:
    return "No rule was applied: a teacher teaches every sample of the domains that it declares, and no other."


def _published(case: Case, config: TrustConfig) -> Ruling:
    return case.as_listed()


def _published_words(config: TrustConfig) -> str:
    return "The published list: a teacher teaches the samples for which the authors of MMKD-CLIP list it."


RULES: dict[str, Rule] = {
    rule.name: rule
    for rule in (
        Rule("90", "where it is measured and right nine times in ten, else sample by sample", _ninety_words, _ninety),
        Rule(
            "gain",
            "where it is better than the present student, else sample by sample",
            _gain_words,
            _gain,
            needs_student=True,
        ),
        Rule("claimed", "as 90, and on its claim where nothing can be measured", _claimed_words, _claimed),
        Rule("none", "all domains that it declares", _none_words, _none),
        Rule(
            "published",
            "the samples for which the authors of MMKD-CLIP list it",
            _published_words,
            _published,
            needs_list=True,
        ),
        Rule("90-labels", "as 90, but sample by sample whatever its answers are worth", _labels_words, _labels),
    )
}
"""By name, in the order in which they are offered."""
