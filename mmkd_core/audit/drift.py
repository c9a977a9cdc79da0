"""Drift of the representation between two releases, as a table. It explains a verdict and has no part in it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import numpy as np

from mmkd_core.evaluate.drift import drift
from mmkd_core.evaluate.embeddings import Embeddings


def drift_table(before: Embeddings, after: Embeddings, domains: Mapping[str, str]) -> dict[str, dict[str, Any]]:
    """``images`` and ``texts`` (each caption once) as a whole, and by ``domains`` the images of each.

    Args:
        domains: of each sample id.
    """
    place = {str(sample): i for i, sample in enumerate(after.sample_id)}
    rows = np.array([i for i, sample in enumerate(before.sample_id) if str(sample) in place], dtype=np.int64)
    others = np.array([place[str(before.sample_id[i])] for i in rows], dtype=np.int64)
    names = np.array([domains.get(str(before.sample_id[i]), "") for i in rows], dtype=object)
    by_domain = {}
    for domain in sorted(set(names) - {""}):
        here = names == domain
        by_domain[domain] = asdict(drift(before.images[rows[here]], after.images[others[here]]))
    return {
        "images": asdict(drift(before.images[rows], after.images[others])),
        "texts": asdict(drift(*_distinct(before.texts[rows], after.texts[others]))),
        "domains": by_domain,
    }


def _distinct(before: np.ndarray, after: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Each caption once: copies would be each other's nearest neighbours."""
    _, first = np.unique(before, axis=0, return_index=True)
    return before[first], after[first]
