"""Each figure that an audit knows of one model, on its own: its value and the same of every resample."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mmkd_core.audit.evidence import Evidence, Key
from mmkd_core.audit.measure import Draws
from mmkd_core.audit.metrics import TABLE
from mmkd_core.evaluate.metrics import METRICS
from mmkd_core.statistics import GroupBootstrap

Floats = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Figure:
    """One metric of one model on one part."""

    value: float
    sample_id: NDArray[np.object_]
    """(n,) what it is over."""
    drawn: Floats
    """(B,) its resamples."""


def figures_of(evidence: Evidence, draws: Draws) -> dict[Key, Figure]:
    """Zero-shot, calibration, retrieval and fidelity of a model, as far as they could be measured."""
    return dict(_figures(evidence, draws))


def _figures(evidence: Evidence, draws: Draws) -> Iterator[tuple[Key, Figure]]:
    for domain, part in evidence.predictions.domains.items():
        bootstrap, ids = draws.of(part.sample_id), part.sample_id
        for metric in TABLE:
            if metric.of_domain and (value := METRICS[metric.name].estimate(part)) is not None:
                drawn = METRICS[metric.name].draws(part, bootstrap)
                yield Key(metric.family, metric.name, domain), Figure(value, ids, drawn)
    for key, found in evidence.outcomes.items():
        bootstrap = draws.of(found.sample_id)
        yield key, Figure(found.mean(), found.sample_id, bootstrap.mean(found.values, found.weight))


def flips_of(after: Evidence, before: Evidence, domain: str, draws: Draws) -> Figure:
    """Share of a domain's samples that ``before`` gets right and ``after`` wrong: negative flips."""
    new, old = after.predictions[domain], before.predictions[domain]
    right = dict(zip(new.sample_id.astype(str), new.right, strict=True))
    now = np.array([right[sample] for sample in old.sample_id.astype(str)])
    return _mean(old.right & ~now, old.sample_id, draws.of(old.sample_id))


def _mean(values: NDArray[np.generic], ids: NDArray[np.object_], bootstrap: GroupBootstrap) -> Figure:
    return Figure(float(np.mean(values.astype(np.float64))), ids, bootstrap.mean(values))
