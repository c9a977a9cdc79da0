"""What an evaluation set cannot say is refused in a sentence, or said to be undefined, and never a crash or a NaN."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mmkd_core.data.eval_sets import write
from mmkd_core.data.eval_task import TaskFile
from mmkd_core.data.manifest import Corpus
from mmkd_core.errors import DataError
from mmkd_core.evaluate.figures import Figure, compare, score
from mmkd_core.evaluate.tasks import measure_of
from mmkd_core.integrate.eval_tasks import Frozen, outcomes_of

PROMPTS = {"a": ["an a"], "b": ["a b"]}
ONE = {"classes": ["a", "b"], "positive": ["b"], "prompts": PROMPTS}
SEVERAL = {"classes": ["a", "b"], "multilabel": True, "prompts": PROMPTS, "absent": {"a": ["no a"], "b": ["no b"]}}
FULL: list[Any] = [["a"], ["b"], ["a", "b"], []]


def rows(column: str, train: Sequence[Any], val: Sequence[Any], test: Sequence[Any]) -> list[dict[str, Any]]:
    number = count()
    parts = {"train": train, "val": val, "test": test}
    return [
        {"image": f"{(i := next(number))}.png", "group_id": f"p{i}", "split": split, column: value}
        for split, values in parts.items()
        for value in values
    ]


def figures(folder: Path, task: str, table: list[dict[str, Any]], **facts: Any) -> list[Figure]:
    whole = {"schema": "mmkd.eval/v1", "name": "s", "tasks": [task], "domain": "xray", "manifest": "m.parquet", **facts}
    found = write(folder, TaskFile.model_validate(whole), table)
    rng = np.random.default_rng(0)
    model = Frozen(rng.normal(size=(len(found), 6)).astype(np.float32), lambda t: rng.normal(size=(len(t), 6)), 20.0)
    images = [{"image": r["image"], "image_id": r["image"], "group_id": r["group_id"]} for r in table]
    corpus = Corpus.build(folder, [r | {"caption": "c", "domain": "xray", "split": "test"} for r in images], {})
    result = []
    for outcomes in outcomes_of(found, corpus, model, task, 0):
        result += score(outcomes, measure_of(outcomes), 20)
        compare(outcomes, outcomes, measure_of(outcomes), 20)
    return result


@pytest.mark.parametrize(
    ("task", "table", "facts", "sentence"),
    [
        ("zero-shot", rows("label", "abab", "ab", ""), ONE, "no sample of the test split has what it needs"),
        ("zero-shot", rows("label", "abab", "ab", [None]), ONE, "no sample of the test split has what it needs"),
        ("linear-probe", rows("label", "abab", "ab", ""), ONE, "no labelled image is in the test split"),
        ("linear-probe", rows("label", "aaaa", "ab", "ab"), ONE, "two classes"),
        ("diagnosis", rows("label", "abab", "", "ab"), ONE, "the val patients are"),
        ("diagnosis", rows("label", "aaaa", "ab", "ab"), ONE, "the train patients are all well"),
        ("zero-shot", rows("labels", FULL, FULL, []), SEVERAL, "no labelled image is in the test split"),
        ("linear-probe", rows("labels", FULL, FULL, [None]), SEVERAL, "no labelled image is in the test split"),
        ("retrieval", rows("captions", [["c"]], [], []), {}, "no image of the test split has a caption"),
    ],
)
def test_refused(task: str, table: list[dict[str, Any]], facts: dict[str, Any], sentence: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=sentence):
        figures(tmp_path, task, table, **facts)


@pytest.mark.parametrize(
    ("task", "table", "facts", "undefined"),
    [
        ("zero-shot", rows("label", "", "", "aaa"), ONE, {"macro AUC (one-vs-rest)", "balanced accuracy"}),
        ("zero-shot", rows("label", "", "", "a"), ONE, {"macro AUC (one-vs-rest)", "balanced accuracy"}),
        ("diagnosis", rows("label", "abab", "ab", "a"), ONE, {"AUC", "balanced accuracy", "sensitivity"}),
        ("zero-shot", rows("labels", [], [], [["a"]]), SEVERAL, {"macro AUC over classes"}),
        ("retrieval", rows("captions", [], [], [["c"], ["c"]]), {}, {"R@1", "R@5", "R@10", "mean reciprocal rank"}),
    ],
)
def test_undefined(
    task: str, table: list[dict[str, Any]], facts: dict[str, Any], undefined: set[str], tmp_path: Path
) -> None:
    found = figures(tmp_path, task, table, **facts)
    assert {figure.metric for figure in found if figure.interval is None} >= undefined
    for figure in found:
        if figure.interval is None:
            assert figure.status.startswith("undefined: ")
        else:
            interval = figure.interval
            assert np.isfinite([interval.estimate, interval.lower, interval.upper]).all(), figure.metric
