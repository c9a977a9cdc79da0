"""Retrieval against a brute-force search, with ties, repeated captions and collapsed models."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mmkd_core.data.manifest import Corpus
from mmkd_core.errors import DataError
from mmkd_core.evaluate.figures import score
from mmkd_core.evaluate.retrieval import Chance, measure, retrieval, search


def ids(values):
    return np.array([str(value) for value in values], dtype=object)


def brute_rank(query, gallery, right):
    """Rank of the best right answer, counted one by one, ties against the model."""
    cosine = [float(np.dot(query, g) / np.linalg.norm(query) / np.linalg.norm(g)) for g in gallery]
    best = max(cosine[j] for j in right)
    return 1 + sum(c >= best - 5e-7 for j, c in enumerate(cosine) if j not in right)


@given(st.integers(1, 25), st.integers(1, 8), st.integers(1, 8), st.integers(0, 10**6))
@settings(max_examples=40, deadline=None)
def test_against_brute_force_with_many_right_answers(n, images, texts, seed):
    rng = np.random.default_rng(seed)
    image, text = rng.integers(0, images, n), rng.integers(0, texts, n)
    # Small integers make exact ties; a shift keeps every vector from zero.
    image_vectors, text_vectors = (rng.integers(1, 4, (k, 3)).astype(np.float32) for k in (images, texts))
    found = retrieval(image_vectors[image], text_vectors[text], ids(image), ids(text), ks=(1, 2))
    gallery = sorted(set(text.tolist()), key=str)
    for name, rank in zip(found.image_to_text.ids, found.image_to_text.ranks, strict=True):
        right = {gallery.index(t) for i, t in zip(image, text, strict=True) if str(i) == name}
        assert rank == brute_rank(image_vectors[int(name)], text_vectors[gallery], right)
    gallery = sorted(set(image.tolist()), key=str)
    for name, rank in zip(found.text_to_image.ids, found.text_to_image.ranks, strict=True):
        right = {gallery.index(i) for i, t in zip(image, text, strict=True) if str(t) == name}
        assert rank == brute_rank(text_vectors[int(name)], image_vectors[gallery], right)
    if 1 in found.text_to_image.recall:
        assert found.text_to_image.recall[1] == (found.text_to_image.ranks == 1).mean()


def test_perfect_model():
    found = retrieval(np.eye(20), 3 * np.eye(20), ids(range(20)), ids(range(20)))
    assert found.image_to_text.recall == {1: 1.0, 5: 1.0, 10: 1.0}
    assert found.text_to_image.median_rank == 1


def test_a_collapsed_model_is_not_above_chance():
    rng = np.random.default_rng(0)
    one = rng.normal(size=(1, 512)).astype(np.float32)
    # Equal up to the last bits: products differ by rounding, which must not count as an order.
    images = np.repeat(one, 200, axis=0)
    texts = one * (1 + 1e-7 * rng.normal(size=(200, 1)).astype(np.float32))
    found = retrieval(images, texts, ids(range(200)), ids(range(200)))
    for part in (found.image_to_text, found.text_to_image):
        assert part.recall[1] <= 1 / 200
        assert part.recall[10] <= 10 / 200
        assert part.median_rank == 200


def test_a_random_model_is_at_chance():
    rng = np.random.default_rng(1)
    found = retrieval(rng.normal(size=(500, 16)), rng.normal(size=(500, 16)), ids(range(500)), ids(range(500)))
    assert found.image_to_text.recall[10] == pytest.approx(10 / 500, abs=0.02)
    assert found.text_to_image.median_rank == pytest.approx(250, abs=40)


def test_equal_captions_are_one_text_and_two_captions_of_an_image_are_both_right():
    image, text = ids([0, 1, 2, 2]), ids(["scan", "scan", "left", "right"])
    vectors = {"scan": [1.0, 0, 0], "left": [0, 1.0, 0], "right": [0, 0, 1.0]}
    images = np.array([[1, 0, 0], [1, 0.1, 0], [0, 0.2, 1], [0, 0.2, 1]])
    found = retrieval(images, np.array([vectors[t] for t in text]), image, text)
    assert (found.image_to_text.queries, found.image_to_text.gallery) == (3, 3)
    assert found.image_to_text.ranks.tolist() == [1, 1, 1]
    assert dict(zip(found.text_to_image.ids, found.text_to_image.ranks, strict=True)) == {
        "scan": 1,
        "left": 1,
        "right": 1,
    }


def test_chunks_change_nothing(monkeypatch):
    rng = np.random.default_rng(2)
    arrays = rng.normal(size=(30, 4)), rng.normal(size=(30, 4)), ids(rng.integers(0, 9, 30)), ids(range(30))
    whole = retrieval(*arrays)
    monkeypatch.setattr("mmkd_core.evaluate.retrieval._CHUNK_BYTES", 4 * 30 * 2)
    np.testing.assert_array_equal(retrieval(*arrays).text_to_image.ranks, whole.text_to_image.ranks)
    np.testing.assert_array_equal(retrieval(*arrays).image_to_text.ranks, whole.image_to_text.ranks)


def test_json_names_the_protocol_and_the_gallery():
    facts = retrieval(np.eye(3), np.eye(3), ids(range(3)), ids(range(3))).to_json()
    assert facts["protocol"] == "mmkd/retrieval@2"
    assert facts["image_to_text"] == {
        "recall": {"1": 1.0, "5": None, "10": None},
        "median_rank": 1.0,
        "queries": 3,
        "gallery": 3,
        "chance": {"recall": {"1": pytest.approx(1 / 3), "5": None, "10": None}, "median_rank": 2},
        "undefined": {"5": "the gallery has 3", "10": "the gallery has 3"},
    }


def test_refusals():
    with pytest.raises(DataError, match="nothing to search: no image of the test split has a caption"):
        retrieval(np.eye(2)[:0], np.eye(2)[:0], ids([]), ids([]))
    with pytest.raises(DataError, match="as many images as captions"):
        retrieval(np.eye(2), np.eye(3), ids([0, 1]), ids([0, 1, 2]))
    with pytest.raises(DataError, match="text features with NaN or infinity"):
        retrieval(np.eye(2), np.full((2, 2), np.nan), ids([0, 1]), ids([0, 1]))


def test_chance_by_hand():
    one, two = Chance(4, np.array([1])), Chance(4, np.array([2]))
    assert [one.recall(k) for k in (1, 2, 4)] == pytest.approx([1 / 4, 1 / 2, 1])
    assert [two.recall(k) for k in (1, 2, 3)] == pytest.approx([1 / 2, 5 / 6, 1])
    assert (one.median_rank, two.median_rank) == (2, 1)
    assert one.reciprocal_rank == pytest.approx((1 + 1 / 2 + 1 / 3 + 1 / 4) / 4)
    assert two.reciprocal_rank == pytest.approx(1 / 2 + (1 / 3) / 2 + (1 / 6) / 3)
    assert Chance(4, np.array([1, 2])).recall(1) == pytest.approx(3 / 8)
    assert [one.undefined(k) for k in (3, 4, 5)] == ["", "the gallery has 4", "the gallery has 4"]
    assert two.undefined(3) == "3 of 4 always hold a right answer"


@given(st.integers(1, 12), st.integers(1, 12), st.integers(1, 5), st.integers(0, 999))
@settings(max_examples=20, deadline=None)
def test_chance_is_the_mean_over_random_orders(gallery, right, k, seed):
    right = min(right, gallery)
    rng = np.random.default_rng(seed)
    best = np.array([rng.permutation(gallery)[:right].min() + 1 for _ in range(4000)])
    found = Chance(gallery, np.full(3, right))
    assert found.recall(k) == pytest.approx((best <= k).mean(), abs=0.05)
    assert found.reciprocal_rank == pytest.approx((1 / best).mean(), abs=0.05)


def test_a_gallery_of_two_says_nothing_at_five_and_chance_stands_beside_one():
    """Whatever the model does, R@5 of two captions would be 100 %."""
    rng = np.random.default_rng(3)
    captions = rng.normal(size=(2, 8))
    groups = ids(range(24))
    outcomes = search(
        rng.normal(size=(24, 8)), captions[np.arange(24) % 2], ids(range(24)), ids(np.arange(24) % 2), groups
    )
    found = {(f.part, f.metric): f for f in score(outcomes, measure, resamples=10)}
    assert found["image to text", "R@1"].chance == 0.5
    assert found["image to text", "R@1"].remark == "gallery of 2"
    for k in (5, 10):
        assert found["image to text", f"R@{k}"].interval is None
        assert found["image to text", f"R@{k}"].status == "undefined: the gallery has 2"
    back = found["text to image", "R@5"]  # twelve of 24 images are right
    assert back.interval is not None
    assert back.chance == pytest.approx(1 - 792 / 42504)  # none of twelve in a draw of five


def test_one_caption_of_all_images_says_nothing_either_way():
    rng = np.random.default_rng(3)
    captions = np.repeat(rng.normal(size=(1, 8)), 12, axis=0)
    outcomes = search(rng.normal(size=(12, 8)), captions, ids(range(12)), ids(np.zeros(12)), ids(range(12)))
    found = {(f.part, f.metric): f.status for f in score(outcomes, measure, resamples=10)}
    assert found["image to text", "mean reciprocal rank"] == "undefined: the gallery has 1"
    assert found["text to image", "mean reciprocal rank"] == "undefined: 1 of 12 always hold a right answer"


def test_pairs_are_first_captions_and_then_further_ones():
    rows = [
        {"image_id": str(i), "caption": text, "more_captions": more, "domain": "ct", "group_id": "g", "split": "test"}
        | {"image": "x"}
        for i, (text, more) in enumerate([("a", ()), ("b", ("c", "d")), ("a", ("e",))])
    ]
    corpus = Corpus.build(Path("/nowhere"), rows, {})
    of, texts = corpus.owners, corpus.texts
    assert of.tolist() == [0, 1, 2, 1, 1, 2]
    assert texts == ["a", "b", "a", "c", "d", "e"]
