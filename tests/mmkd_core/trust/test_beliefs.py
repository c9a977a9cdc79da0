"""The posterior against scipy, and the draw of other captions."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import softmax

from mmkd_core.trust.beliefs import draw_others, own_caption, posterior, unit
from mmkd_core.trust.sureness import CANDIDATES


def test_unit_keeps_zero_rows():
    np.testing.assert_allclose(unit(np.array([[3.0, 4.0], [0.0, 0.0]])), [[0.6, 0.8], [0.0, 0.0]], atol=1e-7)


def test_posterior_against_scipy_for_shared_and_for_own_texts():
    rng = np.random.default_rng(0)
    image, text = rng.normal(size=(5, 8)), rng.normal(size=(3, 8))
    cosine = (image / np.linalg.norm(image, axis=1)[:, None]) @ (text / np.linalg.norm(text, axis=1)[:, None]).T
    expected = softmax(20 * cosine, axis=1)
    np.testing.assert_allclose(posterior(image, text, 20.0), expected, atol=1e-5)
    np.testing.assert_allclose(posterior(image, np.stack([text] * 5), 20.0), expected, atol=1e-5)


def test_posterior_is_stable_at_any_scale():
    found = posterior(np.array([[1.0, 0.0]]), np.array([[1.0, 0.0], [-1.0, 0.0]]), 1e6)
    np.testing.assert_array_equal(found, [[1.0, 0.0]])


@given(st.integers(2, 200), st.data(), st.integers(0, 3))
def test_others_are_different_and_never_the_own_text(texts, data, seed):
    own = data.draw(st.integers(0, texts - 1))
    drawn = draw_others(own, texts, "0123abcd", seed)
    assert len(drawn) == min(CANDIDATES, texts) - 1 == len(set(drawn.tolist()))
    assert own not in drawn
    assert drawn.min() >= 0
    assert drawn.max() < texts
    np.testing.assert_array_equal(drawn, draw_others(own, texts, "0123abcd", seed))


def test_draws_differ_between_samples_and_seeds_and_reach_every_text():
    first = draw_others(0, 500, "aa", 0)
    assert set(first) != set(draw_others(0, 500, "ab", 0))
    assert set(first) != set(draw_others(0, 500, "aa", 1))
    counts = np.bincount(np.concatenate([draw_others(7, 100, f"{i:x}", 0) for i in range(500)]), minlength=100)
    assert counts[7] == 0
    assert np.delete(counts, 7).min() > 0.8 * 500 * 63 / 99


def test_own_caption_sure_right_and_vacuous():
    pool = np.eye(4, dtype=np.float32)
    image = np.stack([pool[0], pool[1], pool[0]])
    own = np.array([0, 0, 0])
    sure, right, highest = own_caption(image, pool[own], pool, own, ["a", "b", "c"], 100.0, 0)
    np.testing.assert_allclose(sure, [1, 0, 1], atol=1e-6)
    assert right.tolist() == [True, False, True]
    np.testing.assert_allclose(highest, [1, 1, 1], atol=1e-6)
    sure, right, _ = own_caption(image, pool[own], pool[:1], own, ["a", "b", "c"], 100.0, 0)
    assert sure.tolist() == [0, 0, 0]
    assert not right.any()


def test_a_tie_is_not_right():
    flat = np.ones((3, 2), dtype=np.float32)
    sure, right, _ = own_caption(flat, flat, flat, np.array([0, 1, 2]), ["a", "b", "c"], 10.0, 0)
    assert sure == pytest.approx([1 / 3] * 3)
    assert not right.any()
