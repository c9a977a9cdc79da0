"""What the probe images say of a teacher in one domain: enough to measure it or not, better than chance or not."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mmkd_core.data.enough import Minimum
from mmkd_core.statistics import GroupBootstrap, Interval, macro_auc, wilson_lower
from mmkd_core.statistics.classification import classification
from mmkd_core.statistics.odds import log_odds, softmax

ONE_SIDED = 0.90
"""Confidence of a two-sided interval whose lower bound is a one-sided 95 % bound."""

Floats = NDArray[np.float64]


class Status(StrEnum):
    """What is known of a teacher in a domain."""

    MEASURED = "measured"
    CHANCE = "not better than chance"
    UNKNOWN = "not measured"


@dataclass(frozen=True, eq=False)
class Probe:
    """Labelled images of one domain that a teacher was asked about.

    Attributes:
        split: where they come from: ``val``, or ``train`` where that is too small.
        rows: (n,) of the corpus.
        logits: (n, C) with the teacher's own logit scale.
        truth: (n,) class of each.
        group: (n,) patient of each.
        names: of the C classes.
        finding: of a domain with several findings per image, the one that is asked about: absent or there.
    """

    split: str
    rows: NDArray[np.int64]
    logits: Floats
    truth: NDArray[np.int64]
    group: NDArray[np.object_]
    names: tuple[str, ...]
    finding: str = ""

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def right(self) -> NDArray[np.bool_]:
        """(n,) True where the first choice is the label."""
        return self.logits.argmax(axis=1) == self.truth if len(self) else np.zeros(0, dtype=bool)


@dataclass(frozen=True)
class Measured:
    """Figures of a teacher on a probe.

    Attributes:
        status: what they come to.
        why: the reason for people, where the status is not ``measured``.
        n, patients: probe images, and groups that they come from.
        classes: number of classes with enough of them.
        accuracy, balanced: None without probe images; balanced is the mean over the classes that occur.
        lower: one-sided 95 % Wilson bound of the accuracy.
        auc: macro one-vs-rest, 95 % by patient; None where it is undefined.
        ahead: accuracy minus that of always answering the commonest class, with a one-sided 95 % lower bound.
        scarce: classes with too few of them.
        temperature: that the probe images ask for (1: the teacher's own scale is right).
    """

    status: Status
    why: str
    n: int = 0
    patients: int = 0
    classes: int = 0
    accuracy: float | None = None
    balanced: float | None = None
    lower: float | None = None
    auc: Interval | None = None
    ahead: Interval | None = None
    scarce: tuple[str, ...] = ()
    temperature: float = 1.0

    @property
    def words(self) -> str:
        """Accuracy, balanced accuracy and what they rest on, for people."""
        if self.accuracy is None or self.balanced is None:
            return "no probe images"
        patients = f" of {self.patients} patients" if self.patients != self.n else ""
        return (
            f"{points(self.accuracy)} % right (balanced {points(self.balanced)} %) on {self.n} probe images{patients}"
        )


def measured(probe: Probe, minimum: Minimum, seed: int, calibrate: bool = False) -> Measured:
    """Measure a teacher on its probe images; where they are too few to count there are no figures.

    The answer must beat the commonest class, patient by patient, and chance. Where one finding is asked about, which is
    mostly absent, balanced accuracy takes the place of accuracy.
    """
    count = np.bincount(probe.truth, minlength=len(probe.names))
    size: dict[str, Any] = {
        "n": len(probe),
        "patients": len(set(probe.group)),
        "classes": int((count >= minimum.per_class).sum()),
        "scarce": tuple(np.array(probe.names, dtype=object)[count < minimum.per_class]),
    }
    if lacks := minimum.lacks(probe.truth, probe.group, probe.names):
        return Measured(Status.UNKNOWN, lacks, **size)
    bootstrap = GroupBootstrap(probe.group, seed=seed)
    right = probe.right
    recall = np.array([right[probe.truth == c].mean() for c in np.flatnonzero(count)])
    common = int(count.argmax())
    auc = _auc(log_odds(probe.logits), probe.truth, bootstrap)
    ahead = _balanced_ahead(probe, recall, bootstrap) if probe.finding else _ahead(probe, common, bootstrap)
    why = []
    if ahead.lower <= 0:
        always = f"{probe.names[common]} alone is right on {points(count[common] / len(probe))} %"
        why.append("balanced accuracy is not above 50 %" if probe.finding else always)
    if auc.lower <= 0.5:
        why.append(f"AUC {points(auc.estimate)} ({points(auc.lower)} to {points(auc.upper)}) is not above 50")
    return Measured(
        Status.CHANCE if why else Status.MEASURED,
        " and ".join(why),
        accuracy=float(right.mean()),
        balanced=float(recall.mean()),
        lower=wilson_lower(int(right.sum()), len(probe)),
        auc=auc,
        ahead=ahead,
        temperature=fitted_temperature(probe.logits, probe.truth) if calibrate else 1.0,
        **size,
    )


def together(probes: Sequence[Probe], found: Sequence[Measured], seed: int) -> Measured:
    """Measurements of all findings of a multi-label domain as one: means over the findings that could be measured.

    Measured is a domain where one finding is; which ones, rulings look at themselves.
    """
    known = [i for i, part in enumerate(found) if part.status is not Status.UNKNOWN]
    good = [i for i in known if found[i].status is Status.MEASURED]
    if not known:
        return found[0]
    first, parts = probes[known[0]], [found[i] for i in known]
    odds = np.stack([probes[i].logits[:, 1] - probes[i].logits[:, 0] for i in known], axis=1)
    there = np.stack([probes[i].truth == 1 for i in known], axis=1)
    bootstrap = GroupBootstrap(first.group, seed=seed)
    draws = np.nanmean(bootstrap.aucs(odds, there), axis=1)
    why = "" if good else "; ".join(f"{probes[i].finding}: {found[i].why}" for i in known)
    return Measured(
        Status.MEASURED if good else Status.CHANCE,
        why,
        n=len(first),
        patients=bootstrap.groups,
        classes=len(known),
        accuracy=float(np.mean([part.accuracy for part in parts])),
        balanced=float(np.mean([part.balanced for part in parts])),
        auc=bootstrap.interval(float(np.mean([part.auc.estimate for part in parts if part.auc])), draws),
        scarce=tuple(probe.finding for probe, part in zip(probes, found, strict=True) if part.status is Status.UNKNOWN),
    )


def _auc(ranking: Floats, truth: NDArray[np.int64], bootstrap: GroupBootstrap) -> Interval:
    estimate = macro_auc(ranking, truth)
    assert estimate is not None  # there are two classes
    return bootstrap.interval(estimate, bootstrap.macro_auc(ranking, truth))


def _ahead(probe: Probe, common: int, bootstrap: GroupBootstrap) -> Interval:
    better = probe.right.astype(np.float64) - (probe.truth == common)
    return bootstrap.interval(float(better.mean()), bootstrap.mean(better), ONE_SIDED, limits=(-1.0, 1.0))


def _balanced_ahead(probe: Probe, recall: Floats, bootstrap: GroupBootstrap) -> Interval:
    draws = classification(probe.truth, probe.logits.argmax(axis=1), 2, bootstrap).recall - 0.5
    return bootstrap.interval(float(recall.mean()) - 0.5, draws, ONE_SIDED, limits=(-1.0, 1.0))


def fitted_temperature(logits: Floats, truth: NDArray[np.int64]) -> float:
    """Temperature T that gives the smallest log loss of softmax(logits / T) (Guo et al. 2017), within a factor of 20.

    Labels are smoothed by one part in n + 2 (Platt 1999), so that a teacher which is always right on a few images does
    not become certain of everything.
    """
    from scipy.optimize import minimize_scalar

    n, classes = logits.shape
    smooth = 1 / (n + 2)
    target = np.full((n, classes), smooth / max(classes - 1, 1))
    target[np.arange(n), truth] = 1 - smooth

    def loss(log_t: float) -> float:
        scaled = logits / np.exp(log_t)
        shifted = scaled - scaled.max(axis=1, keepdims=True)
        log_sum = np.log(np.exp(shifted).sum(axis=1, keepdims=True))
        return float((target * (log_sum - shifted)).sum(axis=1).mean())

    found = minimize_scalar(loss, bounds=(-np.log(20), np.log(20)), method="bounded", options={"xatol": 1e-4})
    return float(np.exp(found.x))


def certain(logits: Floats, temperature: float) -> Floats:
    """(n, C) posteriors under a temperature."""
    return softmax(logits / temperature) if len(logits) else logits


def points(share: float) -> str:
    """``0.912`` as ``91.2``."""
    return f"{100 * share:.1f}"
