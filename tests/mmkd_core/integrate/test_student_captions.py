"""Which captions stage 1 reads: the samples' own, or sentences made from their labels."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from mmkd_core.data.manifest import Corpus
from mmkd_core.data.phantom.generate import generate
from mmkd_core.errors import DataError
from mmkd_core.integrate.profiles import profile
from mmkd_core.integrate.student_data import training_captions
from mmkd_core.integrate.summary import _data
from mmkd_core.report import write_report


@pytest.fixture
def corpus() -> Corpus:
    facts = [("xray", None, ("edema", "mass")), ("xray", None, ()), ("oct", "drusen", None), ("oct", None, None)]
    rows = [
        {
            "image": f"{i}.png",
            "image_id": f"{i}",
            "caption": f"written {i}",
            "domain": domain,
            "label": label,
            "labels": labels,
            "group_id": f"{i}",
            "split": "train",
        }
        for i, (domain, label, labels) in enumerate(facts)
    ]
    prompts = {"xray": {"edema": ("e",), "mass": ("m",)}, "oct": {"drusen": ("d",)}}
    return Corpus.build(Path("nowhere"), rows, prompts)


def test_own_captions_are_what_was_written(corpus: Corpus) -> None:
    assert training_captions(corpus, np.arange(4), "own")[0] == ["written 0", "written 1", "written 2", "written 3"]


def test_captions_of_labels_name_them(corpus: Corpus) -> None:
    texts = training_captions(corpus, np.arange(3), "labels")[0]
    assert "edema and mass" in texts[0]
    assert not any(word in texts[1] for word in ("edema", "mass", "written"))
    assert "drusen" in texts[2]
    assert texts[3] == ""


def test_captions_of_labels_need_labels(corpus: Corpus) -> None:
    with pytest.raises(DataError, match=r"1 training samples have no label, the first is 3.png. Use --captions own"):
        training_captions(corpus, np.arange(4), "labels")[0]


def test_quickstart_draws_poor_captions_and_its_summary_says_so(tmp_path: Path) -> None:
    for smoke in (True, False):
        images = profile(smoke=smoke, real=False, seed=0)[1]
        assert images is not None
        assert (images.plain_captions, images.wrong_captions) == (0.5, 0.15)
    few = images.model_copy(update={"domains": ("ct",), "train": 2, "val": 1, "test": 1})
    said = "The captions are poor on purpose: 50 % say only what kind of image it is, 15 % are false."
    assert _data(generate(tmp_path / "poor", few))["captions"] == said
    honest = few.model_copy(update={"plain_captions": 0.0, "wrong_captions": 0.0})
    assert "captions" not in _data(generate(tmp_path / "honest", honest))


def test_the_report_repeats_it(tmp_path: Path) -> None:
    facts = {"schema": "mmkd.summary/v1", "name": "x", "data": {"samples": 4, "captions": "Poor on purpose."}}
    facts |= {"teachers": {}, "releases": {}}
    assert "Poor on purpose." in write_report(facts, {}, tmp_path / "report.html").read_text()
