"""A keyed reservoir: a weighted sample of ids, without replacement, that depends on nothing but the ids.

An id's priority is ``u ** (1 / weight)`` with ``u`` in (0, 1), and the ids with the largest are the sample (Efraimidis
and Spirakis 2006, "Weighted random sampling with a reservoir", algorithm A-Res). There ``u`` is drawn as the stream
goes by; here it is a keyed hash of (seed, id). So the sample is the same in every order of the stream, that of two
streams is found from the samples of each, and a smaller one is the beginning of a larger one.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from hashlib import blake2b

_BITS = 53


def wait(name: str, seed: int, weight: float = 1.0) -> float:
    """``-log(u) / weight``: the smaller, the larger ``u ** (1 / weight)``, and it does not round small ones to 0.

    Args:
        name: an id; the same id has the same ``u`` everywhere.
        weight: above 0; an id of twice the weight is twice as likely to be the first.
    """
    digest = blake2b(name.encode(), digest_size=8, key=seed.to_bytes(8, "big")).digest()
    uniform = ((int.from_bytes(digest, "big") >> (64 - _BITS)) + 0.5) / 2**_BITS
    return -math.log(uniform) / weight


@dataclass(frozen=True)
class Reservoir:
    """At most ``capacity`` ids.

    Attributes:
        waits: each id's ``wait``, the smallest first. Ids of one wait are in alphabetical order.
    """

    capacity: int
    seed: int
    waits: Mapping[str, float]

    @classmethod
    def of(cls, ids: Iterable[str], capacity: int, seed: int, weights: Mapping[str, float] | None = None) -> Reservoir:
        """The sample of a stream; an id that comes twice counts once.

        Args:
            weights: of some ids; 1 for the others.
        """
        known = weights or {}
        return _kept({name: wait(name, seed, known.get(name, 1.0)) for name in ids}, capacity, seed)

    @property
    def ids(self) -> list[str]:
        """The sample, in the order in which a smaller reservoir would keep it."""
        return list(self.waits)

    def merge(self, other: Reservoir) -> Reservoir:
        """The sample of both streams together.

        Raises:
            ValueError: the two have different seeds or capacities, so that neither knows what the other dropped.
        """
        if (self.seed, self.capacity) != (other.seed, other.capacity):
            raise ValueError(
                "reservoirs of different seeds or capacities cannot be merged; shrink the larger one first"
            )
        return _kept({**self.waits, **other.waits}, self.capacity, self.seed)

    def shrink(self, capacity: int) -> Reservoir:
        """The sample that a smaller reservoir would have kept.

        Raises:
            ValueError: it would be larger: what was dropped is not known any more.
        """
        if capacity > self.capacity:
            raise ValueError(f"a reservoir of {self.capacity} cannot grow to {capacity}")
        return _kept(self.waits, capacity, self.seed)


def _kept(waits: Mapping[str, float], capacity: int, seed: int) -> Reservoir:
    order = sorted(waits.items(), key=lambda entry: (entry[1], entry[0]))
    return Reservoir(capacity, seed, dict(order[:capacity]))
