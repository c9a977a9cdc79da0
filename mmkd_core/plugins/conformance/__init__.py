"""Conformance: what every teacher must hold, as one list of named checks.

A check is a plain function over a ``Subject``: it returns when the teacher passes, raises ``FailedError`` with the
reason, or ``SkippedError`` when there is nothing to check. ``mmkd teachers add`` runs the fast ones (``smoke``), `mmkd
teachers check` all of them in a fresh interpreter (``card``), and an author's tests run them through
``mmkd_core.testing``: one truth for all three.

Does not: import torch when imported.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal

from mmkd_core.plugins.conformance import answers, behaviour, declared, inputs
from mmkd_core.plugins.conformance.subject import FailedError, SkippedError, Subject
from mmkd_core.plugins.record import describe

__all__ = ["CHECKS", "Check", "FailedError", "Level", "Outcome", "SkippedError", "Subject", "chosen", "run", "run_all"]

Level = Literal["fast", "standard", "full"]
_ORDER: tuple[Level, ...] = ("fast", "standard", "full")


@dataclass(frozen=True)
class Check:
    """One check: its name, the level from which on it runs, and the function."""

    name: str
    level: Level
    function: Callable[[Subject], None]

    @property
    def summary(self) -> str:
        """What it holds, in one line."""
        return (self.function.__doc__ or "").strip().partition("\n")[0]


@dataclass(frozen=True)
class Outcome:
    """What one check found; ``reason`` is empty when it passed."""

    name: str
    status: Literal["passed", "failed", "skipped"]
    reason: str = ""


def chosen(level: Level) -> list[Check]:
    """The checks of a level and of those below it, in order."""
    return [check for check in CHECKS if _ORDER.index(check.level) <= _ORDER.index(level)]


def run(subject: Subject, check: Check) -> Outcome:
    """Run one check; whatever the teacher raises is a failure, and what it changes is noted and put back."""
    with subject.watching():
        try:
            check.function(subject)
        except SkippedError as nothing:
            return Outcome(check.name, "skipped", str(nothing))
        except FailedError as failure:
            return Outcome(check.name, "failed", str(failure))
        except (Exception, SystemExit) as error:
            return Outcome(check.name, "failed", describe(error))
    return Outcome(check.name, "passed")


def run_all(subject: Subject, level: Level = "standard") -> Iterator[Outcome]:
    """Run the checks of a level, one after the other."""
    return (run(subject, check) for check in chosen(level))


CHECKS = (
    Check("spec", "fast", declared.spec_is_valid),
    Check("trust", "fast", declared.trust_is_well_formed),
    Check("load", "fast", answers.it_loads),
    Check("answers", "fast", answers.it_answers),
    Check("frozen", "fast", answers.it_is_frozen),
    Check("preprocess", "fast", inputs.it_preprocesses),
    Check("pixels", "fast", inputs.it_normalises_pixels_once),
    Check("tokenize", "fast", inputs.it_tokenizes),
    Check("shape", "fast", answers.it_has_the_declared_shape),
    Check("dtype", "fast", answers.it_gives_float32),
    Check("finite", "fast", answers.it_is_finite),
    Check("deterministic", "fast", answers.it_is_deterministic),
    Check("raw", "fast", answers.it_does_not_normalise),
    Check("logit-scale", "fast", answers.its_logit_scale_is_a_number),
    Check("image-sensitivity", "fast", answers.images_differ),
    Check("text-sensitivity", "fast", answers.texts_differ),
    Check("golden-tokens", "fast", declared.golden_tokens),
    Check("golden-pixels", "fast", declared.golden_pixels),
    Check("golden-image", "fast", declared.golden_image_values),
    Check("golden-text", "fast", declared.golden_text_values),
    Check("configuration", "standard", declared.configuration_agrees),
    Check("learnt-scale", "standard", declared.learnt_scale_agrees),
    Check("batch-invariance", "standard", answers.batches_do_not_matter),
    Check("any-image", "standard", inputs.any_8_bit_image_will_do),
    Check("any-text", "standard", inputs.any_text_will_do),
    Check("files", "full", declared.every_file_is_hashed_again),
    # What was seen during all that ran before, so these come last.
    Check("stdout", "fast", behaviour.stdout_stays_clean),
    Check("global-state", "fast", behaviour.the_process_stays_as_it_was),
    Check("no-network", "fast", behaviour.no_network_is_needed),
    Check("no-writes", "fast", behaviour.nothing_is_written),
)
