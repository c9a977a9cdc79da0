"""The replay list: which rows of the corpus keep the earlier teachers' knowledge alive. Rows, not copies.

Strata are (teacher, domain); samples that no teacher taught make one stratum a domain of their own, because what the
parent knows of them from captions can be forgotten like anything else. Each gets a floor, so that no small domain is
left out, and the rest of the budget by the square root of its size. Inside a stratum the rows stand in one order, and
the list takes its beginning, so that a smaller budget gives a subset:

- rows that an audit found near what an earlier candidate forgot come first;
- then rows of a keyed reservoir, which is in the order of no corpus, and in between, at a fixed share of the places,
  rows chosen by their features (herding or k-centre).

A row in two strata is replayed once, so that lists of overlapping strata are shorter than the budget.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from heapq import nsmallest
from itertools import islice
from typing import Any, Literal

import numpy as np

from mmkd_core.data.manifest import Corpus
from mmkd_core.distill.coresets import herding, k_centre
from mmkd_core.distill.reservoir import wait
from mmkd_core.student.batches import Epochs, Rows

Mask = np.ndarray[Any, np.dtype[np.bool_]]
Stratum = tuple[str, str]
"""Teacher and domain."""
Quota = dict[Stratum, int]

FLOOR = 32
POOL = 4096
"""Rows of a stratum that herding and k-centre choose from: the first of the keyed order, whatever its size."""
UNTAUGHT = ""
"""Stands for a teacher in the strata of samples that nobody taught; no teacher is called so."""
CORESETS = {"herding": herding, "k-centre": k_centre}


@dataclass(frozen=True)
class Coreset:
    """Which part of the list is chosen by features.

    Attributes:
        share: of the places in each stratum, 0 to 1.
        features: from a teacher (or ``UNTAUGHT``) and rows to their features (B, D).
    """

    share: float
    method: Literal["herding", "k-centre"]
    features: Callable[[str, Rows], np.ndarray[Any, np.dtype[np.float32]]]


@dataclass(frozen=True)
class Replay:
    """The list.

    Attributes:
        strata: by stratum the rows that are replayed for it, in their order. A row may be in several.
        watched: by stratum rows of the same kind that are replayed for nobody, for whoever wants to measure on rows
            that are not replayed. They are kept back however long the list is; of a stratum of three rows or fewer
            nothing is, and what is left of it or its last rows are watched.
    """

    strata: Mapping[Stratum, Rows]
    watched: Mapping[Stratum, Rows]

    @property
    def rows(self) -> Rows:
        """All distinct rows, ascending."""
        return np.unique(np.concatenate([np.empty(0, np.int64), *self.strata.values()]))

    def of(self, teachers: Collection[str]) -> Rows:
        """Distinct rows of some teachers' strata, ascending."""
        chosen = [rows for (teacher, _), rows in self.strata.items() if teacher in teachers]
        return np.unique(np.concatenate([np.empty(0, np.int64), *chosen]))

    @property
    def teachers(self) -> list[str]:
        """Who taught the rows, in alphabetical order; ``UNTAUGHT`` is not among them."""
        return sorted({teacher for teacher, _ in self.strata} - {UNTAUGHT})


def with_untaught(corpus: Corpus, masks: Mapping[str, Mask], new: Mapping[str, Mask]) -> dict[str, Mask]:
    """``masks`` and, under ``UNTAUGHT``, the training samples that no teacher admits, the ``new`` ones included."""
    free = corpus.split == "train"
    for mask in (*masks.values(), *new.values()):
        free = free & ~mask
    return {**masks, UNTAUGHT: free}


def replay_list(
    corpus: Corpus,
    masks: Mapping[str, Mask],
    budget: int,
    seed: int,
    *,
    first: Collection[str] = (),
    coreset: Coreset | None = None,
    watch: int = 0,
    weight: Callable[[Stratum], float] = lambda stratum: 1.0,
) -> Replay:
    """At most ``budget`` distinct rows out of what each teacher's mask (N,) admits.

    Args:
        first: sample ids that come first in their strata.
        coreset: for the part that is chosen by features; nothing is if left out.
        watch: rows to watch in each stratum, at most; at most a quarter of it.
        weight: of a stratum beside the others', where the budget is shared out.
    """
    strata = {
        (teacher, domain): np.flatnonzero(mask & (corpus.domain == domain))
        for teacher, mask in sorted(masks.items())
        for domain in corpus.domains
    }
    strata = {key: rows for key, rows in strata.items() if len(rows)}
    quota = allocate({key: len(rows) for key, rows in strata.items()}, budget, weight)
    ids = corpus.sample_id.astype(str)
    rank = _rank(ids, strata.values(), seed)
    in_order = {key: rows[np.argsort(rank[rows])] for key, rows in strata.items()}
    early = np.isin(ids, sorted(first))
    spare = {key: keyed[::-1][~early[keyed[::-1]]][: min(watch, len(keyed) // 4)] for key, keyed in in_order.items()}
    held = np.zeros(len(early), bool)
    held[np.concatenate([np.empty(0, np.int64), *spare.values()])] = True
    taken, watched = {}, {}
    for key, whole in in_order.items():
        if not quota[key]:
            continue
        keyed = whole if held[whole].all() else whole[~held[whole]]
        order = _order(keyed, early[keyed], coreset, key[0], quota[key])
        taken[key] = np.fromiter(islice(order, quota[key]), np.int64)
        left = whole[~np.isin(whole, taken[key])]
        watched[key] = next(rows for rows in (spare[key], left, whole[::-1]) if len(rows))[:watch]
    return Replay(taken, watched)


def _rank(ids: np.ndarray[Any, Any], strata: Iterable[Rows], seed: int) -> Rows:
    """(N,) the place of each row of the strata in the keyed order of all of them; other rows come last."""
    asked = np.zeros(len(ids), bool)
    for rows in strata:
        asked[rows] = True
    waits = np.full(len(ids), np.inf)
    waits[asked] = [wait(str(name), seed) for name in ids[asked]]
    rank = np.empty(len(ids), np.int64)
    rank[np.lexsort((ids, waits))] = np.arange(len(ids))
    return rank


def _order(keyed: Rows, early: Mask, coreset: Coreset | None, teacher: str, count: int) -> Iterator[int]:
    """The rows of a stratum in the order in which they are taken; only the first ``count`` are right."""
    yield from keyed[early].tolist()
    rest = keyed[~early]
    if coreset is None or not coreset.share:
        yield from rest[:count].tolist()
        return
    pool = rest[:POOL]
    choose = CORESETS[coreset.method]
    picks = iter(pool[choose(coreset.features(teacher, pool), count)].tolist()) if len(pool) else iter(())
    random, seen = iter(rest[: 2 * count].tolist()), set[int]()  # half of them may have been picked already
    for place in range(len(rest)):
        by_features = int((place + 1) * coreset.share) > int(place * coreset.share)
        row = _unseen(picks if by_features else random, seen)
        if row is None:  # one of the two is used up
            row = _unseen(random, seen)
        if row is None:
            return
        seen.add(row)
        yield row


def _unseen(rows: Iterator[int], seen: set[int]) -> int | None:
    return next((row for row in rows if row not in seen), None)


def allocate(
    sizes: Mapping[Stratum, int], budget: int, weight: Callable[[Stratum], float] = lambda stratum: 1.0
) -> Quota:
    """Split a budget over strata: a floor for each, then in proportion to the weighted square root of the size.

    Places are given one after another (Sainte-Lague's divisors), so that a larger budget takes none from any stratum;
    shares that are rounded down can.
    """
    places = (
        (0.0, float(place), -size, key)
        if place < FLOOR
        else (1.0, (place - FLOOR + 0.5) / (weight(key) * size**0.5), -size, key)
        for key, size in sizes.items()
        for place in range(min(size, budget))
    )
    taken = Counter(key for *_, key in nsmallest(budget, places))
    return {key: taken[key] for key in sizes}


class MixedBatches:
    """Batches of fresh and replayed rows; a function of (seed, step) alone.

    The replayed rows of a step belong to at most ``at_once`` earlier teachers, in turn, and to the samples that nobody
    taught. So a step reads the features of a fixed number of teachers, however many there have been. Rows that are
    fresh are visited as such and not once more.

    Args:
        fresh: what the new teachers teach.
        share: of a batch that is replayed; at least one row of it is not.
    """

    def __init__(self, fresh: Rows, replay: Replay, size: int, share: float, at_once: int, seed: int) -> None:
        self.seed, self.size, self.at_once = seed, size, at_once
        self.everyone = replay.teachers
        listed = np.setdiff1d(replay.rows, fresh)  # once: millions may be fresh
        self._own = {name: np.intersect1d(replay.of([name]), listed) for name in (*self.everyone, UNTAUGHT)}
        untaught = self._own[UNTAUGHT]
        self.old = min(round(size * share), size - 1, len(listed))
        self.free = round(self.old * len(untaught) / len(listed)) if len(listed) else 0
        self._fresh, self._untaught = Epochs(fresh, seed), Epochs(untaught, seed + 2)
        self._pools: dict[tuple[str, ...], Epochs] = {}
        self._turn: tuple[int, tuple[str, ...]] = (-1, ())

    def teachers(self, step: int) -> tuple[str, ...]:
        """Who teaches the replayed rows of a step: each of the earlier teachers at least once in a cycle of steps."""
        if len(self.everyone) <= self.at_once:
            return tuple(self.everyone)
        if self._turn[0] == step:  # every source asks
            return self._turn[1]
        cycle, place = divmod(step, -(-len(self.everyone) // self.at_once))
        order = np.random.default_rng([self.seed, 5, cycle]).permutation(len(self.everyone))
        turn = np.arange(place * self.at_once, (place + 1) * self.at_once) % len(order)
        self._turn = step, tuple(sorted(self.everyone[i] for i in order[turn]))
        return self._turn[1]

    def has_turn(self, teacher: str, step: int) -> bool:
        """Whether an earlier teacher teaches in a step."""
        return teacher in self.teachers(step)

    def __call__(self, step: int) -> Rows:
        """Rows of a step. Where the teachers whose turn it is have too few, more are fresh."""
        pool = self._taught(self.teachers(step))
        taught = min(self.old - self.free, len(pool.rows))
        parts = [(self._fresh, self.size - taught - self.free), (pool, taught), (self._untaught, self.free)]
        return np.concatenate([epochs.batch(step, count) for epochs, count in parts if count])

    def _taught(self, teachers: tuple[str, ...]) -> Epochs:
        if teachers not in self._pools:
            if len(self._pools) > len(self.everyone):  # of earlier cycles
                self._pools.clear()
            rows = np.unique(np.concatenate([np.empty(0, np.int64), *(self._own[name] for name in teachers)]))
            self._pools[teachers] = Epochs(rows, self.seed + 1)
        return self._pools[teachers]
