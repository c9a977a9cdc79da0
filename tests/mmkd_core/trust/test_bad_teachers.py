"""Bad teachers, each bad in a way of its own, and how far they come: under the rule, and as it was once read."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from mmkd_core.audit.gap import gap, judged
from mmkd_core.data.manifest import Corpus
from mmkd_core.trust import TeacherView, TrustConfig, decide
from mmkd_core.trust.evidence import probes_of

CLASSES = ("glioma", "meningioma", "none", "pituitary")
SIZES = {"train": 400, "val": 80, "test": 160}
RNG = np.random.default_rng(7)


@pytest.fixture(scope="module")
def data() -> Corpus:
    """640 MRIs of 320 patients; a quarter of each class."""
    rows = [
        {
            "image": f"{split}{i}.png",
            "image_id": f"{split}{i}",
            "caption": f"an MRI, number {i} of {split}",
            "domain": "mri",
            "label": CLASSES[i % 4],
            "group_id": f"{split} patient {i // 2}",
            "split": split,
        }
        for split, count in SIZES.items()
        for i in range(count)
    ]
    return Corpus.build(Path("/nowhere"), rows, {"mri": {label: (label,) for label in CLASSES}})


def truth(data):
    return np.array([CLASSES.index(label) for label in data.label])


def teacher(data, answer, sure=6.0, spread=0.5, claim=0.99):
    """Says ``answer`` (N,) of each image, by a logit of ``sure`` above the others, give or take ``spread``."""
    rng = np.random.default_rng(3)
    image = sure * np.eye(4)[answer] + spread * rng.normal(size=(len(data), 4))
    image = np.column_stack([image, np.sqrt(np.maximum(100.0 - (image**2).sum(axis=1), 0))]).astype(np.float32)
    classes = np.eye(4, 5, dtype=np.float32)
    caption = rng.normal(size=(len(data), 5)).astype(np.float32)
    return TeacherView("tutor", ("mri",), {"mri": claim}, 10.0, image, caption, {"mri": classes})


def admitted(view, data, **settings):
    found = decide(view, data, TrustConfig(**settings)).domains["mri"]
    return found.admitted, found


def test_a_good_teacher_teaches_all(data):
    count, found = admitted(teacher(data, truth(data)), data)
    assert (count, found.trusted) == (400, True)


def test_one_answer_for_all(data):
    """Sure and right about every glioma: 100 of 400 as it was once read, nothing now."""
    view = teacher(data, np.zeros(len(data), dtype=int))
    assert admitted(view, data, rule="90-labels")[0] == 100
    count, found = admitted(view, data)
    assert (count, found.status) == (0, "not better than chance")
    assert found.accuracy == 0.25


def test_nearly_one_answer_for_all_beats_chance_and_is_worth_nothing_all_the_same(data):
    """It knows the pituitary ones, and calls all others gliomas: right about every glioma, one time in three."""
    view = teacher(data, np.where(truth(data) == 3, 3, 0))
    assert admitted(view, data, rule="90-labels")[0] == 200
    count, found = admitted(view, data)
    assert found.status == "measured"
    assert found.sure_of == ("pituitary",)
    assert count == 100


def test_classes_permuted(data):
    count, found = admitted(teacher(data, (truth(data) + 1) % 4), data)
    assert (count, found.accuracy, found.status) == (0, 0.0, "not better than chance")


def test_two_classes_swapped(data):
    """Accuracy 50: the other two are taught, sample by sample."""
    answer = truth(data)
    answer = np.where(answer == 0, 1, np.where(answer == 1, 0, answer))
    count, found = admitted(teacher(data, answer), data)
    assert (found.accuracy, found.sure_of, count) == (0.5, ("none", "pituitary"), 200)


def test_sign_flipped(data):
    view = teacher(data, truth(data))
    count, found = admitted(replace(view, image=-view.image), data)
    assert (count, found.status) == (0, "not better than chance")


def test_random_answers(data):
    answer = np.random.default_rng(0).integers(0, 4, len(data))
    view = teacher(data, answer)
    assert 60 < admitted(view, data, rule="90-labels")[0] < 140
    assert admitted(view, data)[0] == 0


@pytest.mark.parametrize("scale", [0.01, 100.0])
def test_a_scale_that_says_nothing(data, scale):
    """Right in 75 %: with a scale that is never sure, or of everything, there is nothing to tell samples apart by."""
    wrong = np.random.default_rng(0).random(len(data)) < 0.25
    view = teacher(data, np.where(wrong, (truth(data) + 1) % 4, truth(data)))
    count, found = admitted(replace(view, logit_scale=10 * scale), data)
    assert count == 0
    word = "it can be at most" if scale < 1 else "sure of all of them: its logit scale tells nothing apart"
    assert word in found.reason


def test_the_probe_known_by_heart_is_found_out_on_the_test_split(data):
    """Right on every probe image and guessing elsewhere: the rule cannot see it, the audit does."""
    guess = np.random.default_rng(0).integers(0, 4, len(data))
    view = teacher(data, np.where(data.split == "val", truth(data), guess))
    count, found = admitted(view, data)
    assert (count, found.accuracy) == (400, 1.0)
    seen = gap(probes_of(view, data, "mri", "val"), probes_of(view, data, "mri", "test"))
    assert judged({("tutor", "mri"): seen})["tutor", "mri"].unexplained
    honest = teacher(data, truth(data), sure=2.0, spread=1.5)
    fair = gap(probes_of(honest, data, "mri", "val"), probes_of(honest, data, "mri", "test"))
    assert not judged({("tutor", "mri"): fair})["tutor", "mri"].unexplained


def test_one_lucky_image_is_not_better_than_the_commonest_answer():
    """57 of 60 are normal. Right about all of these and one or two ill ones is luck; about a dozen it is not."""
    luck = "not better than chance"
    for ill, knows, status in ((3, 1, luck), (3, 2, luck), (15, 15, "measured")):
        rows = [
            {
                "image": f"{split}{i}",
                "image_id": f"{split}{i}",
                "caption": f"{split}{i}",
                "domain": "mri",
                "label": CLASSES[0] if i >= ill else CLASSES[1],
                "group_id": f"{split}{i}",
                "split": split,
            }
            for split in ("train", "val")
            for i in range(60)
        ]
        two = Corpus.build(Path("/nowhere"), rows, {"mri": {label: (label,) for label in CLASSES}})
        view = teacher(two, np.where(np.arange(120) % 60 < knows, 1, 0))
        assert admitted(view, two)[1].status == status, (ill, knows)
