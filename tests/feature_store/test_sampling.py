"""Orders: every row once an epoch over all ranks, the same at any step from any process, and random enough."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from feature_store import FeatureStore, StoreError, maps
from feature_store.sampling import Order, permuted, will_need

ORDERS = st.builds(
    dict,
    size=st.integers(0, 300),
    batch=st.integers(1, 40),
    seed=st.integers(0, 5),
    world=st.integers(1, 5),
    window=st.integers(0, 5),
    block=st.integers(1, 50),
)


@settings(deadline=None)
@given(size=st.integers(1, 3000), key=st.tuples(st.integers(0, 9), st.integers(0, 9)))
def test_a_keyed_permutation_is_one(size: int, key: tuple[int, int]) -> None:
    image = permuted(np.arange(size), size, *key)
    assert np.array_equal(np.sort(image), np.arange(size))
    some = np.arange(size)[::7]
    assert np.array_equal(permuted(some, size, *key), image[::7])


def test_any_row_may_come_anywhere() -> None:
    """Over many keys each number comes to each position equally often: chi-squared with 25 degrees each."""
    count, size = 2600, 26
    seen, follows = np.zeros((size, size)), np.zeros(size)
    for key in range(count):
        image = permuted(np.arange(size), size, key)
        seen[np.arange(size), image] += 1
        follows[(image[1] - image[0]) % size] += 1
    assert ((seen - count / size) ** 2 / (count / size)).sum(1).max() < 62  # of 26, each 0.99995 below it
    assert ((follows[1:] - count / 25) ** 2 / (count / 25)).sum() < 60


def test_neighbours_in_a_large_order_are_far_apart() -> None:
    image = permuted(np.arange(4096), 1_000_003, 1, 2)
    assert len(np.unique(image)) == 4096
    steps = np.diff(image)
    assert len(np.unique(steps)) > 4000
    assert abs(np.corrcoef(image[1:], image[:-1])[0, 1]) < 0.06
    assert abs(image.mean() / 500_001 - 1) < 0.03


@settings(deadline=None)
@given(ORDERS, st.integers(0, 3))
def test_every_sample_comes_once_an_epoch_over_all_ranks(options: dict[str, int], epoch: int) -> None:
    ranks = [Order(**options, rank=rank) for rank in range(options["world"])]
    steps = {order.steps for order in ranks}
    assert len(steps) == 1
    batches = [[order.indices(epoch, step) for order in ranks] for step in range(steps.pop())]
    for together in batches[:-1]:
        assert {len(part) for part in together} == {options["batch"]}
    for together in batches[-1:]:
        assert max(map(len, together)) - min(map(len, together)) <= 1
    seen = np.concatenate([part for together in batches for part in together] or [np.empty(0, np.int64)])
    assert np.array_equal(np.sort(seen), np.arange(options["size"]))


@settings(deadline=None)
@given(ORDERS, st.data())
def test_a_step_is_the_same_whoever_asks_and_when(options: dict[str, int], data: st.DataObject) -> None:
    order = Order(**options)
    if not order.steps:
        return
    step = data.draw(st.integers(0, order.steps - 1))
    whole = [order.indices(1, number) for number in range(order.steps)]
    for other in range(3):
        Order(**options).indices(other, 0)
    assert np.array_equal(Order(**options).indices(1, step), whole[step])


@settings(deadline=None)
@given(ORDERS, st.integers(0, 2))
def test_a_block_shuffled_epoch_stays_in_its_window(options: dict[str, int], epoch: int) -> None:
    options |= {"window": max(1, options["window"]), "world": 1}
    order = Order(**options)
    held: list[int] = []
    for step in range(order.steps):
        held += order.indices(epoch, step).tolist()
    number, seen = 0, 0
    while len(rows := order.window_rows(epoch, number)):
        assert sorted(held[seen : seen + len(rows)]) == rows.tolist()
        assert len(np.unique(rows // order.block)) <= order.window
        assert order.window_of(epoch, seen // order.batch) <= number
        seen, number = seen + len(rows), number + 1
    assert seen == order.size


def test_epochs_seeds_and_windows_differ() -> None:
    first = Order(5000, 500, window=2, block=256).indices(0, 0)
    assert not np.array_equal(first, Order(5000, 500, window=2, block=256).indices(1, 0))
    assert not np.array_equal(first, Order(5000, 500, window=2, block=256, seed=1).indices(0, 0))
    assert not np.array_equal(np.sort(first), first)
    assert len(np.unique(first // 256)) == 2


def test_another_process_gets_the_same_order() -> None:
    """No hash of Python's and no state of numpy's comes into it; the numbers are fixed for good."""
    script = "from feature_store.sampling import Order; print(Order(1000, 6, 3, 1, 2, 2, 64).indices(4, 5).tolist())"
    found = {
        subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout.strip()
        for _ in range(2)
    }
    assert found == {str(Order(1000, 6, 3, 1, 2, 2, 64).indices(4, 5).tolist())}


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"batch": 0}, "batches cannot be made of"),
        ({"block": 0}, "batches cannot be made of"),
        ({"world": 2, "rank": 2}, "there is no rank 2 among 2"),
    ],
)
def test_sizes_that_make_no_order_are_refused(options: dict[str, int], sentence: str) -> None:
    with pytest.raises(StoreError, match=sentence):
        Order(**{"size": 10, "batch": 2, **options})
    with pytest.raises(StoreError, match=r"epoch 0 has no step 5\. An epoch has 5 steps, from 0"):
        Order(10, 2).indices(0, 5)


def test_what_a_window_needs_is_asked_for_block_by_block(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with FeatureStore.open(tmp_path / "s", "w", block_rows=64) as store:
        rows = store.add_ids("image", [str(n) for n in range(300)])
        for table, held in {"a": rows, "b": rows[::2], "c": rows[:10]}.items():
            store.put(table, "image", held, np.ones((len(held), 16)), dtype="float32")
        order = Order(256, 20, window=2, block=64)
        window = order.window_rows(0, 0)
        asked: list[tuple[int, int]] = []
        monkeypatch.setattr(maps.FileMap, "will_need", lambda self, start, length: asked.append((start, length)))
        block = 4080 + 64 * 64
        assert will_need(store, ["a"], window) == 2 * block
        assert sorted(asked) == sorted(set(asked))
        assert will_need(store, ["a", "b", "c", "absent"], rows) == (4 + 2) * block
        assert will_need(store, ["a"], order.window_rows(0, 99)) == 0
        monkeypatch.undo()
        assert will_need(store, ["a"], window) == 2 * block
        np.testing.assert_array_equal(store.gather("a", "image", window), np.ones((len(window), 16)))
