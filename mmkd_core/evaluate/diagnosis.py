"""``mmkd/diagnosis@2``: is a patient ill? Pooled frozen features, a threshold that the test patients never saw.

A patient is the mean of their images' unit-norm features and is positive if any of their images is. The classifier is
fitted to the training patients; on the validation patients two thresholds are fixed: the one with the highest balanced
accuracy, and the one that keeps a specificity of 95 %. On the test patients nothing is chosen any more.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from mmkd_core.errors import DataError
from mmkd_core.evaluate.classes import calibration_error, share
from mmkd_core.evaluate.classifier import fit
from mmkd_core.evaluate.figures import Measured
from mmkd_core.evaluate.outcomes import Outcomes
from mmkd_core.evaluate.patients import pooled
from mmkd_core.evaluate.probe import Labelled
from mmkd_core.statistics import GroupBootstrap, macro_auc
from mmkd_core.statistics.intervals import Floats
from mmkd_core.statistics.odds import log_odds, sigmoid

PROTOCOL = "mmkd/diagnosis@2"
SPECIFICITY = 0.95
ILL, WELL = "ill", "well"


@dataclass(frozen=True, eq=False)
class Cases:
    """G patients: pooled features (G, D), ill or well (bool), and who."""

    features: NDArray[np.float32]
    ill: NDArray[np.bool_]
    group_id: NDArray[np.object_]


def pool(images: Labelled, positive: Collection[str]) -> Cases:
    """Average the images of each patient; one image of a ``positive`` class makes the patient ill."""
    names, member, mean = pooled(images.features, images.group_id)
    ill = np.bincount(member, np.isin(images.label.astype(str), sorted(positive))) > 0
    return Cases(mean, ill, names)


def predict(train: Cases, val: Cases, test: Cases, seed: int = 0) -> Outcomes:
    """Log-odds of illness of each test patient, and the two thresholds.

    Raises:
        DataError: a split has only ill or only well patients.
    """
    for name, part in (("train", train), ("val", val)):
        if part.ill.all() or not part.ill.any():
            raise DataError(f"the {name} patients are all {ILL if part.ill.all() else WELL}", next="Split them anew.")
    found = fit(train.features, _named(train.ill), val.features, _named(val.ill), seed)
    column = found.classes.index(ILL)
    tuned, final = (log_odds(found.logits(part.features))[:, column] for part in (val, test))
    return Outcomes(
        PROTOCOL,
        {"sample_id": test.group_id, "group_id": test.group_id, "ill": test.ill, "log_odds": final},
        {
            "threshold": best_threshold(tuned, val.ill),
            "specific_threshold": specific_threshold(tuned, val.ill, SPECIFICITY),
            "C": found.strength,
            "converged": found.converged,
        },
    )


def best_threshold(score: Floats, ill: NDArray[np.bool_]) -> float:
    """The threshold (ill if score >= it) with the highest balanced accuracy; half way between the scores beside it."""
    values = np.unique(score)
    cuts = np.concatenate([[values[0]], (values[1:] + values[:-1]) / 2])
    balanced = [((score >= cut)[ill].mean() + (score < cut)[~ill].mean()) / 2 for cut in cuts]
    return float(cuts[int(np.argmax(balanced))])


def specific_threshold(score: Floats, ill: NDArray[np.bool_], specificity: float) -> float:
    """The lowest threshold at which at least ``specificity`` of the well patients are called well."""
    well = np.sort(score[~ill])
    last = well[int(np.ceil(specificity * len(well))) - 1]
    above = score[score > last]
    return float((last + above.min()) / 2) if len(above) else float(np.nextafter(last, np.inf))


def measure(outcomes: Outcomes, bootstrap: GroupBootstrap) -> list[Measured]:
    """AUC, what the thresholds do, and calibration."""
    ill, value = outcomes["ill"].astype(bool), outcomes["log_odds"]
    pair, sure = np.stack([-value, value], axis=1), sigmoid(value)
    auc = macro_auc(pair, ill.astype(np.int64))
    called, strict = value >= outcomes.facts["threshold"], value >= outcomes.facts["specific_threshold"]
    every = np.ones(len(ill), bool)
    sensitivity = share("sensitivity", "", called, ill, bootstrap)
    specificity = share("specificity", "", ~called, ~ill, bootstrap)
    return [
        Measured("AUC", "", auc, bootstrap.macro_auc(pair, ill.astype(np.int64)), "all patients are alike"),
        share("accuracy", "", called == ill, every, bootstrap),
        _balanced(sensitivity, specificity),
        sensitivity,
        specificity,
        share("positive predictive value", "", ill, called, bootstrap),
        share("negative predictive value", "", ~ill, ~called, bootstrap),
        share(f"sensitivity at {SPECIFICITY:.0%} specificity", "", strict, ill, bootstrap),
        share(f"specificity at the threshold for {SPECIFICITY:.0%}", "", ~strict, ~ill, bootstrap),
        replace(share("Brier score", "", (sure - ill) ** 2, every, bootstrap), lower_is_better=True),
        calibration_error(sure, ill, "", bootstrap),
    ]


def _balanced(sensitivity: Measured, specificity: Measured) -> Measured:
    estimates = sensitivity.estimate, specificity.estimate
    mean = None if estimates[0] is None or estimates[1] is None else (estimates[0] + estimates[1]) / 2
    return Measured(
        "balanced accuracy", "", mean, (sensitivity.draws + specificity.draws) / 2, "all patients are alike"
    )


def _named(ill: NDArray[np.bool_]) -> NDArray[np.object_]:
    return np.where(ill, ILL, WELL).astype(object)
