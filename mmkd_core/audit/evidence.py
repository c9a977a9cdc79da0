"""What an audit compares: one model's answers, sample by sample."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from mmkd_core.evaluate.predictions import Predictions


class Key(NamedTuple):
    """What is compared: a metric of a family, for one domain, teacher or direction."""

    family: str
    metric: str
    part: str


@dataclass(frozen=True)
class Gap:
    """Why something was not measured."""

    reason: str
    next: str = ""
    """What makes it measurable; empty where nothing does, for it lies in the data."""


@dataclass(frozen=True, eq=False)
class SampleValues:
    """One figure per sample; the metric is its weighted mean, and more is better.

    Yes or no (``values`` of bool: found, agreed, right) is compared by a score test, anything else by resampling.
    """

    sample_id: NDArray[np.object_]
    group_id: NDArray[np.object_]
    domain: NDArray[np.object_]
    values: NDArray[Any]
    """(n,) bool or float."""
    weight: NDArray[np.float64]
    """(n,) what each sample counts."""
    note: str = "ok"
    """What a reader of the metric should know."""

    def __len__(self) -> int:
        return len(self.sample_id)

    def mean(self) -> float:
        """The metric."""
        return float(np.average(self.values, weights=self.weight))

    @classmethod
    def joined(cls, parts: Sequence[SampleValues]) -> SampleValues:
        """All samples of some parts, each part counting the same."""
        weight = np.concatenate([part.weight / part.weight.sum() for part in parts])
        names = ("sample_id", "group_id", "domain", "values")
        sample, group, domain, values = (np.concatenate([getattr(part, name) for part in parts]) for name in names)
        return cls(sample, group, domain, values, weight)

    def take(self, index: NDArray[Any]) -> SampleValues:
        """The samples at ``index``."""
        return SampleValues(
            self.sample_id[index],
            self.group_id[index],
            self.domain[index],
            self.values[index],
            self.weight[index],
            self.note,
        )


@dataclass(frozen=True, eq=False)
class Evidence:
    """All that an audit compares of one model."""

    predictions: Predictions
    """Zero-shot, on the audited split: AUC, accuracy, calibration and flips come from them."""
    outcomes: Mapping[Key, SampleValues] = field(default_factory=dict)
    """Retrieval and fidelity, where they could be measured."""
    undefined: Mapping[Key, Gap] = field(default_factory=dict)
    """What was not measured, and why."""
