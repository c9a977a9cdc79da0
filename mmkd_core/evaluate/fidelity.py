"""How well a student still tells what a teacher says: cosine of its head's prediction, and the same first choice."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from mmkd_core.evaluate.predictions import DomainPredictions
from mmkd_core.trust.beliefs import unit


def cosines(predicted: NDArray[np.floating], target: NDArray[np.floating]) -> NDArray[np.float64]:
    """(n,) cosine of each row of (n, D) with that of the other."""
    found: NDArray[np.float64] = np.einsum("nd,nd->n", unit(predicted), unit(target)).astype(np.float64)
    return found


def agreement(student: DomainPredictions, teacher: DomainPredictions) -> dict[str, bool]:
    """By sample id: whether both choose the same class; samples that only one was asked about are left out."""
    choice = dict(zip(teacher.sample_id.astype(str), teacher.choice, strict=True))
    rows = zip(student.sample_id.astype(str), student.choice, strict=True)
    return {str(sample): bool(np.all(own == choice[sample])) for sample, own in rows if sample in choice}


def trusted_with(teacher: DomainPredictions, whole: bool, threshold: float) -> NDArray[Any]:
    """Rows of a split that the teacher would teach by the rule by which it teaches.

    Args:
        whole: it is trusted with the domain; else only where it is right and at least ``threshold`` sure.
    """
    sure = teacher.right & (teacher.sure >= threshold)
    return np.flatnonzero(np.ones(len(teacher), bool) if whole else sure)
