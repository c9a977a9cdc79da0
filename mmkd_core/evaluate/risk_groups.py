"""Patients above and below the median risk: Kaplan-Meier curves and the log-rank test (Mantel 1966; lifelines).

The median is that of each fold, for the risks of two folds have no common scale. A patient at the median counts as low.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mmkd_core.evaluate.outcomes import Outcomes
from mmkd_core.evaluate.survival import lifelines
from mmkd_core.statistics.intervals import Floats


@dataclass(frozen=True, eq=False)
class Curve:
    """Kaplan-Meier estimate of one group, from time 0 on.

    Attributes:
        time: (m,) ascending; the curve jumps there.
        survival: (m,) share still without the event from that time on.
        lower, upper: (m,) its 95 % confidence limits (exponential Greenwood).
        follow_up: (n,) time of each patient, ascending.
    """

    time: Floats
    survival: Floats
    lower: Floats
    upper: Floats
    follow_up: Floats

    def at_risk(self, time: float) -> int:
        """Patients who are followed until ``time`` or longer."""
        return int(len(self.follow_up) - np.searchsorted(self.follow_up, time))


@dataclass(frozen=True, eq=False)
class RiskGroups:
    """The half with the higher risk, the other half, and whether they differ."""

    high: Curve
    low: Curve
    p_value: float


def risk_groups(outcomes: Outcomes) -> RiskGroups | None:
    """Both halves of the patients of a survival outcome; None where all patients of each fold have the same risk.

    Raises:
        DataError: lifelines is not installed.
    """
    time, event, high = outcomes["time"].astype(np.float64), outcomes["event"].astype(bool), above_median(outcomes)
    if high.all() or not high.any():
        return None
    test = lifelines().statistics.logrank_test(time[high], time[~high], event[high], event[~high])
    return RiskGroups(_curve(time[high], event[high]), _curve(time[~high], event[~high]), float(test.p_value))


def above_median(outcomes: Outcomes) -> NDArray[np.bool_]:
    """(n,) whether a patient's risk is above the median of their fold."""
    high = np.zeros(len(outcomes), bool)
    for number in range(outcomes.facts["folds"]):
        rows = np.flatnonzero(outcomes["fold"] == number)
        high[rows] = outcomes["risk"][rows] > np.median(outcomes["risk"][rows])
    return high


def _curve(time: Floats, event: NDArray[np.bool_]) -> Curve:
    fitted = lifelines().KaplanMeierFitter().fit(time, event)
    limits = fitted.confidence_interval_.to_numpy(np.float64)
    share = fitted.survival_function_.to_numpy(np.float64)[:, 0]
    return Curve(fitted.timeline.astype(np.float64), share, limits[:, 0], limits[:, 1], np.sort(time))
