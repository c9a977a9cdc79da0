"""From a release's files to what an audit compares, without a workspace around it."""

from pathlib import Path

import numpy as np
import pytest
import torch

from mmkd_core.audit.evidence import Key
from mmkd_core.audit.forgetting import forgetting
from mmkd_core.audit.pairing import AuditError
from mmkd_core.data.manifest import Corpus
from mmkd_core.distill.heads import TeacherHead, save_heads
from mmkd_core.distill.normalise import PhiS
from mmkd_core.evaluate.embeddings import Embeddings
from mmkd_core.evaluate.predictions import Predictions
from mmkd_core.evaluate.retrieval import retrieval
from mmkd_core.evaluate.zero_shot import zero_shot
from mmkd_core.files import hashes_of
from mmkd_core.integrate.evidence import Reference, References, evidence_of
from mmkd_core.integrate.releases import Release

N, CAPTIONS = 60, 20
NO_MORE = np.empty((0, 8), np.float32), np.empty(0, np.int64)


@pytest.fixture
def corpus():
    rows = [
        {
            "image": f"{i}.png",
            "image_id": f"image {i:02d}",
            "caption": f"caption {i % CAPTIONS}",  # three samples share each
            "domain": "ct",
            "label": "ab"[i % 2],
            "group_id": f"patient {i // 2}",
            "split": "test",
        }
        for i in range(N)
    ]
    return Corpus.build(Path("/nowhere"), rows, {"ct": {"a": ("a",), "b": ("b",)}})


def made(corpus, folder, seed):
    """A release in ``folder`` with predictions and one head, and its embeddings."""
    rng = np.random.default_rng(seed)
    captions = rng.normal(size=(CAPTIONS, 8))[np.arange(N) % CAPTIONS]
    images = captions + rng.normal(size=(N, 8))
    unit = [part / np.linalg.norm(part, axis=1, keepdims=True) for part in (images, captions)]
    embedded = Embeddings(corpus.sample_id, *(part.astype(np.float32) for part in unit), *NO_MORE)
    classes = {"ct": rng.normal(size=(2, 8)).astype(np.float32)}
    zero_shot(embedded.images, classes, 5.0, corpus).save(folder / "predictions.parquet")
    torch.manual_seed(seed)
    normalisers = {tower: PhiS.fit(rng.normal(size=(40, 4)).astype(np.float32)) for tower in ("image", "text")}
    save_heads({"tutor": TeacherHead(8, normalisers, 10.0)}, folder)
    facts = {"teachers": ["tutor"], "parent": None, "files": hashes_of(folder)}
    return Release(folder.name, folder, facts), embedded


@pytest.fixture
def tutor(corpus):
    rng = np.random.default_rng(9)
    images = rng.normal(size=(N, 4)).astype(np.float32)
    predictions = zero_shot(images, {"ct": rng.normal(size=(2, 4)).astype(np.float32)}, 5.0, corpus)
    rows = np.arange(10, 40)
    return Reference("tutor", predictions, rows, images[rows])


def test_retrieval_is_that_of_the_protocol_and_fidelity_is_on_trusted_rows(corpus, tutor, tmp_path):
    (tmp_path / "0001").mkdir()
    release, embedded = made(corpus, tmp_path / "0001", 1)
    found = evidence_of(release, embedded, corpus, References({"tutor": tutor}))
    protocol = retrieval(embedded.images, embedded.texts, corpus.image_id, corpus.text_id)
    for k in (1, 5, 10):
        for way, direction in (("image to text", protocol.image_to_text), ("text to image", protocol.text_to_image)):
            assert found.outcomes[Key("retrieval", f"R@{k}", way)].mean() == pytest.approx(direction.recall[k])
    cosine, agreement = (found.outcomes[Key("fidelity", m, "tutor")] for m in ("cosine", "agreement"))
    assert list(cosine.sample_id) == list(agreement.sample_id) == list(corpus.sample_id[10:40])
    assert agreement.values.dtype == bool
    own = Predictions.load(release.predictions)["ct"].logits[10:40].argmax(axis=1)
    assert agreement.mean() == (own == tutor.predictions["ct"].logits[10:40].argmax(axis=1)).mean()


def test_two_releases_are_compared_in_every_family(corpus, tutor, tmp_path):
    evidence = []
    for seed in (1, 2):
        folder = tmp_path / f"000{seed}"
        folder.mkdir()
        evidence.append(evidence_of(*made(corpus, folder, seed), corpus, References({"tutor": tutor})))
    found = forgetting(*evidence)
    assert {row.family for row in found.comparisons} == {"zero-shot", "retrieval", "fidelity", "calibration", "flips"}
    assert found["fidelity", "cosine", "tutor"].n == 30


def test_a_sample_that_the_corpus_lost(corpus, tutor, tmp_path):
    (tmp_path / "0001").mkdir()
    release, embedded = made(corpus, tmp_path / "0001", 1)
    with pytest.raises(
        AuditError, match=r"release 0001 was measured on sample .* which the corpus does not have any more"
    ):
        evidence_of(release, embedded, corpus.take(np.arange(1, N)), References())
    fewer = Embeddings(embedded.sample_id[1:], embedded.images[1:], embedded.texts[1:], *NO_MORE)
    with pytest.raises(AuditError, match=r"the embeddings of release 0001 lack sample .* \(1 such"):
        evidence_of(release, fewer, corpus, References())


def without_heads(folder, images, corpus):
    folder.mkdir()
    zero_shot(images, {"ct": np.eye(8, dtype=np.float32)[:2]}, 1.0, corpus).save(folder / "predictions.parquet")
    save_heads({}, folder)
    return Release(folder.name, folder, {"teachers": [], "files": hashes_of(folder)})


def test_every_caption_of_a_sample_asks_and_is_right_for_its_image(tmp_path):
    """Two images. The second has two captions, of which only the further one is near it."""
    rows = [
        {"image": f"{i}.png", "image_id": f"i{i}", "caption": text, "more_captions": more, "domain": "ct"}
        | {"label": "a", "group_id": f"p{i}", "split": "test"}
        for i, (text, more) in enumerate([("round", ()), ("dark", ("oval",))])
    ]
    corpus = Corpus.build(Path("/nowhere"), rows, {"ct": {"a": ("a",), "b": ("b",)}})
    axes = np.eye(8, dtype=np.float32)
    embedded = Embeddings(corpus.sample_id, axes[:2], axes[[0, 0]], axes[[1]], np.array([1]))
    found = evidence_of(without_heads(tmp_path / "0001", axes[:2], corpus), embedded, corpus, References())
    images, texts = (found.outcomes[Key("retrieval", "R@1", way)] for way in ("image to text", "text to image"))
    assert images.mean() == 0.5  # "round" and "dark" are equally near the first: a tie is against the model
    assert texts.mean() == pytest.approx(2 / 3)
    assert sorted(texts.sample_id) == sorted(corpus.sample_id[[0, 1, 1]])
    assert images.note == "gallery of 3, by chance 50.0"  # one right answer of three, and two of three
    assert found.undefined[Key("retrieval", "R@5", "image to text")].reason == "the gallery has 3"
    assert found.undefined[Key("retrieval", "R@10", "text to image")].reason == "the gallery has 2"


def test_what_says_nothing_of_a_small_gallery_is_told_and_not_compared(corpus, tmp_path):
    few = corpus.take(np.arange(5))
    evidence = []
    for seed in (1, 2):
        rng = np.random.default_rng(seed)
        vectors = rng.normal(size=(2, 5, 8)).astype(np.float32)
        release = without_heads(tmp_path / f"000{seed}", vectors[0], few)
        evidence.append(evidence_of(release, Embeddings(few.sample_id, *vectors, *NO_MORE), few, References()))
    found = forgetting(*evidence)
    assert set(found.family("retrieval", "R@1")) == {"image to text", "text to image"}
    assert found.family("retrieval", "R@10") == {}
    told = {row.key: (row.reason, row.verdict) for row in found.undefined}
    assert told[Key("retrieval", "R@10", "image to text")] == ("the gallery has 5", None)
    assert found["retrieval", "R@1", "image to text"].status == "gallery of 5, by chance 20.0"
