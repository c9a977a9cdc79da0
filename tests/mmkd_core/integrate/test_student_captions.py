"""Which captions stage 1 reads: the samples' own, or sentences made from their labels."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from mmkd_core.data.manifest import Corpus
from mmkd_core.errors import DataError
from mmkd_core.integrate.student_data import training_captions


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
