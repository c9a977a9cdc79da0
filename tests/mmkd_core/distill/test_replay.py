from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mmkd_core.data.manifest import Corpus
from mmkd_core.distill.replay import FLOOR, UNTAUGHT, allocate, mixed_batch, replay_list, with_untaught

DOMAINS = ("ct", "mri", "xray")


def corpus_of(domains):
    rows = [
        {"image": f"{i}.png", "image_id": f"{i:032x}", "caption": f"caption {i}", "domain": domain, "group_id": "g",
         "split": "train"}
        for i, domain in enumerate(domains)
    ]  # fmt: skip
    return Corpus.build(Path("nowhere"), rows, {})


@st.composite
def tables(draw):
    """A corpus of up to 80 samples and the masks of up to three teachers."""
    domains = draw(st.lists(st.sampled_from(DOMAINS), min_size=1, max_size=80))
    seed = draw(st.integers(0, 1000))
    rng = np.random.default_rng(seed)
    teachers = draw(st.lists(st.sampled_from(["a", "b", "c"]), min_size=1, unique=True))
    return corpus_of(domains), {name: rng.random(len(domains)) < rng.random() for name in teachers}


def ids(corpus, rows):
    return set(corpus.sample_id[rows])


@given(table=tables(), budget=st.integers(0, 100), seed=st.integers(0, 2**40), shuffle=st.integers(0, 1000))
def test_the_order_of_the_corpus_and_of_the_teachers_does_not_matter(table, budget, seed, shuffle):
    corpus, masks = table
    order = np.random.default_rng(shuffle).permutation(len(corpus))
    turned = {name: masks[name][order] for name in reversed(masks)}
    here = replay_list(corpus, masks, budget, seed)
    there = replay_list(corpus.take(order), turned, budget, seed)
    assert ids(corpus, here) == ids(corpus.take(order), there)


@given(table=tables(), budget=st.integers(0, 100), more=st.integers(1, 60))
def test_a_smaller_budget_gives_a_subset(table, budget, more):
    corpus, masks = table
    small, large = (replay_list(corpus, masks, size, seed=3) for size in (budget, budget + more))
    assert set(small.tolist()) <= set(large.tolist())


@given(table=tables(), budget=st.integers(0, 300))
def test_rows_are_distinct_trusted_and_within_the_budget(table, budget):
    """A row in two strata is replayed once: lists of overlapping strata are shorter, never longer."""
    corpus, masks = table
    rows = replay_list(corpus, masks, budget, seed=3)
    trusted = np.any(list(masks.values()), axis=0)
    assert rows.dtype == np.int64
    assert rows.tolist() == sorted(set(rows.tolist()))
    assert trusted[rows].all()
    assert len(rows) <= budget
    overlap = sum(mask.sum() for mask in masks.values()) > trusted.sum()
    if not overlap:
        assert len(rows) == min(budget, trusted.sum())
    if budget >= sum(mask.sum() for mask in masks.values()):
        assert rows.tolist() == np.flatnonzero(trusted).tolist()


def test_each_stratum_keeps_its_floor():
    corpus = corpus_of(["ct"] * 2000 + ["mri"] * 40 + ["xray"] * 10)
    everything = np.ones(len(corpus), bool)
    rows = replay_list(corpus, {"a": everything}, 200, seed=0)
    kept = {domain: int((corpus.domain[rows] == domain).sum()) for domain in DOMAINS}
    assert len(rows) == 200
    assert kept["xray"] == 10
    assert kept["mri"] >= FLOOR
    assert kept["ct"] > kept["mri"]


def test_the_seed_chooses_the_rows():
    corpus = corpus_of(["ct"] * 200)
    masks = {"a": np.ones(200, bool)}
    one, two, again = (set(replay_list(corpus, masks, 50, seed).tolist()) for seed in (0, 1, 0))
    assert one == again
    assert len(one & two) < 30


def test_nobody_trusted_gives_an_empty_list():
    corpus = corpus_of(["ct"] * 3)
    for masks, budget in (({}, 5), ({"a": np.zeros(3, bool)}, 5), ({"a": np.ones(3, bool)}, 0)):
        rows = replay_list(corpus, masks, budget, seed=0)
        assert rows.dtype == np.int64
        assert rows.tolist() == []


sizes = st.dictionaries(
    st.tuples(st.sampled_from("abcd"), st.sampled_from(DOMAINS)), st.integers(1, 300), min_size=1, max_size=8
)


@given(sizes=sizes, budget=st.integers(0, 900), more=st.integers(1, 200))
def test_allocate(sizes, budget, more):
    quota, larger = allocate(sizes, budget), allocate(sizes, budget + more)
    assert quota.keys() == sizes.keys()
    assert sum(quota.values()) == min(budget, sum(sizes.values()))
    for key, size in sizes.items():
        assert min(size, FLOOR, budget // len(sizes)) <= quota[key] <= size
        assert quota[key] <= larger[key]
    for one in sizes:
        for other in sizes:
            if sizes[one] >= sizes[other]:
                assert quota[one] >= quota[other] - (sizes[one] == sizes[other])  # equals may share an odd place


def test_allocate_goes_by_the_square_root():
    quota = allocate({("a", "ct"): 40_000, ("a", "mri"): 10_000, ("b", "ct"): 10_000}, 3 * FLOOR + 400)
    assert quota == {("a", "ct"): FLOOR + 200, ("a", "mri"): FLOOR + 100, ("b", "ct"): FLOOR + 100}


def test_a_larger_budget_takes_from_nobody():
    """Shares that are rounded down, with the rest dealt out again, gave 38 here and then 37."""
    sizes = {("a", "ct"): 2500, ("a", "mri"): 100, ("a", "xray"): 100}
    firsts = [allocate(sizes, budget)[("a", "ct")] for budget in range(90, 140)]
    assert firsts == sorted(firsts)


@given(
    fresh=st.integers(1, 60),
    replayed=st.integers(0, 60),
    size=st.integers(2, 32),
    share=st.floats(0, 0.99),
    seed=st.integers(0, 2**31),
    step=st.integers(0, 1000),
)
def test_mixed_batch(fresh, replayed, size, share, seed, step):
    new, old = np.arange(fresh), 1000 + np.arange(replayed)
    batch = mixed_batch(new, old, size, share, seed, step)
    assert batch.tolist() == mixed_batch(new, old, size, share, seed, step).tolist()
    from_old = batch[batch >= 1000]
    expected = min(round(size * share), replayed, size - 1)
    assert len(from_old) == expected
    assert len(batch) - expected == min(fresh, size - expected)
    assert len(set(batch.tolist())) == len(batch)
    assert set(batch.tolist()) <= set(new.tolist()) | set(old.tolist())


def test_every_replayed_row_comes_round():
    new, old = np.arange(500), 1000 + np.arange(40)
    seen = np.concatenate([mixed_batch(new, old, 16, 0.5, 0, step) for step in range(5)])
    assert sorted(seen[seen >= 1000].tolist()) == old.tolist()


@pytest.mark.parametrize("share", [0.99, 0.75])
def test_a_batch_of_two_keeps_one_fresh_row(share):
    assert (mixed_batch(np.arange(9), 1000 + np.arange(9), 2, share, 0, 0) < 1000).sum() == 1


@given(table=tables())
def test_what_nobody_teaches_is_replayed_too(table):
    corpus, masks = table
    *earlier, last = sorted(masks)
    strata = with_untaught(corpus, {name: masks[name] for name in earlier}, {last: masks[last]})
    free = strata.pop(UNTAUGHT)
    assert set(strata) == set(earlier)
    assert np.array_equal(free, ~np.any(list(masks.values()), axis=0))
    listed = replay_list(corpus, {UNTAUGHT: free}, FLOOR * len(DOMAINS), 0)
    assert set(corpus.domain[listed]) == set(corpus.domain[free]), "each of its domains has a share"


def test_only_training_samples_count_as_untaught():
    corpus = corpus_of(["ct"] * 4)
    corpus.split[:2] = "val"
    assert with_untaught(corpus, {}, {})[UNTAUGHT].tolist() == [False, False, True, True]
