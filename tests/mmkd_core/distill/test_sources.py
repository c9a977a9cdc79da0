"""Features of a source: unit norm, in the order asked for; what is missing is a sentence and never a zero."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from feature_store import FeatureStore
from mmkd_core.distill import sources
from mmkd_core.distill.sources import Reader, Source
from mmkd_core.errors import PluginError

VALUES = np.random.default_rng(0).standard_normal((20, 5)).astype(np.float16).astype(np.float32)


@pytest.fixture
def source(tmp_path: Path) -> Source:
    with FeatureStore.open(tmp_path / "s", "w", block_rows=8) as store:
        for tower in ("image", "text"):
            store.add_ids(tower, [str(n) for n in range(20)])
            store.put("t", tower, range(19), VALUES[:19] if tower == "image" else -VALUES[:19])
    backwards = np.arange(20)[::-1].copy()
    return Source("t", FeatureStore.open(store.path), "t", backwards, backwards, {}, 100.0, np.ones(20, bool))


def test_features_are_of_the_samples_asked_for_and_of_unit_norm(source: Source) -> None:
    index = np.array([3, 19, 3, 1])
    expected = VALUES[19 - index] / np.linalg.norm(VALUES[19 - index], axis=1, keepdims=True)
    assert source.images(index).dtype == torch.float32
    np.testing.assert_allclose(source.images(index).numpy(), expected, rtol=1e-6)
    np.testing.assert_allclose(source.texts(index).numpy(), -expected, rtol=1e-6)


def test_what_is_missing_is_a_sentence(source: Source) -> None:
    for ask in (source.images, source.texts):
        with pytest.raises(PluginError, match=r"1 of 2 features of t are missing \(.*\)\. Run `mmkd extract`"):
            ask(np.array([0, 1]))


@pytest.fixture
def several(tmp_path: Path) -> list[Source]:
    """Two teachers in one store and one in another; the second lacks sample 19, which it does not teach."""
    made = []
    for number, name in enumerate(("a", "b", "c")):
        with FeatureStore.open(tmp_path / ("two" if name == "c" else "one"), "w", block_rows=8) as store:
            for tower, sign in (("image", 1), ("text", -1)):
                store.add_ids(tower, [str(n) for n in range(20)])
                rows = range(19 if name == "b" else 20)
                store.put(name, tower, rows, sign * (number + 1) * np.roll(VALUES, number, axis=0)[rows])
    stores = {folder: FeatureStore.open(tmp_path / folder) for folder in ("one", "two")}
    for name in "abc":
        mask = np.arange(20) % 3 != 2 if name == "b" else np.ones(20, bool)
        mask[19] = name != "b"
        rows = np.arange(20)
        made.append(Source(name, stores["two" if name == "c" else "one"], name, rows, rows.copy(), {}, 9.0, mask))
    return made


def test_all_sources_are_read_with_one_call_per_store(several: list[Source], monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []
    real = sources.gather

    def counted(*arguments, **options):
        calls.append(arguments[1])
        return real(*arguments, **options)

    monkeypatch.setattr(sources, "gather", counted)
    index = np.array([3, 19, 5, 3])
    asked = [several[2], several[1], several[0]]
    reading = Reader(several).read(asked, index, index)
    assert sorted(calls) == [["b", "a"], ["c"]]
    assert reading.sources == tuple(asked)
    assert reading.trusted.tolist() == [[True] * 4, [True, False, False, True], [True] * 4]
    for source, trusted, images, texts in zip(asked, reading.trusted, reading.images, reading.texts, strict=True):
        rows = index[trusted]
        torch.testing.assert_close(images[torch.from_numpy(trusted)], source.images(rows))
        torch.testing.assert_close(texts[torch.from_numpy(trusted)], source.texts(rows))
        assert not images[torch.from_numpy(~trusted)].any()


def test_texts_are_read_only_if_they_are_wanted(several: list[Source]) -> None:
    reading = Reader(several).read(several[:2], np.array([0, 1]), None)
    assert reading.texts == ()
    assert len(reading.images) == 2
    assert Reader([]).read([], np.array([0, 1]), np.array([0, 1])).trusted.shape == (0, 2)


def test_a_trusted_feature_that_is_missing_is_a_sentence(several: list[Source]) -> None:
    bold = replace(several[1], mask=np.ones(20, bool))
    with pytest.raises(PluginError, match=r"1 of 2 features of b are missing \(.*\)\. Run `mmkd extract`"):
        Reader([several[0], bold]).read([several[0], bold], np.array([0, 19]), np.array([0, 19]))
