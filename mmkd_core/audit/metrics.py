"""What an audit compares: a table, from which the gate, the figures of a release and the chain read what there is."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class AuditMetric:
    """One metric of a family.

    Attributes:
        margin: loss that is tolerated by default, a fraction.
        of_mean: the same of the mean over domains, where it is another.
        gates: whether it has a part in the verdict by default.
        less_is_better: of an error or a share of losses.
    """

    family: str
    name: str
    margin: float
    of_mean: float | None = None
    gates: bool = False
    less_is_better: bool = False

    @property
    def of_domain(self) -> bool:
        """True for figures of the predictions in a domain, which ``evaluate.metrics`` computes."""
        return self.family in ("zero-shot", "calibration")


TABLE = (
    AuditMetric("zero-shot", "auc", 0.02, gates=True),
    AuditMetric("zero-shot", "balanced_accuracy", 0.08, of_mean=0.05, gates=True),
    AuditMetric("zero-shot", "accuracy", 0.05),
    AuditMetric("retrieval", "R@1", 0.05),
    AuditMetric("retrieval", "R@5", 0.05),
    AuditMetric("retrieval", "R@10", 0.05, gates=True),
    AuditMetric("fidelity", "cosine", 0.05, gates=True),
    AuditMetric("fidelity", "agreement", 0.05),
    AuditMetric("calibration", "brier", 0.08, of_mean=0.05, gates=True, less_is_better=True),
    AuditMetric("calibration", "ece", 0.05, less_is_better=True),
    AuditMetric("flips", "negative", 0.05, less_is_better=True),
)


def named(family: str, name: str) -> AuditMetric:
    """One metric."""
    return next(metric for metric in TABLE if (metric.family, metric.name) == (family, name))


def of_family(family: str) -> tuple[AuditMetric, ...]:
    """The metrics of one family."""
    return tuple(metric for metric in TABLE if metric.family == family)
