from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mmkd_core.data.manifest import Corpus
from mmkd_core.distill.replay import (
    FLOOR,
    UNTAUGHT,
    Coreset,
    MixedBatches,
    Replay,
    allocate,
    replay_list,
    with_untaught,
)

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
    here = replay_list(corpus, masks, budget, seed).rows
    there = replay_list(corpus.take(order), turned, budget, seed).rows
    assert ids(corpus, here) == ids(corpus.take(order), there)


@given(table=tables(), budget=st.integers(0, 100), more=st.integers(1, 60))
def test_a_smaller_budget_gives_a_subset(table, budget, more):
    corpus, masks = table
    small, large = (replay_list(corpus, masks, size, seed=3).rows for size in (budget, budget + more))
    assert set(small.tolist()) <= set(large.tolist())


@given(table=tables(), budget=st.integers(0, 300))
def test_rows_are_distinct_trusted_and_within_the_budget(table, budget):
    """A row in two strata is replayed once: lists of overlapping strata are shorter, never longer."""
    corpus, masks = table
    rows = replay_list(corpus, masks, budget, seed=3).rows
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
    rows = replay_list(corpus, {"a": everything}, 200, seed=0).rows
    kept = {domain: int((corpus.domain[rows] == domain).sum()) for domain in DOMAINS}
    assert len(rows) == 200
    assert kept["xray"] == 10
    assert kept["mri"] >= FLOOR
    assert kept["ct"] > kept["mri"]


def test_the_seed_chooses_the_rows():
    corpus = corpus_of(["ct"] * 200)
    masks = {"a": np.ones(200, bool)}
    one, two, again = (set(replay_list(corpus, masks, 50, seed).rows.tolist()) for seed in (0, 1, 0))
    assert one == again
    assert len(one & two) < 30


def test_nobody_trusted_gives_an_empty_list():
    corpus = corpus_of(["ct"] * 3)
    for masks, budget in (({}, 5), ({"a": np.zeros(3, bool)}, 5), ({"a": np.ones(3, bool)}, 0)):
        rows = replay_list(corpus, masks, budget, seed=0).rows
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


def lists_of(**rows):
    """A list with one stratum a teacher; ``_`` stands for nobody."""
    strata = {(name.strip("_"), "ct"): np.array(sorted(members), np.int64) for name, members in rows.items()}
    return Replay(strata, {})


@given(
    fresh=st.integers(1, 60),
    lists=st.lists(st.integers(0, 30), min_size=1, max_size=5),
    free=st.integers(0, 20),
    size=st.integers(2, 32),
    share=st.floats(0, 0.99),
    at_once=st.integers(1, 4),
    seed=st.integers(0, 2**31),
    step=st.integers(0, 1000),
)
def test_mixed_batches(fresh, lists, free, size, share, at_once, seed, step):
    new = np.arange(fresh)
    old = {name: 1000 * (i + 1) + np.arange(n) for i, (name, n) in enumerate(zip("abcde", lists, strict=False))}
    replay = lists_of(**old, _=9000 + np.arange(free))
    batches, again = (MixedBatches(new, replay, size, share, at_once, seed) for _ in range(2))
    again(step + 1)  # what was asked before does not matter
    batch, active = batches(step), batches.teachers(step)
    assert batch.tolist() == again(step).tolist()
    assert active == again.teachers(step)
    assert len(active) == min(at_once, len(lists))
    allowed = {row for name in active for row in old[name].tolist()} | set(range(9000, 9000 + free))
    replayed = set(batch.tolist()) - set(new.tolist())
    assert replayed <= allowed
    assert len(set(batch.tolist())) == len(batch)
    assert len(replayed) <= min(round(size * share), size - 1)
    assert len(batch) == min(size, len(replayed) + fresh)


def test_every_replayed_row_comes_round():
    batches = MixedBatches(np.arange(500), lists_of(a=1000 + np.arange(40)), 16, 0.5, 4, 0)
    seen = np.concatenate([batches(step) for step in range(5)])
    assert sorted(seen[seen >= 1000].tolist()) == list(range(1000, 1040))


def test_every_teacher_has_its_turn():
    batches = MixedBatches(np.arange(500), lists_of(**{f"t{i:02d}": [1000 + i] for i in range(11)}), 16, 0.5, 4, seed=3)
    for cycle in range(5):
        turns = [batches.teachers(3 * cycle + place) for place in range(3)]
        assert set().union(*turns) == set(batches.everyone)
        assert all(len(turn) == 4 for turn in turns)


def test_a_step_does_not_look_at_all_that_is_fresh(monkeypatch):
    """With a million fresh rows and more teachers than have their turn at once that took two seconds a step."""
    fresh = np.arange(2_000)
    batches = MixedBatches(fresh, lists_of(**{f"t{i:02d}": 1990 + i + np.arange(9) for i in range(11)}), 16, 0.5, 2, 3)
    looked = []
    for name in ("setdiff1d", "isin", "unique"):
        whole = getattr(np, name)
        monkeypatch.setattr(np, name, lambda *rows, whole=whole: looked.extend(map(len, rows)) or whole(*rows))
    for step in range(40):
        assert len(batches(step)) == 16
    assert max(looked) <= 2 * 9


def test_a_row_that_is_fresh_is_not_replayed_too():
    batches = MixedBatches(np.arange(50), lists_of(a=np.arange(40, 60)), 20, 0.5, 4, 0)
    assert all(len(set(batches(step).tolist())) == 20 for step in range(20))


@pytest.mark.parametrize("share", [0.99, 0.75])
def test_a_batch_of_two_keeps_one_fresh_row(share):
    batches = MixedBatches(np.arange(9), lists_of(a=1000 + np.arange(9)), 2, share, 4, 0)
    assert (batches(0) < 1000).sum() == 1


coresets = st.builds(
    Coreset,
    st.sampled_from([0.0, 0.25, 0.5, 1.0]),
    st.sampled_from(["herding", "k-centre"]),
    st.just(lambda teacher, rows: np.random.default_rng(7).normal(size=(100, 3))[rows].astype(np.float32)),
)


@given(table=tables(), budget=st.integers(0, 100), more=st.integers(1, 60), coreset=coresets)
def test_a_smaller_budget_gives_a_subset_with_chosen_rows_too(table, budget, more, coreset):
    corpus, masks = table
    small, large = (replay_list(corpus, masks, size, 3, coreset=coreset) for size in (budget, budget + more))
    for key, rows in small.strata.items():
        assert rows.tolist() == large.strata[key][: len(rows)].tolist()
        assert len(set(rows.tolist())) == len(rows)
    assert sum(map(len, small.strata.values())) == min(budget, sum(mask.sum() for mask in masks.values()))


def test_what_an_audit_found_comes_first():
    corpus = corpus_of(["ct"] * 100)
    masks = {"a": np.ones(100, bool)}
    late = replay_list(corpus, masks, 100, 0).strata["a", "ct"][-5:]
    names = [str(name) for name in corpus.sample_id[late]]
    listed = replay_list(corpus, masks, 20, 0, first=[*names, "unknown"]).strata["a", "ct"]
    assert listed[:5].tolist() == late.tolist()
    assert sorted(listed[5:].tolist()) == replay_list(corpus, masks, 15, 0).rows.tolist()


def test_a_part_is_chosen_by_features():
    corpus = corpus_of(["ct"] * 200)
    features = np.random.default_rng(0).normal(size=(200, 4)).astype(np.float32)
    features[17] = 50  # far out: k-centre's second pick
    coreset = Coreset(0.25, "k-centre", lambda teacher, rows: features[rows])
    listed = replay_list(corpus, {"a": np.ones(200, bool)}, 40, 0, coreset=coreset).strata["a", "ct"]
    plain = replay_list(corpus, {"a": np.ones(200, bool)}, 40, 0).strata["a", "ct"]
    assert 17 in listed[:8]
    assert len(set(plain.tolist()) & set(listed.tolist())) >= 30, "three quarters are the keyed reservoir's first"


@given(table=tables(), budget=st.integers(1, 60))
def test_watched_rows_are_not_replayed_unless_all_are(table, budget):
    corpus, masks = table
    replay = replay_list(corpus, masks, budget, 3, watch=4)
    for (teacher, domain), rows in replay.strata.items():
        members = np.flatnonzero(masks[teacher] & (corpus.domain == domain))
        watched = replay.watched[teacher, domain]
        assert set(watched.tolist()) <= set(members.tolist())
        assert 1 <= len(watched) <= 4
        if len(rows) < len(members):
            assert not set(watched.tolist()) & set(rows.tolist())


def test_a_stratum_can_weigh_more():
    sizes = {("a", "ct"): 10_000, ("b", "ct"): 10_000}
    quota = allocate(sizes, 2 * FLOOR + 400, lambda stratum: 3.0 if stratum[0] == "a" else 1.0)
    assert quota == {("a", "ct"): FLOOR + 300, ("b", "ct"): FLOOR + 100}


@given(table=tables())
def test_what_nobody_teaches_is_replayed_too(table):
    corpus, masks = table
    *earlier, last = sorted(masks)
    strata = with_untaught(corpus, {name: masks[name] for name in earlier}, {last: masks[last]})
    free = strata.pop(UNTAUGHT)
    assert set(strata) == set(earlier)
    assert np.array_equal(free, ~np.any(list(masks.values()), axis=0))
    listed = replay_list(corpus, {UNTAUGHT: free}, FLOOR * len(DOMAINS), 0).rows
    assert set(corpus.domain[listed]) == set(corpus.domain[free]), "each of its domains has a share"


def test_only_training_samples_count_as_untaught():
    corpus = corpus_of(["ct"] * 4)
    corpus.split[:2] = "val"
    assert with_untaught(corpus, {}, {})[UNTAUGHT].tolist() == [False, False, True, True]


def test_what_is_watched_is_kept_back_however_long_the_list_is():
    corpus = corpus_of(["ct"] * 40 + ["xray"] * 8)
    everything = np.ones(48, bool)
    some = np.arange(48) % 2 == 0  # another teacher admits half of the same rows
    found = replay_list(corpus, {"a": everything, "b": some}, 10_000, 0, watch=8)
    watched = {row for rows in found.watched.values() for row in rows.tolist()}
    assert {key: len(rows) for key, rows in found.watched.items()} == {
        ("a", "ct"): 8,
        ("a", "xray"): 2,
        ("b", "ct"): 5,
        ("b", "xray"): 1,
    }
    assert not watched & set(found.rows.tolist()), "a row that one teacher is watched on is replayed for nobody"
    assert len(found.rows) == 48 - len(watched)
    wanted = sorted(watched)[0]
    again = replay_list(corpus, {"a": everything}, 10_000, 0, watch=8, first=[str(corpus.sample_id[wanted])])
    assert wanted in again.rows, "what an audit asks for is replayed, not watched"
