from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mmkd_core.errors import TrainingError
from mmkd_core.student.config import TrainConfig
from mmkd_core.student.training import Batches

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
    for earlier in range(3):
        one(earlier)
    assert one(step).tolist() == two(step).tolist()
    assert set(one(step).tolist()) <= set(rows.tolist())


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
