"""Tasks of an evaluation set see the rows that say something, and every caption of them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from mmkd_core.data.eval_sets import EvalSet
from mmkd_core.data.manifest import text_id
from mmkd_core.errors import DataError
from mmkd_core.integrate.eval_tasks import Frozen, outcomes_of, texts_of
from mmkd_core.integrate.evaluating import as_corpus


def made(folder: Path, rows: list[dict[str, Any]], **facts: Any) -> EvalSet:
    for shade, row in enumerate(rows):
        row["image"] = f"{shade}.png"
        Image.new("L", (3, 3), shade).save(folder / row["image"])
    (folder / "m.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    whole = {"schema": "mmkd.eval/v1", "name": "mine", "domain": "xray", "manifest": "m.jsonl", **facts}
    (folder / "task.yaml").write_text(json.dumps(whole))
    return EvalSet.load(folder)


def frozen(images: int, texts: dict[str, int]) -> Frozen:
    """Features along axes: image k along axis k, a text along the axis that is given."""
    axes = np.eye(8, dtype=np.float32)

    def embed(asked: Sequence[str]) -> np.ndarray:
        return axes[[texts[text] for text in asked]]

    return Frozen(axes[:images], embed, 10.0)


def test_retrieval_counts_every_caption_and_no_image_without_one(tmp_path: Path) -> None:
    rows: list[dict[str, Any]] = [
        {"caption": ["a", "b"]}, {"caption": float("nan")}, {"caption": "c", "caption_2": "a"}, {"caption": "None"},
    ]  # fmt: skip
    found = made(tmp_path, rows, tasks=["retrieval"])
    assert texts_of(found, "retrieval") == ["a", "b", "c"]
    corpus = as_corpus(found)
    (outcomes,) = outcomes_of(found, corpus, frozen(4, {"a": 2, "b": 0, "c": 3}), "retrieval", 0)
    ranks = dict(zip(outcomes["sample_id"], outcomes["rank"].tolist(), strict=True))
    assert ranks == {
        corpus.image_id[0]: 1,  # b lies on it
        corpus.image_id[2]: 1,  # a lies on it
        text_id("a"): 1,
        text_id("b"): 1,
        text_id("c"): 2,  # neither image lies on it, and a tie is no hit
    }


def test_several_findings_are_measured_on_rows_that_have_been_labelled(tmp_path: Path) -> None:
    facts = {
        "tasks": ["zero-shot"], "multilabel": True, "classes": ["mass", "edema"],
        "prompts": {"mass": ["mass"], "edema": ["edema"]}, "absent": {"mass": ["no mass"], "edema": ["no edema"]},
    }  # fmt: skip
    rows: list[dict[str, Any]] = [{"labels": ["mass"]}, {"labels": None}, {"labels": []}, {"labels": "edema|mass"}]
    found = made(tmp_path, rows, **facts)
    model = frozen(4, {"mass": 0, "edema": 1, "no mass": 2, "no edema": 3})
    (outcomes,) = outcomes_of(found, as_corpus(found), model, "zero-shot", 0)
    assert list(outcomes["sample_id"]) == [f"{tmp_path.name}-000000{row}" for row in (0, 2, 3)]
    assert outcomes["truth"].tolist() == [[1, 0], [0, 0], [1, 1]]
    none = made(tmp_path, [{"labels": None}], **facts)
    with pytest.raises(DataError, match="no labelled image is in the test split"):
        outcomes_of(none, as_corpus(none), model, "zero-shot", 0)
