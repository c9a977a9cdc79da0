"""Patients out of images: each is the mean of the unit-norm features of their images."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from mmkd_core.trust.beliefs import unit


def pooled(
    features: NDArray[np.floating], group_id: NDArray[np.object_]
) -> tuple[NDArray[np.object_], NDArray[Any], NDArray[np.float32]]:
    """Average the images of each patient.

    Args:
        features: (n, D), any length.
        group_id: (n,).

    Returns:
        The G patients in alphabetical order, the place (n,) of each image among them, and their features (G, D).
    """
    names, member = np.unique(group_id.astype(str), return_inverse=True)
    order = np.argsort(member, kind="stable")
    starts = np.searchsorted(member[order], np.arange(len(names)))
    total = np.add.reduceat(unit(features)[order].astype(np.float64), starts, axis=0)
    return names.astype(object), member, (total / np.bincount(member)[:, None]).astype(np.float32)
