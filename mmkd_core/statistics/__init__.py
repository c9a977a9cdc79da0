"""Intervals and tests that respect patients. Numpy and scipy on arrays; knows no domains, files or models.

``auc`` (macro one-vs-rest), ``bootstrap`` (resamples of groups, and metrics of every resample), ``intervals`` (Wilson,
expanded percentiles), ``noninferiority`` (tests,
Holm, sample sizes), ``classification`` (accuracy, precision, recall, F1 of every resample).
"""

from mmkd_core.statistics.auc import defined_classes, macro_auc
from mmkd_core.statistics.bootstrap import GroupBootstrap, paired_auc_difference
from mmkd_core.statistics.intervals import Interval, percentile_interval, wilson_lower
from mmkd_core.statistics.noninferiority import Change, holm, paired_shares, resampled, samples_to_decide

__all__ = [
    "Change",
    "GroupBootstrap",
    "Interval",
    "defined_classes",
    "holm",
    "macro_auc",
    "paired_auc_difference",
    "paired_shares",
    "percentile_interval",
    "resampled",
    "samples_to_decide",
    "wilson_lower",
]
