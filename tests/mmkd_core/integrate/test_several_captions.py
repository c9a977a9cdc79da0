"""A workspace in which samples have several captions: all are extracted once, and retrieval counts all as right."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from mmkd_core.audit.evidence import Key
from mmkd_core.data.manifest import Corpus, sample_id, text_id
from mmkd_core.evaluate.embeddings import Embeddings
from mmkd_core.evaluate.retrieval import Retrieval
from mmkd_core.integrate.evidence import References, evidence_of
from mmkd_core.integrate.extracting import run_extract
from mmkd_core.integrate.features import open_store
from mmkd_core.integrate.measuring import retrieval_of
from mmkd_core.integrate.student_data import run_pretrain, training_captions
from mmkd_core.integrate.teaching import run_distill
from mmkd_core.integrate.workspace import Workspace
from mmkd_core.student import pretrain as stage_one


def further(corpus: Corpus) -> Corpus:
    """Every third sample gets one caption more, every sixth two; one of them is another sample's."""
    more = corpus.more_captions.copy()
    for i in range(0, len(corpus), 3):
        more[i] = (f"seen again {i}", str(corpus.caption[i - 1]))[: 1 + (i % 6 == 0)]
    ids = corpus.sample_id.copy()
    for i in range(len(corpus)):
        ids[i] = sample_id(str(corpus.image_id[i]), str(corpus.caption[i]), *more[i])
    return replace(corpus, more_captions=more, sample_id=ids).save(corpus.root)


@pytest.fixture(scope="module")
def workspace(arrived: Callable[..., Workspace]) -> Workspace:
    ready = arrived()
    further(ready.corpus())
    run_extract(ready).require()
    return ready


def test_every_caption_is_extracted_once(workspace: Workspace) -> None:
    corpus = workspace.corpus()
    assert len(corpus.texts) == 400 + 134 + 67
    with open_store(workspace) as store:
        for table in store.tables():
            if table.tower == "text":
                rows = store.rows("text", [text_id(text) for text in set(corpus.texts)])
                assert not store.missing(table.table, "text", rows).any()
        assert (store.rows("text", list(corpus.text_ids)) >= 0).all()
    assert not any(run_extract(workspace).texts.values()), "a second run has nothing to do"


def found_by_hand(images: np.ndarray, texts: np.ndarray, corpus: Corpus) -> tuple[float, float]:
    """R@1 both ways, query by query; different images and texts once each."""
    names = [str(name) for name in corpus.text_ids]
    own: dict[str, set[str]] = {}
    for name, owner in zip(names, corpus.owners, strict=True):
        own.setdefault(str(corpus.image_id[owner]), set()).add(name)
    image = {str(name): images[i] for i, name in enumerate(corpus.image_id)}
    text = {name: texts[c] for c, name in enumerate(names)}
    first = []
    for name, vector in image.items():
        best = max(text, key=lambda other: float(vector @ text[other]))
        first.append(best in own[name])
    back = []
    for name, vector in text.items():
        best = max(image, key=lambda other: float(vector @ image[other]))
        back.append(name in own[best])
    return float(np.mean(first)), float(np.mean(back))


def check(found: Retrieval, images: np.ndarray, texts: np.ndarray, corpus: Corpus) -> None:
    there, back = found_by_hand(images, texts, corpus)
    assert found.image_to_text.queries == len(set(corpus.image_id))
    assert found.image_to_text.gallery == len(set(corpus.text_ids)) > len(set(corpus.text_id))
    assert found.image_to_text.recall[1] == pytest.approx(there)
    assert found.text_to_image.recall[1] == pytest.approx(back)


def test_retrieval_counts_all_captions_as_right(workspace: Workspace) -> None:
    corpus = workspace.corpus()
    part = corpus.take(corpus.where(split="test"))
    found = retrieval_of(workspace, "phantom-eye")
    with open_store(workspace) as store:
        table = next(table.table for table in store.tables() if table.facts["teacher"] == "phantom-eye")
        images = store.gather(table, "image", store.rows("image", [str(name) for name in part.image_id]))
        texts = store.gather(table, "text", store.rows("text", [str(name) for name in part.text_ids]))
    unit = [x / np.linalg.norm(x, axis=1, keepdims=True) for x in (images, texts)]
    check(found, *unit, part)


def test_a_release_keeps_all_captions_and_its_audit_counts_them(workspace: Workspace) -> None:
    corpus = workspace.corpus()
    part = corpus.take(corpus.where(split="test"))
    run_pretrain(workspace, workspace.config.pretrain)
    release = run_distill(workspace).release
    embedded = Embeddings.load(release.embeddings)
    images, texts = embedded.pairs
    assert len(images) == len(texts) == len(part.texts)
    found = retrieval_of(workspace, release.id)
    check(found, images[: len(part)], texts, part)
    outcomes = evidence_of(release, embedded, corpus, References()).outcomes
    for way, direction in (("image to text", found.image_to_text), ("text to image", found.text_to_image)):
        for k in (1, 5, 10):
            values = outcomes[Key("retrieval", f"R@{k}", way)]
            assert values.mean() == pytest.approx(direction.recall[k]), (way, k)
            assert len(values) == (len(part) if way == "image to text" else len(part.texts))


def test_stage_one_is_given_all_captions_of_its_samples(workspace: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    corpus, given = workspace.corpus(), {}
    real = stage_one.ClipObjective.__init__

    def init(self: object, student: object, pixels: object, tokens: object, *rest: object) -> None:
        given.update(tokens=tokens, captions=rest[-1])
        real(self, student, pixels, tokens, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(stage_one.ClipObjective, "__init__", init)
    run_pretrain(workspace, workspace.config.pretrain.model_copy(update={"steps": 3}))
    assert len(given["tokens"]) == len(corpus.texts)
    assert given["captions"].offsets[-1] == len(corpus.texts) - len(corpus)
    texts, _ = training_captions(corpus, corpus.where(), "own")
    assert texts == corpus.texts
