"""Calibration of zero-shot posteriors: does a model that is 80 % sure hit eight times in ten?

``ece``: expected calibration error of the first choice in 15 bins of equal width, (0, 1/15], (1/15, 2/15], ... (Guo et
al. 2017, arXiv 1706.04599, equation 3). ``brier``: squared distance between the posterior and the truth as one-hot,
summed over classes (Brier 1950), 0 to 2; of findings, each of which is there or not there, the mean over them. The
values of ``ece`` hang on the binning: quote both.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from mmkd_core.statistics import GroupBootstrap
from mmkd_core.statistics.auc import positives

BINS = 15

Floats = NDArray[np.float64]


def brier_scores(posterior: NDArray[np.floating], truth: NDArray[np.int64] | NDArray[np.bool_]) -> Floats:
    """(n,) Brier score of each sample, from posteriors (n, C); their mean is that of the model.

    Args:
        posterior: (n, C) of the classes, or that each finding is there.
        truth: (n,) class of each sample, or (n, C) bool: which findings are there.
    """
    square = np.square(posterior.astype(np.float64) - positives(truth, posterior.shape[1]))
    return np.asarray(2 * square.mean(axis=1) if truth.ndim == 2 else square.sum(axis=1))


def ece(posterior: NDArray[np.floating], truth: NDArray[np.int64]) -> float:
    """Expected calibration error of the samples as they are."""
    return error(*_first_choice(posterior, truth))


def resampled_ece(posterior: NDArray[np.floating], truth: NDArray[np.int64], bootstrap: GroupBootstrap) -> Floats:
    """(B,) the same of every resample: a bin's error is a sum over its samples, so resamples only weigh the sums."""
    return resampled_error(*_first_choice(posterior, truth), bootstrap)


def error(sure: NDArray[np.floating], hit: NDArray[np.bool_]) -> float:
    """Expected calibration error of n probabilities of something that happened or did not."""
    return float(_error(_columns(sure, hit).sum(axis=0)[None])[0])


def resampled_error(sure: NDArray[np.floating], hit: NDArray[np.bool_], bootstrap: GroupBootstrap) -> Floats:
    """(B,) ``error`` of every resample."""
    return _error(bootstrap.totals(_columns(sure, hit)))


def _first_choice(
    posterior: NDArray[np.floating], truth: NDArray[np.int64]
) -> tuple[NDArray[np.floating], NDArray[np.bool_]]:
    return posterior.max(axis=1), posterior.argmax(axis=1) == truth


def _columns(sure: NDArray[np.floating], hit: NDArray[np.bool_]) -> Floats:
    """(n, BINS + 1): confidence minus hit in the bin of the sample, and a column of ones."""
    sure = sure.astype(np.float64)
    columns = np.zeros((len(sure), BINS + 1))
    place = np.clip(np.ceil(sure * BINS).astype(np.int64) - 1, 0, BINS - 1)
    columns[np.arange(len(sure)), place] = sure - hit
    columns[:, BINS] = 1
    return columns


def _error(sums: Floats) -> Floats:
    gaps, count = np.abs(sums[:, :BINS]).sum(axis=1), sums[:, BINS]
    return np.divide(gaps, count, out=np.full(len(sums), np.nan), where=count > 0)  # type: ignore[no-any-return]
