"""Zero-shot scores against scipy, and what is passed over."""

from pathlib import Path

import numpy as np
import pytest
from scipy.special import softmax

from mmkd_core.data.manifest import Corpus
from mmkd_core.errors import DataError
from mmkd_core.evaluate.zero_shot import class_embeddings, zero_shot
from mmkd_core.trust import logits

PROMPTS = {"ct": {"mass": ("a",), "normal": ("b",)}, "xray": {"one": ("c",), "two": ("d",), "three": ("e",)}}


def corpus(labels):
    return Corpus.build(
        Path("/nowhere"),
        [
            {
                "image": f"{i}.png",
                "image_id": str(i),
                "caption": "c",
                "domain": domain,
                "label": label,
                "group_id": f"p{i}",
                "split": "test",
            }
            for i, (domain, label) in enumerate(labels)
        ],
        PROMPTS,
    )


def test_class_embeddings_are_renormalised_means_of_normalised_sentences():
    found = class_embeddings([np.array([[3.0, 0.0], [0.0, 0.5]]), np.array([[0.0, -7.0]])])
    np.testing.assert_allclose(found, [[0.5**0.5, 0.5**0.5], [0.0, -1.0]], atol=1e-6)
    with pytest.raises(DataError, match=r"a class without sentences \(class 1\). Add some to prompts.yaml"):
        class_embeddings([np.ones((1, 2)), np.ones((0, 2))])


def test_logits_are_scaled_cosines_and_posteriors_their_softmax():
    data = corpus([("ct", "mass"), ("xray", "three"), ("ct", None), ("oct", "drusen"), ("ct", "normal")])
    rng = np.random.default_rng(0)
    images = rng.normal(size=(5, 6))
    texts = {"ct": class_embeddings(rng.normal(size=(2, 1, 6))), "xray": class_embeddings(rng.normal(size=(3, 2, 6)))}
    found = zero_shot(images, texts, 7.0, data)
    assert found.protocol == "mmkd/zero-shot@2"
    assert list(found.domains) == ["ct", "xray"]
    ct = found["ct"]
    assert ct.sample_id.tolist() == [data.sample_id[0], data.sample_id[4]]
    assert ct.group_id.tolist() == ["p0", "p4"]
    assert ct.classes == ("mass", "normal")
    assert ct.truth.tolist() == [0, 1]
    rows = images[[0, 4]] / np.linalg.norm(images[[0, 4]], axis=1, keepdims=True)
    cosine = rows @ texts["ct"].astype(np.float64).T
    np.testing.assert_allclose(ct.logits, 7 * cosine, atol=1e-6)
    np.testing.assert_allclose(ct.posteriors(), softmax(7 * cosine, axis=1), atol=1e-6)
    assert found["xray"].truth.tolist() == [2]


def test_refusals():
    data = corpus([("ct", "mass"), ("ct", "ghost")])
    texts = {"ct": np.eye(2)}
    with pytest.raises(DataError, match="features of 1 images for a corpus of 2 samples"):
        zero_shot(np.ones((1, 2)), texts, 1.0, data)
    with pytest.raises(DataError, match="1 class embeddings for the 2 classes of ct"):
        zero_shot(np.ones((2, 2)), {"ct": np.eye(2)[:1]}, 1.0, data)
    with pytest.raises(DataError, match="the label 'ghost' is none of the classes mass, normal"):
        zero_shot(np.ones((2, 2)), texts, 1.0, data)
    with pytest.raises(DataError, match="logits with NaN or infinity"):
        zero_shot(np.array([[np.nan, 1]]), texts, 1.0, corpus([("ct", "mass")]))


def test_two_copies_of_an_image_tie_and_others_do_not_however_sure_the_model_is():
    """Float32 probabilities at CLIP's scale of 100 are 0 or 1 for most images."""
    rng = np.random.default_rng(0)
    images = rng.normal(size=(301, 512)).astype(np.float32)
    images[:, 0] += 40
    images[300] = images[7]
    texts = {"ct": np.eye(512, dtype=np.float32)[:2]}
    found = zero_shot(images, texts, 100.0, corpus([("ct", "mass"), ("ct", "normal")] * 150 + [("ct", "mass")]))["ct"]
    odds = found.log_odds[:, 0]
    assert odds[300] == odds[7]
    assert len(set(odds)) == 300
    assert len(set(found.posteriors()[:, 0].astype(np.float32))) < 10
    auc = found.auc()
    assert auc is not None
    wins = 2 * auc * 151 * 150  # a half for the one pair that is a tie
    assert wins == pytest.approx(round(wins), abs=1e-6)
    assert round(wins) % 2 == 1


def test_the_logits_of_a_row_do_not_depend_on_its_place():
    rng = np.random.default_rng(1)
    rows, texts = rng.normal(size=(1001, 33)).astype(np.float32), rng.normal(size=(3, 33)).astype(np.float32)
    whole = logits(rows, texts, 3.0)
    for start in (0, 1, 7, 500, 1000):
        np.testing.assert_array_equal(logits(rows[start : start + 5], texts, 3.0), whole[start : start + 5])
