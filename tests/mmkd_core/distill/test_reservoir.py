from __future__ import annotations

import math
from collections import Counter
from hashlib import blake2b

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mmkd_core.distill.reservoir import Reservoir, wait

names = st.text("abcdef0123456789", min_size=1, max_size=6)
streams = st.lists(names, max_size=40)
sizes = st.integers(0, 30)
seeds = st.integers(0, 2**40)
weights = st.dictionaries(names, st.floats(0.01, 100))


def test_the_wait_of_an_id_is_known():
    """A list that was stored is found again by any later version."""
    share = int(blake2b(b"a", digest_size=8, key=bytes(8)).hexdigest(), 16) / 2**64
    assert wait("a", 0) == pytest.approx(-math.log(share), rel=1e-12)
    assert wait("a", 0) == pytest.approx(0.32225050992, abs=1e-11)
    assert wait("a", 0, weight=4) == wait("a", 0) / 4
    assert wait("a", 1) != wait("a", 0)


@given(stream=streams, size=sizes, seed=seeds, known=weights, order=st.randoms(use_true_random=False))
def test_the_order_of_the_stream_does_not_matter(stream, size, seed, known, order):
    turned = [*stream, *stream[:3]]
    order.shuffle(turned)
    here, there = Reservoir.of(stream, size, seed, known), Reservoir.of(turned, size, seed, known)
    assert here == there
    assert here.ids == there.ids
    assert len(here.ids) == min(size, len(set(stream)))


@given(one=streams, two=streams, size=sizes, seed=seeds, known=weights)
def test_two_samples_give_that_of_both_streams(one, two, size, seed, known):
    parts = [Reservoir.of(part, size, seed, known) for part in (one, two)]
    whole = Reservoir.of([*one, *two], size, seed, known)
    assert parts[0].merge(parts[1]) == whole
    assert parts[1].merge(parts[0]).ids == whole.ids


@given(stream=streams, size=sizes, less=st.integers(0, 30), seed=seeds, known=weights)
def test_a_smaller_sample_is_the_beginning_of_a_larger_one(stream, size, less, seed, known):
    small = min(size, less)
    larger = Reservoir.of(stream, size, seed, known)
    assert larger.shrink(small) == Reservoir.of(stream, small, seed, known)
    assert larger.shrink(small).ids == larger.ids[:small]


def test_what_was_dropped_is_not_known_any_more():
    one = Reservoir.of("abc", 2, 0)
    with pytest.raises(ValueError, match="cannot grow"):
        one.shrink(3)
    for other in (Reservoir.of("abc", 3, 0), Reservoir.of("abc", 2, 1)):
        with pytest.raises(ValueError, match="cannot be merged"):
            one.merge(other)


def test_an_id_of_three_times_the_weight_comes_first_three_times_as_often():
    first = Counter(Reservoir.of(["a", "b"], 1, seed, {"a": 3.0}).ids[0] for seed in range(4000))
    sigma = math.sqrt(0.75 * 0.25 / 4000)
    assert abs(first["a"] / 4000 - 0.75) < 4 * sigma
