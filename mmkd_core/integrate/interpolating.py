"""How far to go from the parent toward the candidate: the largest step that loses nothing on the validation split.

The weights in between are models too, and a few of them are asked for predictions, the boldest first. The verdict on
the one that is chosen comes from the test split, which has no part in the choice.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

from mmkd_core.audit.comparison import MEAN, Comparison, Verdict
from mmkd_core.audit.evidence import Evidence
from mmkd_core.audit.forgetting import ForgettingAudit, forgetting
from mmkd_core.audit.gate import Gate
from mmkd_core.audit.pairing import AuditError
from mmkd_core.data.manifest import Corpus
from mmkd_core.distill.averaging import Weights, mix
from mmkd_core.integrate.student_data import Pixels, predict
from mmkd_core.progress import Progress, Silent
from mmkd_core.student.model import Student

STEPS = (1.0, 0.8, 0.65, 0.5, 0.35, 0.2, 0.1)
HALF = 0.5
"""The step where nothing can be measured (decision 7)."""
SPLIT = "val"


@dataclass(frozen=True)
class Step:
    """The step that was chosen: 0 is the parent, 1 the candidate.

    Attributes:
        tried: by step, on the validation split, the domain with the lowest change of AUC, the change and the verdict.
    """

    size: float
    tried: dict[str, dict[str, Any]]


def largest_step(
    student: Student,
    parent: Weights,
    candidate: Weights,
    corpus: Corpus,
    pixels: Pixels,
    gate: Gate,
    loss: float,
    progress: Progress | None = None,
    steps: tuple[float, ...] = STEPS,
    domains: Collection[str] = (),
) -> Step:
    """Leave ``student`` at the largest of ``steps`` that passes; at the parent if none does.

    Half way where the validation split is too small for any domain to have an AUC.

    Args:
        gate: of the audit. A step that it fails is refused.
        loss: a step is refused too if a domain loses more than this (a fraction of AUC) and one standard error: a
            validation split is small, the gate alone leaves much open on it, and of many domains one always loses.
        domains: where ``loss`` counts: what was taught. Elsewhere the parent guesses, and a guess may change. All of
            them if none is given.
    """
    mix(student, parent, candidate, 0.0)
    before, tried = Evidence(predict(student, corpus, pixels, SPLIT)), {}
    with (progress or Silent()).task("between parent and candidate", len(steps), "steps") as advance:
        for step in steps:
            mix(student, parent, candidate, step)
            try:
                found = forgetting(Evidence(predict(student, corpus, pixels, SPLIT)), before, gate)
            except AuditError:
                found = None
            if found is None or not _changes(found, domains):
                mix(student, parent, candidate, HALF)
                return Step(HALF, {})
            row = worst(found, domains)
            tried[f"{step:g}"] = {"domain": row.part, "delta": round(row.delta, 5), "verdict": found.verdict.value}
            advance(1, f"{step:g}: {row.part} {100 * row.delta:+.1f}")
            kept = all(row.delta + row.standard_error(gate.alpha) >= -loss for row in _changes(found, domains))
            if kept and found.verdict is not Verdict.FAIL:
                return Step(step, tried)
    mix(student, parent, candidate, 0.0)
    return Step(0.0, tried)


def worst(audit: ForgettingAudit, domains: Collection[str] = ()) -> Comparison:
    """The domain with the lowest change of AUC; among ``domains`` if one of them was measured."""
    return min(_changes(audit, domains), key=lambda row: row.delta)


def _changes(audit: ForgettingAudit, domains: Collection[str]) -> list[Comparison]:
    rows = {part: row for part, row in audit.family("zero-shot", "auc").items() if part != MEAN}
    return [row for part, row in rows.items() if part in domains] or list(rows.values())
