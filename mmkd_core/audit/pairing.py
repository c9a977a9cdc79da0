"""Candidate and parent on the same samples in one order, or the first thing in which they differ."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from mmkd_core.audit.evidence import SampleValues
from mmkd_core.errors import MmkdError
from mmkd_core.evaluate.predictions import DomainPredictions, Predictions

SAME = "Evaluate both releases on the same split of the same corpus with `mmkd eval zero-shot`."


class AuditError(MmkdError):
    """Two models that cannot be compared."""


def paired_domains(
    candidate: Predictions, parent: Predictions
) -> dict[str, tuple[DomainPredictions, DomainPredictions]]:
    """(candidate, parent) for each domain that both were measured on, rows by sample id.

    Raises:
        AuditError: samples, labels, groups, classes or protocols differ.
    """
    if candidate.protocol != parent.protocol:
        what = f"the candidate was measured by {candidate.protocol} and the parent by {parent.protocol}"
        raise AuditError(what, next=SAME)
    return {d: _paired(d, candidate, parent) for d in parent.domains if d in candidate.domains}


def paired_values(name: str, candidate: SampleValues, parent: SampleValues) -> tuple[SampleValues, SampleValues]:
    """Both with rows by sample id.

    Raises:
        AuditError: they are of different samples.
    """
    new, old = (part.take(_by_id(part.sample_id)) for part in (candidate, parent))
    _same_samples(name, new.sample_id, old.sample_id)
    return new, old


def _paired(domain: str, candidate: Predictions, parent: Predictions) -> tuple[DomainPredictions, DomainPredictions]:
    new, old = candidate[domain], parent[domain]
    if new.classes != old.classes:
        what = f"the classes of {domain} are {', '.join(new.classes)} for the candidate and {', '.join(old.classes)} "
        raise AuditError(f"{what}for the parent", next=SAME)
    new, old = (part.take(_by_id(part.sample_id)) for part in (new, old))
    _same_samples(domain, new.sample_id, old.sample_id)
    for name in ("label", "group_id"):
        differs = getattr(new, name) != getattr(old, name)
        if differs.any():
            what = f"candidate and parent give different values of {name} for sample {new.sample_id[differs.argmax()]}"
            raise AuditError(what, where=domain, next=SAME)
    return new, old


def _same_samples(name: str, new: NDArray[np.object_], old: NDArray[np.object_]) -> None:
    for one, other, names in ((old, new, ("candidate", "parent")), (new, old, ("parent", "candidate"))):
        if lost := sorted(set(one) - set(other)):
            what = f"the {names[0]} was not evaluated on sample {lost[0]} of {name}, the {names[1]} was"
            raise AuditError(f"{what} ({len(lost)} such samples)", next=SAME)
    if len(new) != len(old):
        raise AuditError(f"{len(new)} rows of {name} for the candidate and {len(old)} for the parent", next=SAME)


def _by_id(sample_id: NDArray[np.object_]) -> NDArray[Any]:
    return np.argsort(sample_id.astype(str), kind="stable")
