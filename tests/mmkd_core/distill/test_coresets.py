from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mmkd_core.distill.coresets import herding, k_centre


def plain_herding(features, count):
    """iCaRL, algorithm 4, word for word."""
    mean, picks = features.mean(axis=0), []
    for k in range(1, count + 1):
        gaps = [
            np.inf if i in picks else np.linalg.norm(mean - (features[i] + features[picks].sum(axis=0)) / k)
            for i in range(len(features))
        ]
        picks.append(int(np.argmin(gaps)))
    return picks


def plain_k_centre(features, count):
    picks = [int(np.linalg.norm(features - features.mean(axis=0), axis=1).argmin())]
    while len(picks) < count:
        gaps = [min(np.linalg.norm(row - features[pick]) for pick in picks) for row in features]
        picks.append(int(np.argmax(gaps)))
    return picks


@pytest.mark.parametrize(("fast", "plain"), [(herding, plain_herding), (k_centre, plain_k_centre)])
@pytest.mark.parametrize("seed", range(4))
def test_the_picks_are_those_of_the_plain_algorithm(fast, plain, seed):
    features = np.random.default_rng(seed).normal(size=(60, 7)).astype(np.float32)
    assert fast(features, 25).tolist() == plain(features.astype(np.float64), 25)


def test_by_hand():
    line = np.array([[0.0], [1.0], [2.0], [9.0]])  # the mean is 3
    assert herding(line, 2).tolist() == [2, 1]  # then (2 + 1) / 2, because 9 makes 5.5
    assert k_centre(line, 3).tolist() == [2, 3, 0]


@given(rows=st.integers(0, 12), count=st.integers(0, 15), seed=st.integers(0, 99), same=st.booleans())
@pytest.mark.parametrize("choose", [herding, k_centre])
def test_every_choice_begins_like_a_larger_one(choose, rows, count, seed, same):
    features = np.random.default_rng(seed).normal(size=(rows, 3))
    if same:
        features[:] = 1.0
    picks = choose(features, count)
    assert len(set(picks.tolist())) == len(picks) == min(count, rows)
    assert picks.dtype == np.int64
    assert picks.tolist() == choose(features, count + 2)[: len(picks)].tolist()


def test_k_centre_reaches_what_herding_leaves_out():
    rng = np.random.default_rng(0)
    features = np.concatenate([rng.normal(size=(500, 4)), rng.normal(size=(3, 4)) + 40])
    assert set(k_centre(features, 5).tolist()) & {500, 501, 502}
