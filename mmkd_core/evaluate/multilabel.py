"""Images of several classes, or of none (ChestX-ray14): each class is a question of its own, there or not there.

``mmkd/zero-shot-multilabel@2``: softmax of logit scale x cosine over two texts, the mean of the sentences that say that
the class is there and the mean of those that say that it is not (the way of CheXzero, Tiu et al. 2022).
``mmkd/linear-probe-multilabel@2``: one logistic regression per class, with the labels of ``mmkd/linear-probe@2``.

Figures are unweighted means over the classes, as MedMNIST's evaluator has them, beside the AUC of each class.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mmkd_core.evaluate.classes import share
from mmkd_core.evaluate.classifier import fit
from mmkd_core.evaluate.figures import Measured
from mmkd_core.evaluate.outcomes import Outcomes
from mmkd_core.evaluate.probe import draw_groups, draws, over_runs
from mmkd_core.evaluate.zero_shot import class_embeddings, finding_logits
from mmkd_core.statistics import GroupBootstrap
from mmkd_core.statistics.auc import auc
from mmkd_core.statistics.intervals import Floats
from mmkd_core.statistics.odds import NEVER, log_odds

ZERO_SHOT, PROBE = "mmkd/zero-shot-multilabel@2", "mmkd/linear-probe-multilabel@2"
AUC, ACCURACY = "macro AUC over classes", "accuracy, mean over classes (threshold 0.5)"


@dataclass(frozen=True, eq=False)
class MultiLabelled:
    """n images of one split: features (n, D), which of the C classes are there (n, C), groups and ids."""

    features: NDArray[np.floating]
    truth: NDArray[np.bool_]
    group_id: NDArray[np.object_]
    sample_id: NDArray[np.object_]


def choose(
    images: MultiLabelled,
    there: Mapping[str, NDArray[np.floating]],
    absent: Mapping[str, NDArray[np.floating]],
    logit_scale: float,
) -> Outcomes:
    """Log-odds of every class in n images.

    Args:
        images: of the test split, with a column of ``truth`` for each class of ``there``.
        there: by class (P, D) features of the sentences that say that it is there.
        absent: those that say that it is not.
        logit_scale: of the model, already exponentiated.
    """
    yes, no = (class_embeddings([texts[name] for name in there]) for texts in (there, absent))
    said = finding_logits(images.features, yes, no, logit_scale)
    columns = {"sample_id": images.sample_id, "group_id": images.group_id, "log_odds": said}
    facts = {"classes": list(there), "logit_scale": logit_scale}
    return Outcomes(ZERO_SHOT, columns | {"truth": images.truth.astype(np.int8)}, facts)


def probe(train: MultiLabelled, val: MultiLabelled, test: MultiLabelled, classes: list[str], seed: int = 0) -> Outcomes:
    """Log-odds of the test images under every run (fraction x seed)."""
    kinds = [column for column in train.truth.T if column.any()]
    runs: list[dict[str, Any]] = []
    said = []
    for fraction, number in draws(seed):
        rows = draw_groups(train.group_id, kinds, fraction, number)
        columns = [_one(train, val, test, rows, number_of, seed) for number_of in range(len(classes))]
        said.append(np.stack(columns, axis=1))
        runs.append({"fraction": fraction, "seed": number, "rows": len(rows)})
    table = {
        "sample_id": np.tile(test.sample_id, len(runs)),
        "group_id": np.tile(test.group_id, len(runs)),
        "run": np.repeat(np.arange(len(runs)), len(test.truth)),
        "truth": np.tile(test.truth.astype(np.int8), (len(runs), 1)),
        "log_odds": np.concatenate(said),
    }
    return Outcomes(PROBE, table, {"classes": classes, "runs": runs})


def _one(
    train: MultiLabelled,
    val: MultiLabelled,
    test: MultiLabelled,
    rows: NDArray[np.int64],
    column: int,
    seed: int,
) -> Floats:
    """Log-odds of one class in the test images; where training saw it always or never, that."""
    known = train.truth[rows, column]
    if known.all() or not known.any():
        return np.full(len(test.truth), -NEVER if known.all() else NEVER)
    named = [np.where(part, "there", "absent").astype(object) for part in (known, val.truth[:, column])]
    found = fit(train.features[rows], named[0], val.features, named[1], seed)
    return log_odds(found.logits(test.features))[:, found.classes.index("there")]


def measure_zero_shot(outcomes: Outcomes, bootstrap: GroupBootstrap) -> list[Measured]:
    """The means over the classes, and the AUC of each."""
    return _figures(outcomes, bootstrap, "", each=True)


def measure_probe(outcomes: Outcomes, bootstrap: GroupBootstrap) -> list[Measured]:
    """Per fraction of the labels the means over the classes, as means over its seeds."""
    return over_runs(outcomes, lambda rows, part: _figures(outcomes.take(rows), bootstrap.take(rows), part))


def _figures(outcomes: Outcomes, bootstrap: GroupBootstrap, part: str, each: bool = False) -> list[Measured]:
    truth, said = outcomes["truth"].astype(bool), outcomes["log_odds"]
    columns = [number for number in range(truth.shape[1]) if 0 < truth[:, number].sum() < len(truth)]
    aucs = [auc(said[:, number], truth[:, number]) for number in columns]
    draws = bootstrap.aucs(said[:, columns], truth[:, columns])
    defined = np.isfinite(draws)
    total, count = np.where(defined, draws, 0.0).sum(axis=1), defined.sum(axis=1)
    mean = np.divide(total, count, out=np.full(len(draws), np.nan), where=count > 0)
    right = ((said > 0) == truth).mean(axis=1)
    found = [
        Measured(AUC, part, float(np.mean(aucs)) if aucs else None, mean, "no class is there in some images only"),
        share(ACCURACY, part, right, np.ones(len(truth)), bootstrap),
    ]
    names = outcomes.facts["classes"]
    if each:
        found += [Measured("AUC", names[n], aucs[i], draws[:, i]) for i, n in enumerate(columns)]
    return found
