"""A source gives for each sample the features that its teacher put for it, with the teacher's own logit scale."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from feature_store import FeatureStore
from mmkd_core.data.manifest import Corpus, text_id
from mmkd_core.distill.bank import Bank
from mmkd_core.distill.sources import Source
from mmkd_core.integrate import distillation
from mmkd_core.integrate.features import Features, corpus_texts
from mmkd_core.integrate.teaching import run_distill
from mmkd_core.integrate.workspace import Workspace
from mmkd_core.plugins import PluginHost

N = 8


@pytest.fixture
def corpus() -> Corpus:
    """Samples 2 and 5 share an image, 3 and 6 a caption; 1 and 4 have further captions."""
    more = {1: ("one again", "one once more"), 4: ("four again",)}
    rows = [
        {
            "image": f"{i}.png",
            "image_id": f"image {2 if i == 5 else i}",
            "caption": f"caption {3 if i == 6 else i}",
            "more_captions": more.get(i, ()),
            "domain": "mri",
            "group_id": f"{i}",
            "split": "train",
        }
        for i in range(N)
    ]
    return Corpus.build(Path("nowhere"), rows, {"mri": {"a": ("an a",), "b": ("a b",)}})


def vector(name: str) -> np.ndarray:
    """What the teacher says of an image or a text: a function of its id."""
    return np.random.default_rng(list(name.encode())).normal(size=64).astype(np.float16).astype(np.float32)


def unit(names: list[str]) -> torch.Tensor:
    return torch.nn.functional.normalize(torch.from_numpy(np.stack([vector(name) for name in names])), dim=-1)


@pytest.fixture
def features(corpus: Corpus, tmp_path: Path) -> Features:
    """A teacher whose features lie in another order than the samples, and with rows of others between them."""
    spec = PluginHost.discover().teacher("phantom-sono").model_copy(update={"embed_dim": 64, "logit_scale": 37.5})
    images = sorted({*corpus.image_id, "another"}, reverse=True)
    texts = sorted({*map(text_id, corpus_texts(corpus)), "another"})
    with FeatureStore.open(tmp_path / "store", "w", block_rows=8) as store:
        for tower, names in (("image", images), ("text", texts)):
            store.put(spec.fingerprint, tower, store.add_ids(tower, names), np.stack([vector(n) for n in names]))
    return Features(spec, corpus, FeatureStore.open(tmp_path / "store"))


def test_images_texts_and_bank_are_what_was_put_for_them(features: Features, corpus: Corpus) -> None:
    bank = Bank({"mri": ("a b", "caption 7", "an a")})
    source = features.source(bank, np.ones(N, bool))
    index = np.array([5, 0, 2, 6, 4])
    expected = unit(["image 2", "image 0", "image 2", "image 6", "image 4"])
    torch.testing.assert_close(source.images(index), expected, atol=1e-3, rtol=0)
    texts = ["caption 5", "caption 0", "caption 2", "caption 3", "caption 4"]
    torch.testing.assert_close(source.texts(index), unit([text_id(t) for t in texts]), atol=1e-3, rtol=0)
    further = ["one again", "one once more", "four again"]
    torch.testing.assert_close(source.texts(np.arange(8, 11)), unit([text_id(t) for t in further]), atol=1e-3, rtol=0)
    torch.testing.assert_close(source.bank["mri"], unit([text_id(t) for t in bank.texts["mri"]]), atol=1e-3, rtol=0)
    assert source.logit_scale == 37.5


def test_the_trust_rule_sees_the_first_caption(features: Features) -> None:
    view = features.view()
    assert view.caption.shape == (N, 64)
    np.testing.assert_allclose(view.caption[4], vector(text_id("caption 4")), atol=1e-2)
    np.testing.assert_allclose(view.image[5], vector("image 2"), atol=1e-2)
    assert view.logit_scale == 37.5


class StoppedError(Exception):
    """Before any training."""


def sources_of(workspace: Workspace, monkeypatch: pytest.MonkeyPatch) -> dict[str, Source]:
    found: dict[str, Source] = {}

    def stop(student: object, sources: list[Source], *rest: object, **options: object) -> None:
        found.update({source.name: source for source in sources})
        raise StoppedError

    monkeypatch.setattr(distillation, "distill", stop)
    with pytest.raises(StoppedError):
        run_distill(workspace)
    return found


def test_the_scale_is_the_specs_or_the_one_that_was_read_from_the_checkpoint(
    arrived: Callable[..., Workspace], monkeypatch: pytest.MonkeyPatch
) -> None:
    workspace = arrived()
    lock = json.loads(workspace.lock_file.read_text())
    lock["teachers"]["phantom-eye"]["logit_scale"] = 23.5
    workspace.lock_file.write_text(json.dumps(lock))
    found = sources_of(workspace, monkeypatch)
    assert found["phantom-eye"].logit_scale == 23.5
    declared = PluginHost.discover().teacher("phantom-radio").logit_scale
    assert found["phantom-radio"].logit_scale == declared > 1
