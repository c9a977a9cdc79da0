from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from feature_store import FeatureStore
from mmkd_core.contract import ImageSpec, LicenseInfo, TeacherSpec, TextSpec, WeightSource
from mmkd_core.data.manifest import Corpus, image_id, text_id
from mmkd_core.errors import BatchError, PluginError
from mmkd_core.extract import Job, asking, extract, features
from mmkd_core.progress import Silent

IMAGES = 10
TEXTS = [f"text {i}" for i in range(7)]


def spec_of(name: str, dim: int = 4) -> TeacherSpec:
    return TeacherSpec(
        name=name,
        title=name,
        summary="a fake",
        family="fake",
        arch={"name": name},
        weights=(WeightSource(role="model", kind="package", location="fake", files={"w": "0" * 64}),),
        image=ImageSpec(size=2, mean=(0, 0, 0), std=(1, 1, 1)),
        text=TextSpec(tokenizer="hf", context_length=8),
        embed_dim=dim,
        logit_scale=10,
        domains=("ct",),
        license=LicenseInfo(code="MIT", weights="MIT", commercial_use=True),
    )


class KilledError(BaseException):
    """Stands for a kill."""


class FakeTeacher:
    """Features that can be computed without it: of an image its mean colour, of a text its length; and counts."""

    def __init__(self, name: str, dim: int = 4) -> None:
        self.spec = spec_of(name, dim)
        self.loads = 0
        self.images: list[float] = []
        self.texts: list[int] = []
        self.fail: Callable[[str, torch.Tensor], torch.Tensor] = lambda tower, out: out

    @property
    def job(self) -> Job:
        return Job(self.spec, self._load)

    def _load(self):
        self.loads += 1
        return self

    def preprocess(self, image):
        return torch.from_numpy(np.asarray(image.convert("RGB").resize((2, 2)), np.float32)).permute(2, 0, 1)

    def tokenize(self, texts):
        return torch.tensor([[len(text), ord(text[-1])] for text in texts])

    def encode_image(self, images):
        out = self.fail("image", images.mean(dim=(1, 2, 3))[:, None] + torch.arange(float(self.spec.embed_dim)))
        self.images += images.mean(dim=(1, 2, 3)).tolist()
        return out

    def encode_text(self, tokens):
        out = self.fail("text", tokens.float() @ torch.ones(2, self.spec.embed_dim))
        self.texts += tokens[:, 1].tolist()
        return out


@pytest.fixture
def corpus(tmp_path: Path) -> Corpus:
    """Twelve samples of ten images: the first and the last lie there twice under different names."""
    rows = []
    for i in [*range(IMAGES), 0, IMAGES - 1]:
        picture = Image.new("RGB", (6, 4), (20 * i, 20 * i, 20 * i))
        picture.save(tmp_path / f"{len(rows)}.png")
        rows.append(
            {"image": f"{len(rows)}.png", "image_id": image_id(picture), "caption": f"c{i}", "domain": "ct",
             "group_id": f"{i}", "split": "train"}
        )  # fmt: skip
    return Corpus.build(tmp_path, rows, {})


@pytest.fixture
def store(tmp_path: Path):
    with FeatureStore.open(tmp_path / "store", "w") as store:
        yield store


@pytest.fixture(autouse=True)
def _small_batches(monkeypatch):
    monkeypatch.setattr(features, "IMAGE_BATCH", 4)
    monkeypatch.setattr(features, "TEXT_BATCH", 3)


def stored(store, teacher, tower):
    """Number of rows that the teacher has in the store."""
    return sum(t.rows for t in store.tables() if (t.table, t.tower) == (teacher.spec.fingerprint, tower))


def test_features_lie_raw_under_the_fingerprint(corpus, store):
    teacher = FakeTeacher("a")
    done = extract(corpus, TEXTS, [teacher.job], store)
    assert (done.images, done.texts) == ({"a": IMAGES}, {"a": 7})
    rows = store.rows("image", list(corpus.image_id))
    for i, feature in enumerate(store.gather(teacher.spec.fingerprint, "image", rows)):
        grey = 20 * ([*range(IMAGES), 0, IMAGES - 1][i])
        assert feature.tolist() == [grey, grey + 1, grey + 2, grey + 3]
    rows = store.rows("text", [text_id(text) for text in TEXTS])
    expected = [[6.0 + ord(text[-1])] * 4 for text in TEXTS]
    assert store.gather(teacher.spec.fingerprint, "text", rows).tolist() == expected
    assert {t.facts["teacher"] for t in store.tables()} == {"a"}
    assert store.verify() == []


def test_duplicates_are_encoded_once(corpus, store):
    teacher = FakeTeacher("a")
    done = extract(corpus, [*TEXTS, *TEXTS, TEXTS[0]], [teacher.job], store)
    assert (done.images, done.texts) == ({"a": IMAGES}, {"a": 7})
    assert sorted(teacher.images) == [20.0 * i for i in range(IMAGES)]
    assert sorted(teacher.texts) == [ord(text[-1]) for text in TEXTS]


def test_a_second_run_computes_nothing_and_loads_no_teacher(corpus, store, monkeypatch):
    teacher = FakeTeacher("a")
    extract(corpus, TEXTS, [teacher.job], store)
    calls = (teacher.loads, len(teacher.images), len(teacher.texts))
    assert calls[0] == 1
    monkeypatch.setattr(Corpus, "open", lambda self, i: pytest.fail("decoded an image"))
    done = extract(corpus, TEXTS, [teacher.job], store)
    assert (done.images, done.texts) == ({"a": 0}, {"a": 0})
    assert (teacher.loads, len(teacher.images), len(teacher.texts)) == calls


def test_a_new_teacher_computes_only_its_own(corpus, store):
    old, new = FakeTeacher("a"), FakeTeacher("b", dim=5)
    extract(corpus, TEXTS, [old.job], store)
    done = extract(corpus, TEXTS, [old.job, new.job], store)
    assert (done.images, done.texts) == ({"a": 0, "b": IMAGES}, {"a": 0, "b": 7})
    assert (old.loads, new.loads) == (1, 1)
    assert len(old.images) == len(new.images) == IMAGES


def test_new_images_and_texts_are_all_that_is_computed(corpus, store):
    teacher = FakeTeacher("a")
    extract(corpus.take(np.arange(3)), TEXTS[:2], [teacher.job], store)
    done = extract(corpus, TEXTS, [teacher.job], store)
    assert (done.images, done.texts) == ({"a": IMAGES - 3}, {"a": 5})
    assert sorted(teacher.images) == [20.0 * i for i in range(IMAGES)]


def test_each_image_is_decoded_once_for_all_teachers(corpus, store, monkeypatch):
    opened, real = [], Corpus.open

    def counting(self, i):
        opened.append(self.image_id[i])
        return real(self, i)

    monkeypatch.setattr(Corpus, "open", counting)
    teachers = [FakeTeacher("a"), FakeTeacher("b"), FakeTeacher("c", dim=9)]
    extract(corpus, [], [teacher.job for teacher in teachers], store)
    assert len(opened) == len(set(opened)) == IMAGES
    assert all(stored(store, teacher, "image") == IMAGES for teacher in teachers)


@pytest.mark.parametrize(("tower", "kept"), [("image", 4), ("text", 3)])
def test_a_killed_run_goes_on(corpus, store, tower, kept):
    teacher = FakeTeacher("a")

    def dies(which, out):
        if which == tower and len(teacher.images if tower == "image" else teacher.texts) >= kept:
            raise KilledError
        return out

    teacher.fail = dies
    with pytest.raises(KilledError):
        extract(corpus, TEXTS, [teacher.job], store)
    assert stored(store, teacher, tower) == kept
    teacher.fail = lambda which, out: out
    done = extract(corpus, TEXTS, [teacher.job], store)
    assert {"image": done.images, "text": done.texts}[tower] == {"a": {"image": IMAGES, "text": 7}[tower] - kept}
    assert sorted(teacher.images) == [20.0 * i for i in range(IMAGES)]  # nothing was computed twice
    assert sorted(teacher.texts) == [ord(text[-1]) for text in TEXTS]


@pytest.mark.parametrize("tower", ["image", "text"])
@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_values_that_are_not_finite(corpus, store, tower, bad):
    good, broken = FakeTeacher("good"), FakeTeacher("broken")

    def spoil(which, out):
        if which == tower and len(broken.images if tower == "image" else broken.texts) >= 3:
            out[0, 2] = bad
        return out

    broken.fail = spoil
    done = extract(corpus, TEXTS, [good.job, broken.job], store)
    missing = {"image": IMAGES - 4, "text": 4 + IMAGES}[tower]
    assert done.lost == {"broken": missing}
    with pytest.raises(PluginError) as caught:
        done.require()
    assert str(caught.value) == (
        f"broken gives {tower} features with NaN or infinity; nothing of this batch was stored; "
        f"{missing} features are missing. "
        "Run `mmkd teachers remove broken`, or mend its weights and add it again"
    )
    assert stored(store, broken, tower) == {"image": 4, "text": 3}[tower]  # the batch before, and no more
    assert (stored(store, good, "text"), stored(store, good, "image")) == (7, IMAGES)
    assert store.verify() == []


@pytest.mark.parametrize("tower", ["image", "text"])
@pytest.mark.parametrize(
    ("change", "shape"),
    [
        (lambda out: out[:, :3], "({n}, 3)"),
        (lambda out: out[:-1], "({less}, 4)"),
        (lambda out: out[None], "(1, {n}, 4)"),
    ],
)
def test_a_wrong_shape(corpus, store, tower, change, shape):
    teacher = FakeTeacher("crooked")
    teacher.fail = lambda which, out: change(out) if which == tower else out
    with pytest.raises(PluginError) as caught:
        extract(corpus, TEXTS, [teacher.job], store).require()
    n = {"image": 4, "text": 3}[tower]
    missing = IMAGES if tower == "image" else 7 + IMAGES
    assert str(caught.value) == (
        f"crooked answers {tower} features of shape {shape.format(n=n, less=n - 1)}, its spec says ({n}, 4); "
        f"{missing} features are missing. "
        "Report it to the plugin's author, or run `mmkd teachers remove crooked`"
    )
    assert stored(store, teacher, tower) == 0


def test_progress_counts_what_is_missing(corpus, store):
    class Watch(Silent):
        def __init__(self):
            self.tasks, self.steps = [], []

        def task(self, label, total, unit, done=0):
            self.tasks.append((label, total, unit, done))
            watch = self

            class Bar:
                def __enter__(self):
                    return lambda n=1, note="": watch.steps.append(n)

                def __exit__(self, *error):
                    return None

            return Bar()

    watch = Watch()
    extract(corpus, TEXTS, [FakeTeacher("a").job, FakeTeacher("b").job], store, watch)
    assert watch.tasks == [
        ("a: texts", 7, "texts", 0),
        ("b: texts", 7, "texts", 0),
        ("a, b: images", IMAGES, "images", 0),
    ]
    assert watch.steps == [3, 3, 1, 3, 3, 1, 4, 4, 2]


def test_nothing_to_do(corpus, store):
    done = extract(corpus.take([]), [], [FakeTeacher("a").job], store)
    assert (done.images, done.texts) == ({"a": 0}, {"a": 0})
    assert extract(corpus, TEXTS, [], store).images == {}


def test_a_teacher_that_raises_does_not_stop_the_others(corpus, store):
    good, broken = FakeTeacher("good"), FakeTeacher("broken")
    broken.fail = lambda which, out: 1 / 0
    done = extract(corpus, TEXTS, [broken.job, good.job], store)
    assert (done.images, done.texts) == ({"broken": 0, "good": IMAGES}, {"broken": 0, "good": 7})
    assert done.lost == {"broken": 7 + IMAGES}
    with pytest.raises(PluginError) as caught:
        done.require()
    assert str(caught.value) == (
        f"broken failed at a batch of texts: ZeroDivisionError: division by zero; {7 + IMAGES} features are missing. "
        "Report it to the plugin's author, or run `mmkd teachers remove broken`"
    )


def test_a_teacher_that_cannot_be_loaded_does_not_stop_the_others(corpus, store):
    def fail():
        raise PluginError("broken cannot be loaded", where="here", next="Mend it")

    good, broken = FakeTeacher("good"), FakeTeacher("broken")
    done = extract(corpus, TEXTS, [Job(broken.spec, fail), good.job], store)
    assert (stored(store, good, "image"), stored(store, broken, "image")) == (IMAGES, 0)
    with pytest.raises(PluginError, match=r"broken cannot be loaded; 17 features are missing \(here\). Mend it"):
        done.require()


def test_a_lost_batch_costs_the_batch_and_a_later_run_fills_it(corpus, store):
    shaky = FakeTeacher("shaky")
    calls = []

    def once(which, out):
        calls.append(which)
        if len(calls) == 2:
            raise BatchError("shaky: its worker failed twice")
        return out

    shaky.fail = once
    done = extract(corpus, TEXTS, [shaky.job], store)
    assert (done.images, done.texts, done.lost) == ({"shaky": IMAGES}, {"shaky": 4}, {"shaky": 3})
    again = extract(corpus, TEXTS, [shaky.job], store)
    assert (again.texts, again.failed) == ({"shaky": 3}, {})


def test_a_teacher_that_loses_batch_after_batch_is_left_alone(corpus, store, monkeypatch):
    hopeless = FakeTeacher("hopeless")
    calls = []

    def always(which, out):
        calls.append(which)
        raise BatchError("its worker failed twice")

    hopeless.fail = always
    opened, real = [], Corpus.open
    monkeypatch.setattr(Corpus, "open", lambda self, i: opened.append(i) or real(self, i))
    done = extract(corpus, TEXTS, [hopeless.job], store)
    assert len(calls) == asking.PATIENCE
    assert done.lost == {"hopeless": 7 + IMAGES}
    assert opened == []  # nobody was left to look at them
