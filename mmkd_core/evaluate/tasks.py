"""The six tasks by protocol: what makes figures of their outcomes."""

from __future__ import annotations

from mmkd_core import advice
from mmkd_core.errors import DataError
from mmkd_core.evaluate import diagnosis, multilabel, probe, retrieval, survival, vqa, zero_shot
from mmkd_core.evaluate.figures import Measure
from mmkd_core.evaluate.outcomes import Outcomes

MEASURES: dict[str, Measure] = {
    zero_shot.PROTOCOL: zero_shot.measure,
    retrieval.PROTOCOL: retrieval.measure,
    probe.PROTOCOL: probe.measure,
    vqa.CLOSED: vqa.measure_closed,
    vqa.PROBE: vqa.measure_probe,
    survival.PROTOCOL: survival.measure,
    multilabel.ZERO_SHOT: multilabel.measure_zero_shot,
    multilabel.PROBE: multilabel.measure_probe,
    diagnosis.PROTOCOL: diagnosis.measure,
}


def measure_of(outcomes: Outcomes) -> Measure:
    """What makes figures of these outcomes.

    Raises:
        DataError: they were made by a protocol that this mmkd does not know.
    """
    if outcomes.protocol not in MEASURES:
        known = ", ".join(MEASURES)
        raise DataError(f"unknown protocol {outcomes.protocol!r}; there are {known}", next=advice.NEWER)
    return MEASURES[outcomes.protocol]
