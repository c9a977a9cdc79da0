"""The pipeline of extraction: the same bits after any kill, unreadable images, precision, and who prepares pixels."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from feature_store import FeatureStore
from mmkd_core.contract import ImageSpec, LicenseInfo, TeacherSpec, TextSpec, WeightSource
from mmkd_core.data.manifest import Corpus, image_id
from mmkd_core.errors import DataError, PluginError
from mmkd_core.extract import ExtractConfig, Job, extract, features, precision
from mmkd_core.extract.decoding import Wanted, decoded
from mmkd_core.extract.plan import plan
from mmkd_core.plugins.loaders.open_clip import OpenClipTeacher
from mmkd_core.plugins.loaders.preprocess import preprocess
from mmkd_core.progress import Silent

IMAGES, TEXTS = 23, [f"text {i}" for i in range(9)]


def spec_of(name: str, **facts) -> TeacherSpec:
    whole = {
        "name": name, "title": name, "summary": "a fake", "family": "fake", "arch": {"name": name},
        "weights": (WeightSource(role="model", kind="package", location="fake", files={"w": "0" * 64}),),
        "image": ImageSpec(size=8, mean=(0.1, 0.2, 0.3), std=(0.3, 0.2, 0.1)),
        "text": TextSpec(tokenizer="hf", context_length=8), "embed_dim": 4, "logit_scale": 10, "domains": ("ct",),
        "license": LicenseInfo(code="MIT", weights="MIT", commercial_use=True),
    }  # fmt: skip
    return TeacherSpec(**(whole | facts))


class Sensitive:
    """Answers depend on what else is in the batch, as those of a real model do in their last bits; only far more so."""

    def __init__(self, name: str, **facts) -> None:
        self.spec = spec_of(name, **facts)
        self.rest = 0.0

    def job(self, device: str = "cpu") -> Job:
        return Job(self.spec, lambda: self, device)

    def preprocess(self, image):
        return preprocess(image, self.spec.image)

    def tokenize(self, texts):
        return torch.tensor([[len(text), ord(text[-1])] for text in texts])

    def encode_image(self, images):
        time.sleep(self.rest)
        return images.flatten(1)[:, ::48] + images.sum() / 1000 + len(images)

    def encode_text(self, tokens):
        return tokens.float() @ torch.ones(2, self.spec.embed_dim) + tokens.sum() + len(tokens)


class OurOwn(Sensitive):
    """Prepares pixels with the very method of the built-in loader."""

    preprocess = OpenClipTeacher.preprocess


class Linear(Sensitive):
    """One matrix product, which computes in whatever precision it is told to."""

    def __init__(self, name: str, error: float = 0.0, **facts) -> None:
        super().__init__(name, embed_dim=64, **facts)
        self.weights = torch.randn(192, 64, generator=torch.Generator().manual_seed(0))
        self.error = error

    def encode_image(self, images):
        out = images.flatten(1) @ self.weights
        return out + self.error * (out.dtype == torch.bfloat16) * torch.arange(64.0)


@pytest.fixture
def corpus(tmp_path: Path) -> Corpus:
    rng, rows = np.random.default_rng(0), []
    for i in range(IMAGES):
        picture = Image.fromarray(rng.integers(0, 256, (9, 11, 3), dtype=np.uint8))
        picture.save(tmp_path / f"{i}.png")
        facts = {"image": f"{i}.png", "image_id": image_id(picture), "caption": f"c{i}", "domain": "ct"}
        rows.append({**facts, "group_id": str(i), "split": "train"})
    return Corpus.build(tmp_path, rows, {})


@pytest.fixture(autouse=True)
def _small_batches(monkeypatch):
    monkeypatch.setattr(features, "IMAGE_BATCH", 4)
    monkeypatch.setattr(features, "TEXT_BATCH", 3)


def contents(store: FeatureStore, specs: list[TeacherSpec], corpus: Corpus) -> list[np.ndarray]:
    rows = store.rows("image", [str(name) for name in corpus.image_id])
    return [store.gather(spec.fingerprint, "image", rows) for spec in specs] + [
        store.gather(spec.fingerprint, "text", np.arange(len(TEXTS))) for spec in specs
    ]


def undisturbed(corpus, teachers, path) -> list[np.ndarray]:
    with FeatureStore.open(path, "w") as store:
        extract(corpus, TEXTS, [teacher.job() for teacher in teachers], store).require()
        return contents(store, [teacher.spec for teacher in teachers], corpus)


@given(st.lists(st.integers(0, 400), unique=True, max_size=60), st.integers(1, 50), st.data())
def test_cells_partition_what_is_missing_and_do_not_depend_on_what_was_done(rows, size, data):
    rows = np.array(rows, np.int64)
    whole = features.cells(rows, np.arange(len(rows)), size)
    assert sorted(np.concatenate([*whole, []]).tolist()) == list(range(len(rows)))
    assert all(len(set(rows[cell] // size)) == 1 for cell in whole)
    done = data.draw(st.sets(st.integers(0, max(0, len(whole) - 1))))
    left = [cell for number, cell in enumerate(whole) if number not in done]
    again = features.cells(rows, np.concatenate([*left, []]).astype(np.int64), size)
    assert [cell.tolist() for cell in again] == [cell.tolist() for cell in left]


@pytest.mark.parametrize("first", range(1, 9))
def test_teachers_that_have_different_parts_get_the_same_batches(corpus, tmp_path, first):
    """Also where one teacher was interrupted and another was not."""
    a, b = Sensitive("a"), Sensitive("b")
    expected = undisturbed(corpus, [a, b], tmp_path / "expected")

    class StopError(BaseException):
        pass

    calls, real = [], b.encode_image

    def stop(images):
        calls.append(len(images))
        if len(calls) == first:
            raise StopError
        return real(images)

    with FeatureStore.open(tmp_path / "store", "w") as store:
        b.encode_image = stop
        with contextlib.suppress(StopError):
            extract(corpus, TEXTS, [a.job(), b.job()], store)
        b.encode_image = real
        extract(corpus, TEXTS, [a.job(), b.job()], store).require()
        for one, other in zip(contents(store, [a.spec, b.spec], corpus), expected, strict=True):
            assert np.array_equal(one, other)


def kill_at_random_moments(corpus: Corpus, tmp_path: Path, count: int, seed: int) -> None:
    """Fork an extractor, kill it, and so on; then finish and compare."""
    teachers = [Sensitive("a"), OurOwn("b")]
    expected = undisturbed(corpus, teachers, tmp_path / "expected")
    for teacher in teachers:
        teacher.rest = 0.002
    rng, path, kept = random.Random(seed), tmp_path / "store", 0
    for turn in range(count):
        pid = os.fork()
        if pid == 0:
            try:
                with FeatureStore.open(path, "w") as store:
                    extract(corpus, TEXTS, [teacher.job() for teacher in teachers], store)
            finally:
                os._exit(0)
        time.sleep(rng.uniform(0.005, 0.08))
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        if not path.exists() or not list(path.glob("data.mdb")):
            continue
        with FeatureStore.open(path, "w") as store:
            assert store.verify() == []
            rows = sum(table.rows for table in store.tables())
            assert rows >= kept  # what was put is there
            kept = 0 if rows == 2 * (IMAGES + len(TEXTS)) else rows
        if not kept and turn < count - 1:
            for file in path.iterdir():
                file.unlink()
            path.rmdir()
    with FeatureStore.open(path, "w") as store:
        extract(corpus, TEXTS, [teacher.job() for teacher in teachers], store).require()
        found = contents(store, [teacher.spec for teacher in teachers], corpus)
    assert all(np.array_equal(one, other) for one, other in zip(found, expected, strict=True))


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
@pytest.mark.parametrize("count", [8, pytest.param(200, marks=pytest.mark.slow)])
def test_killed_at_random_moments_the_result_is_the_same_bit_for_bit(corpus, tmp_path, count):
    kill_at_random_moments(corpus, tmp_path, count, seed=count)


def test_ctrl_c_keeps_what_was_answered(corpus, tmp_path):
    teacher = Sensitive("a")
    calls, real = [], teacher.encode_image

    def interrupted(images):
        calls.append(images)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return real(images)

    teacher.encode_image = interrupted
    threads = threading.active_count()
    with FeatureStore.open(tmp_path / "store", "w") as store:
        with pytest.raises(KeyboardInterrupt):
            extract(corpus, TEXTS, [teacher.job()], store)
        assert {table.tower: table.rows for table in store.tables()} == {"image": 8, "text": 9}
    assert threading.active_count() == threads


def test_a_write_that_fails_stops_the_run(corpus, tmp_path, monkeypatch):
    from feature_store import StoreError

    def full(*_, **__):
        raise StoreError("the disk is full")

    with FeatureStore.open(tmp_path / "store", "w") as store:
        monkeypatch.setattr(store, "put", full)
        with pytest.raises(StoreError, match="the disk is full"):
            extract(corpus, TEXTS, [Sensitive("a").job()], store)


# --- decoding --------------------------------------------------------------------------------


@pytest.mark.parametrize("ahead", [0, 1, 2, 9])
def test_batches_come_in_order_and_no_more_than_asked_for_are_ahead(corpus, ahead):
    begun = []

    def want(part):
        begun.append(part)
        return Wanted(part, True, ())

    parts = np.array_split(np.arange(IMAGES), 6)
    for number, batch in enumerate(decoded(corpus.open, [lambda p=p: want(p) for p in parts], ahead=ahead)):
        assert batch.index.tolist() == parts[number].tolist()
        assert len(begun) == min(number + 1 + ahead, len(parts))
        for i, image in zip(batch.index, batch.images, strict=True):
            assert image_id(image) == corpus.image_id[i]


def test_pixels_that_our_pipeline_makes_are_made_by_the_decoders_once_for_equal_specs(corpus, tmp_path, monkeypatch):
    other = ImageSpec(size=4, mean=(0, 0, 0), std=(1, 1, 1))
    plain = [Sensitive("a"), Sensitive("b"), Sensitive("c", image=other, embed_dim=1)]
    ours = [OurOwn("a"), OurOwn("b"), OurOwn("c", image=other, embed_dim=1)]
    expected = undisturbed(corpus, plain, tmp_path / "plain")
    made, real = [], preprocess

    def counting(image, spec):
        made.append((threading.current_thread() is threading.main_thread(), spec.size))
        return real(image, spec)

    monkeypatch.setattr("mmkd_core.plugins.loaders.preprocess.preprocess", counting)
    found = undisturbed(corpus, ours, tmp_path / "ours")
    assert all(np.array_equal(one, other) for one, other in zip(found, expected, strict=True))
    assert sorted(made) == [(False, 4)] * IMAGES + [(False, 8)] * IMAGES


def test_a_teacher_that_changes_the_process_while_it_is_loaded_for_images_is_left_out(corpus, tmp_path):
    teacher = OurOwn("a")

    def load():
        torch.set_grad_enabled(False)
        return teacher

    with FeatureStore.open(tmp_path / "store", "w") as store:
        done = extract(corpus, [], [Job(teacher.spec, load), Sensitive("b").job()], store)
    assert torch.is_grad_enabled()
    assert done.lost == {"a": IMAGES}
    assert "grad mode: True became False" in str(done.failed["a"])
    assert done.images == {"a": 0, "b": IMAGES}


# --- unreadable images --------------------------------------------------------------------------------


def spoil(corpus: Corpus, *samples: int) -> None:
    for i in samples:
        corpus.path(i).write_bytes(b"nothing")


def test_unreadable_images_are_left_out_up_to_a_limit_and_tried_again(corpus, tmp_path):
    kept = corpus.path(5).read_bytes()
    spoil(corpus, 5, 6)
    teachers = [Sensitive("a"), OurOwn("b")]
    jobs = [teacher.job() for teacher in teachers]
    with FeatureStore.open(tmp_path / "store", "w") as store:
        done = extract(corpus, TEXTS, jobs, store, config=ExtractConfig(max_bad=0.1)).require()
        assert done.images == {"a": IMAGES - 2, "b": IMAGES - 2}
        assert done.skipped == {
            corpus.image_id[i]: (f"{i}.png", "the file is not an image, or of an unknown format") for i in (5, 6)
        }
        corpus.path(5).write_bytes(kept)
        again = extract(corpus, TEXTS, jobs, store, config=ExtractConfig(max_bad=0.1))
        assert again.images == {"a": 1, "b": 1}
        assert list(again.skipped) == [corpus.image_id[6]]


def test_an_image_that_changed_since_its_import_is_left_out_like_an_unreadable_one(corpus, tmp_path):
    kept = corpus.path(5).read_bytes()
    corpus.path(5).write_bytes(corpus.path(6).read_bytes())
    teachers = [Sensitive("a"), OurOwn("b")]
    jobs = [teacher.job() for teacher in teachers]
    with FeatureStore.open(tmp_path / "store", "w") as store:
        with pytest.raises(DataError, match=r"the image changed since it was imported \(.*5\.png; 1 of 23 images"):
            extract(corpus, TEXTS, jobs, store, config=ExtractConfig(max_bad=0))
        done = extract(corpus, TEXTS, jobs, store, config=ExtractConfig(max_bad=0.1)).require()
        assert done.skipped == {corpus.image_id[5]: ("5.png", "the image changed since it was imported")}
        row = store.rows("image", [corpus.image_id[5]])
        assert row[0] < 0 or store.missing(teachers[0].spec.fingerprint, "image", row).all()
        corpus.path(5).write_bytes(kept)
        assert extract(corpus, TEXTS, jobs, store).images == {"a": 1, "b": 1}


def test_one_too_many_stops_the_run_with_its_name(corpus, tmp_path):
    spoil(corpus, 2, 9)
    with FeatureStore.open(tmp_path / "store", "w") as store:
        with pytest.raises(DataError) as caught:
            extract(corpus, TEXTS, [Sensitive("a").job()], store, config=ExtractConfig(max_bad=0.05))
        told = str(caught.value)
        assert told.startswith("the file is not an image")
        assert f"{corpus.path(9)}; 2 of 23 images cannot be read so far, at most 5 % may be left out" in told
        assert "--max-bad" in told
        assert sum(table.rows for table in store.tables() if table.tower == "image") == 7  # what came before is kept


# --- precision --------------------------------------------------------------------------------


class Lines(Silent):
    def __init__(self) -> None:
        self.lines: list[str] = []

    def say(self, line: str) -> None:
        self.lines.append(line)


def facts_of(store, tower="image"):
    return next(table.facts for table in store.tables() if table.tower == tower)


def test_bf16_is_measured_once_recorded_and_kept_to(corpus, tmp_path, monkeypatch):
    teacher, exact, bf16 = Linear("a"), Linear("exact"), ExtractConfig(precision="bf16")
    half = corpus.take(np.arange(10))
    with FeatureStore.open(tmp_path / "store", "w") as store:
        extract(half, [], [teacher.job()], store, config=bf16).require()
        facts = facts_of(store)
        assert facts["image_precision"] == "bf16"
        assert 1e-8 < facts["image_deviation"] < precision.BOUND
        monkeypatch.setattr("mmkd_core.extract.asking.choose", lambda *_: pytest.fail("measured again"))
        extract(corpus, [], [teacher.job()], store, config=ExtractConfig(precision="fp32")).require()
        extract(corpus, [], [exact.job()], store).require()
        assert facts_of(store)["image_precision"] == "bf16"
        rows = store.rows("image", [str(name) for name in corpus.image_id])
        rough, fine = (store.gather(one.spec.fingerprint, "image", rows) for one in (teacher, exact))
    cosine = torch.cosine_similarity(torch.from_numpy(rough).double(), torch.from_numpy(fine).double())
    assert ((1 - cosine) > 1e-8).all()  # the later rows were computed in bf16 as well
    assert float((1 - cosine).max()) < precision.BOUND


def test_bf16_is_refused_above_the_bound_and_a_line_says_so(corpus, tmp_path):
    teacher, lines = Linear("a", error=3.0), Lines()
    with FeatureStore.open(tmp_path / "store", "w") as store:
        extract(corpus, [], [teacher.job()], store, lines, ExtractConfig(precision="bf16")).require()
        facts = facts_of(store)
    assert (facts["image_precision"], facts["image_deviation"] > precision.BOUND) == ("fp32", True)
    assert len(lines.lines) == 1
    assert lines.lines[0].startswith("a: images are computed in float32: bf16 deviates by ")


def test_a_teacher_that_cannot_do_bf16_computes_in_float32(corpus, tmp_path):
    teacher, lines = Linear("a"), Lines()
    real = teacher.encode_image

    def only_float(images):
        if torch.is_autocast_enabled("cpu"):
            raise RuntimeError("no such kernel")
        return real(images)

    teacher.encode_image = only_float
    with FeatureStore.open(tmp_path / "store", "w") as store:
        extract(corpus, [], [teacher.job()], store, lines, ExtractConfig(precision="bf16")).require()
        assert facts_of(store)["image_precision"] == "fp32"
    assert lines.lines == ["a: images are computed in float32: bf16 fails (RuntimeError)"]


@pytest.mark.parametrize(
    ("setting", "flags", "name"),
    [
        ("auto", "avx512_bf16", "fp32"),
        ("auto", "amx_bf16 amx_tile", "bf16"),
        ("fp32", "amx_bf16", "fp32"),
        ("bf16", "", "bf16"),
    ],
)
def test_auto_depends_on_the_hardware_alone(monkeypatch, setting, flags, name):
    monkeypatch.setattr(precision, "_processor", lambda: f"flags : fpu {flags}")
    assert precision.candidate(setting, "cpu") == name


# --- the plan --------------------------------------------------------------------------------


def test_a_plan_counts_measures_and_writes_nothing(corpus, tmp_path):
    twice = corpus.take([*range(IMAGES), 0, 1])
    jobs = [Sensitive("a").job(), OurOwn("b").job()]
    before = plan(twice, TEXTS, jobs, None)
    assert (before.samples, before.images, before.duplicates, before.texts) == (IMAGES + 2, IMAGES, 2, len(TEXTS))
    assert [(share.teacher, share.images, share.texts) for share in before.teachers] == [
        ("a", IMAGES, len(TEXTS)),
        ("b", IMAGES, len(TEXTS)),
    ]
    assert before.bytes == 2 * (IMAGES + len(TEXTS)) * 4 * 2
    assert before.seconds is not None
    assert before.seconds > 0
    with FeatureStore.open(tmp_path / "store", "w") as store:
        extract(corpus.take(np.arange(8)), TEXTS, jobs[:1], store)
    file = (tmp_path / "store" / "data.mdb").read_bytes()
    with FeatureStore.open(tmp_path / "store") as store:
        part = plan(twice, TEXTS, jobs, store)
    assert [(share.images, share.texts) for share in part.teachers] == [(IMAGES - 8, 0), (IMAGES, len(TEXTS))]
    assert (tmp_path / "store" / "data.mdb").read_bytes() == file


def test_what_cannot_be_measured_is_unknown(corpus):
    def broken():
        raise PluginError("broken cannot be loaded")

    job = Job(spec_of("broken"), broken)
    found = plan(corpus, TEXTS, [job, Sensitive("a").job()], None)
    assert found.teachers[0].seconds is None
    assert found.teachers[1].seconds is not None
    assert found.seconds is None
    assert plan(corpus, TEXTS, [Sensitive("a").job()], None, budget_s=0).seconds is None
