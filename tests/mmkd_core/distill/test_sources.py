"""Features of a source: unit norm, in the order asked for; what is missing is a sentence and never a zero."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from feature_store import FeatureStore
from mmkd_core.distill.sources import Source
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
