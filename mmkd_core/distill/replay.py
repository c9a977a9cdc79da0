"""The replay list: which rows of the corpus keep the earlier teachers' knowledge alive. Rows, not copies.

Strata are (teacher, domain); samples that no teacher taught make one stratum a domain of their own, because what the
parent knows of them from captions can be forgotten like anything else. Each gets a floor, so that no small domain is
left out, and the rest of the budget by the square root of its size. Inside a stratum a row's priority is a hash of
(seed, sample_id): the list does not depend on the order of the corpus, a smaller budget gives a subset per stratum, and
lists of two machines can be merged. A row in two strata is replayed once, so that lists of overlapping strata are
shorter than the budget.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from hashlib import blake2b
from heapq import nsmallest
from typing import Any

import numpy as np

from mmkd_core.data.manifest import Corpus

Rows = np.ndarray[Any, np.dtype[np.int64]]
Mask = np.ndarray[Any, np.dtype[np.bool_]]
FLOOR = 32
UNTAUGHT = ""
"""Stands for a teacher in the strata of samples that nobody taught; no teacher is called so."""


def priority(sample_id: str, seed: int) -> int:
    """A keyed 64-bit hash; rows with the smallest are replayed."""
    return int.from_bytes(blake2b(sample_id.encode(), digest_size=8, key=seed.to_bytes(8, "big")).digest(), "big")


def with_untaught(corpus: Corpus, masks: Mapping[str, Mask], new: Mapping[str, Mask]) -> dict[str, Mask]:
    """``masks`` and, under ``UNTAUGHT``, the training samples that no teacher admits, the ``new`` ones included."""
    free = corpus.split == "train"
    for mask in (*masks.values(), *new.values()):
        free = free & ~mask
    return {**masks, UNTAUGHT: free}


def replay_list(corpus: Corpus, masks: Mapping[str, Mask], budget: int, seed: int) -> Rows:
    """At most ``budget`` distinct rows (ascending) out of what each teacher's mask (N,) admits."""
    strata = {
        (teacher, domain): np.flatnonzero(mask & (corpus.domain == domain))
        for teacher, mask in sorted(masks.items())
        for domain in corpus.domains
    }
    strata = {key: rows for key, rows in strata.items() if len(rows)}
    if not strata or not budget:
        return np.empty(0, np.int64)
    quota = allocate({key: len(rows) for key, rows in strata.items()}, budget)
    chosen: set[int] = set()
    for key, rows in strata.items():
        ordered = sorted(rows.tolist(), key=lambda row: priority(str(corpus.sample_id[row]), seed))
        chosen.update(ordered[: quota[key]])
    return np.array(sorted(chosen), np.int64)


def allocate(sizes: Mapping[tuple[str, str], int], budget: int) -> dict[tuple[str, str], int]:
    """Split a budget over strata: a floor for each, then in proportion to the square root of the size.

    Places are given one after another (Sainte-Lague's divisors), so that a larger budget takes none from any stratum;
    shares that are rounded down can.
    """
    places = (
        (0.0, float(place), -size, key) if place < FLOOR else (1.0, (place - FLOOR + 0.5) / size**0.5, -size, key)
        for key, size in sizes.items()
        for place in range(min(size, budget))
    )
    taken = Counter(key for *_, key in nsmallest(budget, places))
    return {key: taken[key] for key in sizes}


def mixed_batch(fresh: Rows, replayed: Rows, size: int, share: float, seed: int, step: int) -> Rows:
    """A batch of ``size`` rows of which ``share`` are replayed, at least one is not; a function of (seed, step)."""
    from mmkd_core.student.training import epoch_batch

    old = min(round(size * share), size - 1, len(replayed))
    new = epoch_batch(fresh, size - old, seed, step)
    return np.concatenate([new, epoch_batch(replayed, old, seed + 1, step)]) if old else new
