from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mmkd_core.errors import TrainingError
from mmkd_core.student.batches import Batches, Epochs
from mmkd_core.student.config import TrainConfig

SIZES = {"ct": 900, "mri": 100, "xray": 25}
DOMAIN = np.array([name for name, size in SIZES.items() for _ in range(size)], object)
ROWS = np.arange(len(DOMAIN)) * 3 + 1


def shares(balance, steps=400, batch_size=64):
    batches = Batches(ROWS, DOMAIN, TrainConfig(batch_size=batch_size, balance=balance), seed=0)
    drawn = np.concatenate([batches(step) for step in range(steps)])
    names = DOMAIN[(drawn - 1) // 3]
    return {name: np.mean(names == name) for name in SIZES}


@pytest.mark.parametrize(
    ("balance", "expected"),
    [
        ("natural", {"ct": 900 / 1025, "mri": 100 / 1025, "xray": 25 / 1025}),
        ("sqrt", {"ct": 30 / 45, "mri": 10 / 45, "xray": 5 / 45}),
        ("uniform", {"ct": 1 / 3, "mri": 1 / 3, "xray": 1 / 3}),
    ],
)
def test_shares_of_domains_hold_over_the_steps(balance, expected):
    assert shares(balance) == pytest.approx(expected, abs=1e-3)


domain_sizes = st.lists(st.integers(1, 40), min_size=1, max_size=6)


@given(
    sizes=domain_sizes,
    size=st.integers(2, 50),
    balance=st.sampled_from(["natural", "sqrt", "uniform"]),
    steps=st.integers(1, 12),
)
def test_every_batch_has_the_size_that_was_asked_for(sizes, size, balance, steps):
    domain = np.repeat(np.array([f"d{i}" for i in range(len(sizes))], object), sizes)
    batches = Batches(np.arange(len(domain)), domain, TrainConfig(batch_size=size, balance=balance), seed=1)
    assert {len(batches(step)) for step in range(steps)} == {min(size, len(domain))}


@given(sizes=domain_sizes, size=st.integers(2, 50), seed=st.integers(0, 2**31), step=st.integers(0, 500))
def test_a_batch_is_a_function_of_seed_and_step(sizes, size, seed, step):
    domain = np.repeat(np.array([f"d{i}" for i in range(len(sizes))], object), sizes)
    rows = np.arange(len(domain)) + 5
    config = TrainConfig(batch_size=size)
    one, two = Batches(rows, domain, config, seed), Batches(rows, domain, config, seed)
    for other in (0, 1, 2, step + 1):  # what was asked before does not matter
        one(other)
    assert one(step).tolist() == two(step).tolist()
    assert set(one(step).tolist()) <= set(rows.tolist())
    assert one(0).tolist() == Batches(rows, domain, config, seed)(0).tolist()


def test_an_order_is_drawn_once_an_epoch_and_steps_are_counted_once(monkeypatch):
    """Drawing the order of two million rows at every step, and counting all steps before it, took 0.1 s a step."""
    drawn, counted = [], []
    generator, floor = np.random.default_rng, np.floor
    monkeypatch.setattr(np.random, "default_rng", lambda key: drawn.append(tuple(key)) or generator(key))
    monkeypatch.setattr(np, "floor", lambda edges: counted.append(len(edges)) or floor(edges))
    batches = Batches(ROWS, DOMAIN, TrainConfig(batch_size=40, balance="natural"), seed=7)
    for step in range(50):
        batches(step)
    assert sorted(drawn) == [(7, domain, epoch) for domain in range(3) for epoch in range(2)]
    assert counted == [1, *[2] * 49]


def test_a_domain_is_walked_through_whole_before_it_repeats():
    """64 rows in each of two domains, 16 of each in a batch: four batches are an epoch."""
    domain = np.array(["a"] * 64 + ["b"] * 64, object)
    batches = Batches(np.arange(128), domain, TrainConfig(batch_size=32, balance="uniform"), seed=2)
    first, second = (np.concatenate([batches(step) for step in range(start, start + 4)]) for start in (0, 4))
    assert sorted(first.tolist()) == sorted(second.tolist()) == list(range(128))
    assert first.tolist() != second.tolist()


def test_the_order_in_which_the_corpus_lists_domains_does_not_change_the_shares():
    turned = Batches(ROWS[::-1], DOMAIN[::-1], TrainConfig(batch_size=45), seed=0)
    batch = DOMAIN[(turned(0) - 1) // 3]
    assert {name: int((batch == name).sum()) for name in SIZES} == {"ct": 30, "mri": 10, "xray": 5}


def test_nothing_to_draw_from():
    none = np.empty(0, np.int64)
    with pytest.raises(TrainingError) as caught:
        Batches(none, np.empty(0, object), TrainConfig(), seed=0)
    assert str(caught.value) == (
        "there is nothing to train on: no sample is in the train split. "
        "Give the data training samples and import it again; `mmkd data check` shows what is there"
    )


@given(
    count=st.integers(1, 60), size=st.integers(1, 70), seed=st.integers(0, 2**31), epoch=st.integers(0, 5)
)  # fmt: skip
def test_epochs_give_each_row_at_most_once_per_epoch(count, size, seed, epoch):
    rows = np.arange(count) * 7 + 3
    per_epoch = max(1, count // min(size, count))
    batches = [Epochs(rows, seed).batch(epoch * per_epoch + i, size) for i in range(per_epoch)]
    seen = np.concatenate(batches)
    assert {len(batch) for batch in batches} == {min(size, count)}
    assert len(set(seen.tolist())) == len(seen)
    assert set(seen.tolist()) <= set(rows.tolist())
    assert count - len(seen) < min(size, count)
    if count % min(size, count) == 0:
        assert sorted(seen.tolist()) == rows.tolist()


def test_epochs_differ_and_repeat_by_seed():
    rows = np.arange(50)
    assert Epochs(rows, 0).batch(0, 50).tolist() == Epochs(rows, 0).batch(0, 50).tolist()
    orders = {tuple(Epochs(rows, seed).batch(step, 50).tolist()) for seed in (0, 1) for step in (0, 1)}
    assert len(orders) == 4
