"""A multi-label domain as a rule sees it: each finding is a question of its own, there or not there."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from mmkd_core.statistics import Interval
from mmkd_core.trust.case import Case, Mask
from mmkd_core.trust.measured import Status

if TYPE_CHECKING:
    from mmkd_core.trust.rules import TrustConfig


@dataclass(frozen=True, eq=False)
class FindingsCase(Case):
    """One teacher in one multi-label domain.

    An image is asked about for the findings that it has; one that has none, for all that could be measured.
    """

    @cached_property
    def parts(self) -> list[Case]:
        """The same teacher on each finding."""
        return [Case(self.view, self.domain, part, self.seed) for part in self.evidence.parts]

    @property
    def names(self) -> tuple[str, ...]:
        """Findings of the domain."""
        return tuple(part.evidence.probe.finding for part in self.parts)

    @cached_property
    def unproven(self) -> tuple[str, ...]:
        """Findings of the train samples that could not be measured."""
        columns = zip(self.names, self._there.T, strict=True)
        return tuple(name for name, there in columns if there.any() and name in self._scarce)

    def of_unproven(self) -> Mask:
        """(m,) True for each train sample with such a finding."""
        found = self._no_samples()
        found[self.evidence.answers.place] = self._there[:, np.isin(self.names, self.unproven)].any(axis=1)
        return found

    def right_often(self, config: TrustConfig) -> bool:
        """Better than chance in every finding that can be measured, with a balanced accuracy as the threshold asks."""
        known = [part.evidence.found for part in self.parts if part.evidence.found.status is not Status.UNKNOWN]
        standing = [
            0.5 + found.ahead.lower if config.strict and found.ahead else found.balanced or 0.0 for found in known
        ]
        measured = all(found.status is Status.MEASURED for found in known)
        return bool(known) and measured and min(standing) >= config.threshold

    def sure_and_right_of(self, config: TrustConfig) -> Mask:
        """(m,) True for each labelled train sample of whose findings it is sure and right."""
        return self._all_asked(self._sure_and_right(config))

    def proven(self, config: TrustConfig) -> tuple[tuple[str, ...], Mask]:
        """Findings that it has proved right about when it said that they are there; (m,) samples of such findings."""
        fine = self._sure_and_right(config)
        said = []
        for c, part in enumerate(self.parts):
            measured = part.evidence.found.status is Status.MEASURED
            good = part.reliable(config) & measured
            fine[:, c] &= good[part.evidence.answers.truth]
            said.append(bool(good[1]))
        return tuple(name for name, good in zip(self.names, said, strict=True) if good), self._all_asked(fine)

    def gain(self) -> Interval | None:
        """None: findings are not compared with the student."""
        return None

    @property
    def _scarce(self) -> tuple[str, ...]:
        return self.evidence.found.scarce or (self.names if self.evidence.found.status is Status.UNKNOWN else ())

    @cached_property
    def _there(self) -> NDArray[np.bool_]:
        """(k, C) findings of the labelled train samples."""
        return np.stack([part.evidence.answers.truth == 1 for part in self.parts], axis=1)

    def _sure_and_right(self, config: TrustConfig) -> NDArray[np.bool_]:
        """(k, C) True where it is sure of a finding, there or not, and right."""
        answers = [part.evidence.answers for part in self.parts]
        return np.stack([own.right & (own.sure >= config.threshold) for own in answers], axis=1)

    def _all_asked(self, fine: NDArray[np.bool_]) -> Mask:
        """(m,) True for each labelled train sample that is fine in every finding that it is asked about."""
        asked = self._there.copy()
        asked[~asked.any(axis=1)] = ~np.isin(self.names, self._scarce)
        found = self._no_samples()
        found[self.evidence.answers.place] = (fine | ~asked).all(axis=1) & asked.any(axis=1)
        return found

    def _unsure(self, config: TrustConfig) -> str:
        """What was found of each finding."""
        known = [part.evidence for part in self.parts if part.evidence.found.status is not Status.UNKNOWN]
        told = [f"{part.probe.finding} {100 * (part.found.balanced or 0):.1f} %" for part in known[:5]]
        return f" ({', '.join(told)}), {config.percent} sure and right of too few to prove a finding"


def case_of(case: Case) -> Case:
    """The same case, finding by finding where the domain is a multi-label one."""
    if not case.evidence.parts:
        return case
    return FindingsCase(case.view, case.domain, replace(case.evidence), case.seed, None, case.listed)
