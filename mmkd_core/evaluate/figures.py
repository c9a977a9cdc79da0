"""From outcomes to figures: a number, what it is over, its interval, and never a bare NaN.

Every task measures its outcomes under the draws of one bootstrap over patients; ``score`` makes figures of them and
``compare`` makes paired differences of two models, draw by draw. Patients are resampled, not images: 60 patients with
890 images are 60 observations.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from mmkd_core.errors import DataError
from mmkd_core.evaluate.outcomes import Outcomes
from mmkd_core.statistics import GroupBootstrap, Interval
from mmkd_core.statistics.intervals import Floats


@dataclass(frozen=True, eq=False)
class Measured:
    """One metric of one model, on all rows and in each resample.

    Attributes:
        metric: exact name; the score function is part of it.
        part: what it is over: ``closed``, ``10 % of the labels``; empty for everything.
        estimate: on all rows; None where the metric is not defined on them.
        draws: (B,) one value per resample, NaN where it is not defined.
        undefined: why there is no estimate.
        limits: of the metric, the bounds where one group says nothing about others.
        lower_is_better: of an error.
        remark: what else a reader should know.
        chance: what guessing gives, where that depends on the samples.
    """

    metric: str
    part: str
    estimate: float | None
    draws: Floats
    undefined: str = "not defined on these samples"
    limits: tuple[float, float] = (0.0, 1.0)
    lower_is_better: bool = False
    remark: str = ""
    chance: float | None = None


Measure = Callable[[Outcomes, GroupBootstrap], Sequence[Measured]]


@dataclass(frozen=True)
class Figure:
    """One number of one task, or of the difference of two models."""

    protocol: str
    metric: str
    part: str
    interval: Interval | None
    status: str = "ok"
    """``ok``, or why there is no number."""
    lower_is_better: bool = False
    remark: str = ""
    chance: float | None = None
    """What guessing gives."""

    def to_json(self) -> dict[str, Any]:
        """Plain JSON."""
        return asdict(self)


def score(outcomes: Outcomes, measure: Measure, resamples: int = 1000, seed: int = 0) -> list[Figure]:
    """All figures of one model, each with its 95 % interval."""
    bootstrap = GroupBootstrap(outcomes["group_id"], resamples, seed)
    return [_figure(outcomes.protocol, found, bootstrap) for found in measure(outcomes, bootstrap)]


def compare(first: Outcomes, second: Outcomes, measure: Measure, resamples: int = 1000, seed: int = 0) -> list[Figure]:
    """``first`` minus ``second`` in every metric, on the same samples under the same draws.

    Raises:
        DataError: the two were not measured on the same samples by the same protocol.
    """
    if first.protocol != second.protocol:
        raise DataError(f"{first.protocol} cannot be compared with {second.protocol}", next="Evaluate both anew.")
    if not np.array_equal(first["sample_id"].astype(str), second["sample_id"].astype(str)):
        raise DataError("the two models were measured on different samples", next="Evaluate both on one set.")
    bootstrap = GroupBootstrap(first["group_id"], resamples, seed)
    figures = []
    for one, other in zip(measure(first, bootstrap), measure(second, bootstrap), strict=True):
        estimate = None if one.estimate is None or other.estimate is None else one.estimate - other.estimate
        limit = max(abs(bound) for bound in one.limits)
        undefined = one.undefined if one.estimate is None else other.undefined
        paired = Measured(one.metric, one.part, estimate, one.draws - other.draws, undefined, (-limit, limit))
        figures.append(_figure(first.protocol, paired, bootstrap, one.lower_is_better))
    return figures


def _figure(protocol: str, found: Measured, bootstrap: GroupBootstrap, lower_is_better: bool | None = None) -> Figure:
    lower = found.lower_is_better if lower_is_better is None else lower_is_better
    interval, status = None, f"undefined: {found.undefined}"
    if found.estimate is not None:
        interval, status = bootstrap.interval(found.estimate, found.draws, 0.95, found.limits), "ok"
    return Figure(protocol, found.metric, found.part, interval, status, lower, found.remark, found.chance)
