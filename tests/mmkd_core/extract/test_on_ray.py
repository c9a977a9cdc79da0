"""Extraction on a local Ray cluster: the same features as without it, also when workers die."""

from __future__ import annotations

import importlib
import os
import sys
import textwrap
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from feature_store import FeatureStore
from mmkd_core.data.manifest import Corpus, image_id
from mmkd_core.errors import BatchError, DataError, PluginError
from mmkd_core.extract import ExtractConfig, Job, extract, features

ray = pytest.importorskip("ray")
pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]

IMAGES, TEXTS = 1100, ["a", "bb", "ccc"]

TEACHER = """
    import os, signal
    import numpy as np
    import torch

    from mmkd_core.contract import ImageSpec, LicenseInfo, TeacherSpec, TextSpec, WeightSource

    class Teacher:
        def __init__(self, spec, folder):
            self.spec, self.folder = spec, folder

        def preprocess(self, image):
            return torch.from_numpy(np.asarray(image.convert("RGB").resize((2, 2)), np.float32)).permute(2, 0, 1)

        def tokenize(self, texts):
            return torch.tensor([[len(text), ord(text[-1])] for text in texts])

        def encode_image(self, images):
            for order in ("die", "die-once", "raise"):
                path = os.path.join(self.folder, order)
                # the batch that holds the image 300, of which there is one
                if os.path.exists(path) and bool((images[:, :, 0, 0] == torch.tensor([44.0, 1.0, 0.0])).all(1).any()):
                    if order == "raise":
                        raise RuntimeError("no")
                    if order == "die-once":
                        os.remove(path)
                    os.kill(os.getpid(), signal.SIGKILL)
            return images.flatten(1)[:, :4] / 3

        def encode_text(self, tokens):
            return tokens.float() @ torch.ones(2, 4) / 7

    def load(spec, folder):
        return Teacher(spec, folder)

    def spec(name):
        return TeacherSpec(
            name=name, title=name, summary="a fake", family="fake", arch={"name": name}, embed_dim=4, logit_scale=10,
            weights=(WeightSource(role="model", kind="package", location="fake", files={"w": "0" * 64}),),
            image=ImageSpec(size=2, mean=(0, 0, 0), std=(1, 1, 1)), domains=("ct",),
            text=TextSpec(tokenizer="hf", context_length=8),
            license=LicenseInfo(code="MIT", weights="MIT", commercial_use=True),
        )
"""


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """A module that workers can import."""
    folder = tmp_path_factory.mktemp("site")
    (folder / "mmkd_test_ray_teacher.py").write_text(textwrap.dedent(TEACHER))
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(folder)
        patch.setenv("PYTHONPATH", f"{folder}{os.pathsep}{os.environ.get('PYTHONPATH', '')}")
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        yield importlib.import_module("mmkd_test_ray_teacher")
    sys.modules.pop("mmkd_test_ray_teacher", None)


@pytest.fixture(scope="module")
def machines(site):
    from mmkd_core.extract.on_ray import cluster

    with cluster() as found:
        assert ray.is_initialized()
        yield found
    assert not ray.is_initialized()


@pytest.fixture(scope="module")
def corpus(tmp_path_factory) -> Corpus:
    folder = tmp_path_factory.mktemp("images")
    rows = []
    for i in range(IMAGES):
        picture = Image.new("RGB", (4, 4), (i % 256, i // 256, 0))
        picture.save(folder / f"{i}.png", compress_level=0)
        facts = {"image": f"{i}.png", "image_id": image_id(picture), "caption": "a", "domain": "ct"}
        rows.append({**facts, "group_id": str(i), "split": "train"})
    return Corpus.build(folder, rows, {})


@pytest.fixture
def job(site, tmp_path):
    return job_of(site, "far", tmp_path)


def job_of(site, name: str, orders: Path) -> Job:
    """A teacher that looks for orders in a folder."""
    return Job(site.spec(name), partial(site.load, site.spec(name), str(orders)))


def gathered(store: FeatureStore, job: Job, corpus: Corpus):
    rows = store.rows("image", [str(name) for name in corpus.image_id])
    return store.gather(job.spec.fingerprint, "image", rows)


@pytest.fixture
def expected(corpus, job, tmp_path):
    with FeatureStore.open(tmp_path / "local", "w") as store:
        extract(corpus, TEXTS, [job], store).require()
        return gathered(store, job, corpus)


def test_the_same_features_also_when_a_worker_is_killed(machines, corpus, job, expected, tmp_path):
    from mmkd_core.extract.on_ray import extract_on_ray

    (tmp_path / "die-once").touch()
    with FeatureStore.open(tmp_path / "store", "w") as store:
        done = extract_on_ray(machines, corpus, TEXTS, [job], store).require()
        assert not (tmp_path / "die-once").exists()
        assert (done.images, done.texts) == ({"far": IMAGES}, {"far": 3})
        assert np.array_equal(gathered(store, job, corpus), expected)
        assert store.tables()[0].facts["image_precision"] == "fp32"
        again = extract_on_ray(machines, corpus, TEXTS, [job], store).require()
        assert (again.images, again.texts) == ({"far": 0}, {"far": 0})


def test_a_shard_that_always_kills_its_worker_is_lost_alone(machines, corpus, job, expected, tmp_path):
    from mmkd_core.extract.on_ray import extract_on_ray

    (tmp_path / "die").touch()
    with FeatureStore.open(tmp_path / "store", "w") as store:
        done = extract_on_ray(machines, corpus, TEXTS, [job], store)
        assert done.lost == {"far": features.IMAGE_BATCH}
        assert isinstance(done.failed["far"], BatchError)
        assert done.images == {"far": IMAGES - features.IMAGE_BATCH}
        (tmp_path / "die").unlink()
        assert extract_on_ray(machines, corpus, TEXTS, [job], store).require().images == {"far": features.IMAGE_BATCH}
        assert np.array_equal(gathered(store, job, corpus), expected)


def test_a_teacher_that_raises_is_left_out_and_unreadable_images_are_skipped(machines, corpus, job, tmp_path, site):
    from mmkd_core.extract.on_ray import extract_on_ray

    (tmp_path / "raise").touch()
    good = job_of(site, "good", tmp_path / "elsewhere")
    path = corpus.path(7)
    kept = path.read_bytes()
    path.write_bytes(b"nothing")
    try:
        with FeatureStore.open(tmp_path / "store", "w") as store:
            done = extract_on_ray(machines, corpus, TEXTS, [job, good], store)
            assert "RuntimeError: no" in str(done.failed["far"])
            assert isinstance(done.failed["far"], PluginError)
            assert done.images["good"] == IMAGES - 1
            assert list(done.skipped) == [corpus.image_id[7]]
            with pytest.raises(DataError, match="1 of 1100 images cannot be read so far"):
                extract_on_ray(machines, corpus, TEXTS, [good], store, config=ExtractConfig(max_bad=0))
    finally:
        path.write_bytes(kept)
