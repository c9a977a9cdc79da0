"""How well a student still tells what a teacher says: cosine of its head's prediction, and the same first choice."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from mmkd_core.evaluate.predictions import DomainPredictions
from mmkd_core.statistics.odds import sigmoid, softmax
from mmkd_core.trust.beliefs import unit
from mmkd_core.trust.results import DomainTrust


def cosines(predicted: NDArray[np.floating], target: NDArray[np.floating]) -> NDArray[np.float64]:
    """(n,) cosine of each row of (n, D) with that of the other."""
    found: NDArray[np.float64] = np.einsum("nd,nd->n", unit(predicted), unit(target)).astype(np.float64)
    return found


def agreement(student: DomainPredictions, teacher: DomainPredictions) -> dict[str, bool]:
    """By sample id: whether both choose the same class; samples that only one was asked about are left out."""
    choice = dict(zip(teacher.sample_id.astype(str), teacher.choice, strict=True))
    rows = zip(student.sample_id.astype(str), student.choice, strict=True)
    return {str(sample): bool(np.all(own == choice[sample])) for sample, own in rows if sample in choice}


def trusted_with(teacher: DomainPredictions, trust: DomainTrust, threshold: float) -> NDArray[Any]:
    """Rows of a split that the teacher would teach by the rule by which it teaches.

    Args:
        teacher: what it says of the split.
        trust: what it may teach in the domain: all of it, or what it is sure of and right about in some classes.
        threshold: how sure it must be.
    """
    if trust.trusted:
        return np.arange(len(teacher))
    known = np.isin(teacher.classes, trust.sure_of)
    if not teacher.multilabel:
        sure = softmax(teacher.logits / trust.temperature).max(axis=1) >= threshold
        return np.flatnonzero(teacher.right & sure & known[teacher.truth])
    chance = sigmoid(teacher.logits)
    fine = np.where(teacher.truth, chance, 1 - chance) >= threshold
    asked = np.where(teacher.truth.any(axis=1, keepdims=True), teacher.truth, True)  # of none, each must be absent
    return np.flatnonzero(((fine & known) | ~asked).all(axis=1))
