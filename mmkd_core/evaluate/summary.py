"""Figures with intervals from predictions: each domain, and the mean over domains (domains fixed, groups resampled)."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mmkd_core.evaluate.metrics import METRICS
from mmkd_core.evaluate.predictions import DomainPredictions, Predictions
from mmkd_core.statistics import GroupBootstrap, Interval, defined_classes, percentile_interval
from mmkd_core.statistics.auc import positives

OK = "ok"


SHOWN = ("auc", "balanced_accuracy", "brier")
"""Of ``METRICS``: ranking, decisions, and how far probabilities can be believed."""


@dataclass(frozen=True)
class DomainSummary:
    """One domain: figures as fractions with their intervals, and whether all classes are in it."""

    auc: Interval | None
    balanced_accuracy: Interval | None
    brier: Interval | None
    n: int
    groups: int
    status: str
    """``ok``, or which classes have no sample, or why there is no AUC."""


@dataclass(frozen=True)
class Summary:
    """All domains, and the mean of each figure over the domains in which it is defined."""

    domains: dict[str, DomainSummary]
    mean: Interval | None
    """Of AUC."""
    mean_balanced_accuracy: Interval | None
    mean_brier: Interval | None
    protocol: str

    def to_json(self) -> dict[str, Any]:
        """Plain JSON."""
        return asdict(self)


def summarise(predictions: Predictions, confidence: float = 0.95, resamples: int = 2000, seed: int = 0) -> Summary:
    """Figures with group-bootstrap intervals. A mean's samples and groups are those of the domains that it is over."""
    bootstraps = paired_bootstraps(predictions, resamples, seed)
    figures: dict[str, dict[str, Interval]] = {}
    means: list[Interval | None] = []
    for name in SHOWN:
        metric, intervals, draws = METRICS[name], {}, []
        for domain, part in predictions.domains.items():
            estimate = metric.estimate(part)
            if estimate is not None:
                draws.append(metric.draws(part, bootstraps[domain]))
                intervals[domain] = bootstraps[domain].interval(estimate, draws[-1], confidence, metric.limits)
        parts = {domain: predictions[domain] for domain in intervals}
        estimates = [found.estimate for found in intervals.values()]
        means.append(mean_interval(parts, estimates, draws, confidence, metric.limits) if parts else None)
        figures[name] = intervals
    domains = {
        domain: DomainSummary(
            figures["auc"].get(domain),
            figures["balanced_accuracy"].get(domain),
            figures["brier"].get(domain),
            len(part),
            len(set(part.group_id)),
            status(part),
        )
        for domain, part in predictions.domains.items()
    }
    return Summary(domains, means[0], means[1], means[2], predictions.protocol)


def paired_bootstraps(predictions: Predictions, resamples: int, seed: int) -> dict[str, GroupBootstrap]:
    """One bootstrap per domain, with draws that may be averaged over domains, resample by resample.

    Each domain is resampled on its own, as the domains are fixed. Where some group has samples in several domains, all
    groups are resampled together instead, so that a patient is drawn equally often in each of them.
    """
    parts = predictions.domains
    if not len(predictions):
        return {}
    groups = np.concatenate([part.group_id for part in parts.values()])
    names = np.repeat(np.array(list(parts), dtype=object), [len(part) for part in parts.values()])
    whole = GroupBootstrap(groups, resamples, seed, strata=None if _spans_domains(groups, names) else list(names))
    return {domain: whole.take(np.flatnonzero(names == domain)) for domain in parts}


def mean_interval(
    parts: Mapping[str, DomainPredictions],
    estimates: list[float],
    draws: list[NDArray[np.float64]],
    confidence: float,
    limits: tuple[float, float] = (0.0, 1.0),
) -> Interval:
    """Interval of the mean over domains from the draws of ``paired_bootstraps``, (B,) each.

    A domain that is undefined in a resample is left out of that resample's mean.
    """
    groups = np.concatenate([part.group_id for part in parts.values()])
    samples, patients = len(groups), len(set(groups))
    return percentile_interval(float(np.mean(estimates)), mean_draws(draws), samples, patients, confidence, limits)


def mean_draws(draws: list[NDArray[np.float64]]) -> NDArray[np.float64]:
    """Mean over domains of each resample, (B,); NaN where no domain is defined."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        mean: NDArray[np.float64] = np.nanmean(np.stack(draws), axis=0)
    return mean


def status(part: DomainPredictions) -> str:
    """``ok``, or what is missing for an AUC over all classes."""
    classes = len(part.classes)
    defined, has = defined_classes(part.truth, classes), np.flatnonzero(positives(part.truth, classes).any(axis=0))
    if part.multilabel and len(defined) < classes:
        absent = [name for index, name in enumerate(part.classes) if index not in defined]
        if not defined:
            return f"undefined: each of the {classes} labels is on all samples or on none"
        return f"over {len(defined)} of {classes} labels: all samples or none have {', '.join(absent)}"
    absent = [name for index, name in enumerate(part.classes) if index not in has]
    if not defined:
        return f"undefined: {classes - len(absent)} of {classes} classes have samples"
    if absent:
        return f"over {classes - len(absent)} of {classes} classes: no sample of {', '.join(absent)}"
    return OK


def _spans_domains(groups: NDArray[np.object_], domains: NDArray[np.object_]) -> bool:
    return len(set(zip(groups, domains, strict=True))) > len(set(groups))
