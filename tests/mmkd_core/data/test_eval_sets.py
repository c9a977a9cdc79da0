"""Evaluation sets: what is read, and what is refused because a figure would be wrong."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mmkd_core.data.copies import without_copies
from mmkd_core.data.eval_sets import EvalSet, check_pixels, labels_of, times, write
from mmkd_core.data.eval_task import TaskFile
from mmkd_core.data.issues import ImportLog
from mmkd_core.data.phantom import PhantomConfig, generate, samples
from mmkd_core.data.phantom.tasks import HAZARD, SLOPE, phantom_sets, severity, survival
from mmkd_core.errors import DataError

FACTS: dict[str, Any] = {
    "schema": "mmkd.eval/v1",
    "name": "clinic",
    "tasks": ["zero-shot", "diagnosis", "survival"],
    "domain": "xray",
    "classes": ["clear", "nodule"],
    "positive": ["nodule"],
    "prompts": {"clear": ["a clear chest"], "nodule": ["a nodule", "a round shadow"]},
}
ROW: dict[str, Any] = {"image": "a.png", "group_id": "p1", "split": "test", "label": "clear", "time": 3, "event": 0}


def made(folder: Path, rows: list[dict[str, Any]], **changes: Any) -> EvalSet:
    return write(folder, TaskFile.model_validate(FACTS | changes), rows)


@pytest.mark.parametrize("manifest", ["manifest.csv", "manifest.parquet"])
def test_what_was_written_is_read(tmp_path: Path, manifest: str) -> None:
    other = ROW | {"image": "b.png", "group_id": "p2", "split": "train", "label": "nodule", "event": 1}
    found = made(tmp_path, [ROW, other], manifest=manifest)
    assert found.task.positive == ("nodule",)
    assert found.prompts["nodule"] == ("a nodule", "a round shadow")
    assert list(found["label"]) == ["clear", "nodule"]
    assert list(found.where("test")) == [0]
    time, event = times(found)
    assert list(time) == [3.0, 3.0]
    assert list(event) == [False, True]


@pytest.mark.parametrize(
    ("rows", "says"),
    [
        ([ROW, ROW | {"image": "b.png", "split": "train"}], "the group 'p1' lies in test and in train"),
        ([ROW, ROW | {"group_id": "p2", "split": "train"}], "the image 'a.png' lies in test and in train"),
        ([ROW | {"label": "mass"}], "row 1: the label 'mass' is none of the classes clear, nodule"),
        ([ROW | {"time": 0}], "row 1: time must be above 0"),
        ([ROW | {"time": "nan"}], "row 1: time must be above 0"),
        ([ROW, ROW | {"event": "maybe"}], "row 2: event must be 0 or 1"),
        ([ROW | {"split": "holdout"}], "unknown split 'holdout'"),
        ([ROW | {"image": ""}], "row 1 has no image"),
    ],
)
def test_what_would_make_a_figure_wrong_is_refused(tmp_path: Path, rows: list[dict[str, Any]], says: str) -> None:
    with pytest.raises(DataError, match=says):
        made(tmp_path, rows)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"tasks": ["vqa"]}, "vqa needs a column question"),
        ({"prompts": {"clear": ["a clear chest"]}}, "the class 'nodule' has no sentences"),
        ({"positive": ["mass"]}, "positive names 'mass'"),
        ({"positive": []}, "diagnosis needs positive"),
        ({"colour": "red"}, "colour"),
    ],
)
def test_a_task_file_that_does_not_fit_is_refused(tmp_path: Path, changes: dict[str, Any], says: str) -> None:
    (tmp_path / "manifest.csv").write_text("image,group_id,split,label,time,event\na.png,p1,test,clear,3,0\n")
    (tmp_path / "task.yaml").write_text(json.dumps(FACTS | changes))
    with pytest.raises(DataError, match=says):
        EvalSet.load(tmp_path)


def test_a_folder_that_is_none_says_so(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"it has no task\.yaml"):
        EvalSet.load(tmp_path)


def test_conch_prompt_files_are_read(tmp_path: Path) -> None:
    prompts = {
        "0": {
            "classnames": {"clear": ["clear lungs"], "nodule": ["nodule", "coin lesion"]},
            "templates": ["a CLASSNAME.", "CLASSNAME is shown."],
        }
    }
    (tmp_path / "prompts.json").write_text(json.dumps(prompts))
    found = made(tmp_path, [ROW], prompts="prompts.json")
    assert found.prompts["nodule"] == (
        "a nodule.",
        "nodule is shown.",
        "a coin lesion.",
        "coin lesion is shown.",
    )


def test_the_same_pixels_under_two_names_in_two_splits_are_refused() -> None:
    column = np.array(["x", "y", "x"], object)
    check_pixels(column, np.array(["test", "train", "test"], object), "set")
    with pytest.raises(DataError, match="the same pixels"):
        check_pixels(column, np.array(["test", "train", "train"], object), "set")


@given(st.lists(st.tuples(st.sampled_from("abcde"), st.sampled_from(["train", "val", "test"])), max_size=30))
def test_without_copies_leaves_the_test_split_alone_and_loses_no_image(given_rows: list[tuple[str, str]]) -> None:
    ids = [name for name, _ in given_rows]
    rows = [{"image": f"{number}.png", "split": split} for number, (_, split) in enumerate(given_rows)]
    log = ImportLog()
    kept, names = without_copies(rows, ids, log)
    assert len(log.left_out) == len(rows) - len(kept)
    check_pixels(names, [row["split"] for row in kept], "set")
    assert set(names) == set(ids)
    for split in ("train", "val", "test"):
        before, after = ([row for row in part if row["split"] == split] for part in (rows, kept))
        assert [row for row in before if row in after] == after
        assert split != "test" or before == after


@pytest.mark.parametrize(
    ("labels", "says"),
    [('["nodule", "mass"]', "the label 'mass' is none of the classes"), ("[nodule]", "is no list")],
)
def test_labels_of_several_classes_are_checked(tmp_path: Path, labels: str, says: str) -> None:
    facts = {"multilabel": True, "tasks": ["zero-shot"], "absent": {"clear": ["not clear"], "nodule": ["no nodule"]}}
    row = {"image": "a.png", "labels": '["clear", "nodule"]'}
    assert labels_of(made(tmp_path, [row], **facts), 0) == ("clear", "nodule")
    with pytest.raises(DataError, match=says):
        made(tmp_path, [row, row | {"image": "b.png", "labels": labels}], **facts)
    assert not (tmp_path / "task.yaml").exists(), "what is refused is not left as a set"
    with pytest.raises(DataError, match="no sentence says that 'nodule' is not there"):
        made(tmp_path, [row], **facts | {"absent": {"clear": ["not clear"]}})


def test_phantom_carries_the_truth_of_every_task(tmp_path: Path) -> None:
    config = PhantomConfig(train=24, val=8, test=16, domains=("xray", "oct"))
    generate(tmp_path / "data", config)
    sets = {found.task.name: found for found in phantom_sets(tmp_path / "evals", tmp_path / "data")}
    assert set(sets) == {"phantom-xray", "phantom-xray-vqa", "phantom-oct", "phantom-oct-vqa"}
    images, questions = sets["phantom-xray"], sets["phantom-xray-vqa"]
    assert len(images) == 48
    assert images.path(0).is_file()
    label = dict(zip(images["image"], images["label"], strict=True))
    for image, question, answer in zip(questions["image"], questions["question"], questions["answer"], strict=True):
        if question.startswith("Is this"):
            assert (answer == "yes") == (label[image] in question), question
        if question == "What does the image show?":
            assert answer == label[image]


def test_survival_follows_the_model_it_was_drawn_from() -> None:
    config = PhantomConfig(train=1500, val=0, test=0, domains=("mri",), seed=3)
    drawn = list(samples(config))
    follow = survival(drawn, config.seed)
    mean = {group: [] for group in follow}  # type: dict[str, list[float]]
    for sample in drawn:
        mean[sample.group_id].append(severity(sample.domain, sample.label))
    risk = np.array([np.mean(values) for values in mean.values()])
    time, event = np.array([follow[group][0] for group in mean]), np.array([follow[group][1] for group in mean])
    # Maximum likelihood of the slope under exponential times, by Newton's method; HAZARD and SLOPE were given.
    base, slope = np.log(0.05), 0.0
    for _ in range(50):
        hazard = np.exp(base + slope * risk) * time
        gradient = np.array([(event - hazard).sum(), ((event - hazard) * risk).sum()])
        hessian = np.array([[hazard.sum(), (hazard * risk).sum()], [(hazard * risk).sum(), (hazard * risk**2).sum()]])
        base, slope = np.array([base, slope]) + np.linalg.solve(hessian, gradient)
    error = np.sqrt(np.linalg.inv(hessian)[1, 1])
    assert abs(slope - SLOPE) < 3 * error
    assert abs(base - np.log(HAZARD)) < 0.6
    assert 0.4 < event.mean() < 0.9


def hand_made(folder: Path, rows: list[dict[str, Any]], **changes: Any) -> EvalSet:
    facts = {"schema": "mmkd.eval/v1", "name": "mine", "tasks": ["retrieval"], "domain": "xray", "manifest": "m.jsonl"}
    (folder / "m.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "task.yaml").write_text(json.dumps(facts | changes))
    return EvalSet.load(folder)


def test_captions_are_all_that_a_row_has_and_absent_where_it_has_none(tmp_path: Path) -> None:
    captions = ["one", ["two", "three", None, "two"], float("nan"), "nan", None, "\ufeff"]
    rows = [{"image": f"{i}.png", "caption": text} for i, text in enumerate(captions)]
    rows[0]["caption_2"] = "more"
    found = hand_made(tmp_path, rows)
    assert list(found["captions"]) == [("one", "more"), ("two", "three"), (), (), (), ()]
    assert list(found["caption"]) == ["one", "two", None, None, None, None]


def test_captions_that_were_written_are_read(tmp_path: Path) -> None:
    rows = [{"image": "a.png", "captions": ("one", "[two]", "three")}, {"image": "b.png", "captions": ("four",)}]
    found = made(tmp_path, rows, tasks=["retrieval"], manifest="manifest.csv")
    assert list(found["captions"]) == [("one", "[two]", "three"), ("four",)]


SEVERAL = {"multilabel": True, "tasks": ["zero-shot"], "classes": ["clear", "nodule"],
           "prompts": {"clear": ["clear"], "nodule": ["a nodule"]},
           "absent": {"clear": ["not clear"], "nodule": ["no nodule"]}}  # fmt: skip


def test_labels_of_a_hand_made_set_are_read_as_those_of_any_table(tmp_path: Path) -> None:
    cells = [["clear", "nodule"], "clear|nodule", '["nodule"]', [], None, float("nan"), "clear"]
    found = hand_made(tmp_path, [{"image": f"{i}.png", "labels": cell} for i, cell in enumerate(cells)], **SEVERAL)
    both = ("clear", "nodule")
    assert [labels_of(found, i) for i in range(7)] == [both, both, ("nodule",), (), None, None, ("clear",)]


def test_answers_are_words_even_where_they_are_called_none(tmp_path: Path) -> None:
    rows = [{"image": "a.png", "question": "Which?", "answer": "None", "choices": ["None", "NA"], "split": "test"}]
    found = hand_made(tmp_path, rows, tasks=["vqa"])
    assert found["answer"][0] == "None"
    assert json.loads(found["choices"][0]) == ["None", "NA"]


@pytest.mark.parametrize(
    ("changes", "labels", "says"),
    [
        ({"classes": ["Clear", "clear"]}, ["clear"], "'Clear' \\(1\\) and 'clear'"),
        ({"classes": ["clear", "clear"]}, ["clear"], "classes names 'clear' twice"),
        ({"classes": ["clear", "nodule"], "prompts": {"clear": ["a chest"], "nodule": ["a chest"]}}, ["clear"],
         "the classes 'clear' and 'nodule' have the same sentences"),
        ({"classes": ["clear", "nodule"]}, ["Clear", "mass", "mass"], "3 problems|4 problems"),
        ({"classes": ["clear", "nodule"]}, ["clear", "clear|nodule"], "1 rows have several labels.*multilabel: true"),
        ({"domain": "xrya"}, ["clear"], "nearly xray"),
    ],
)  # fmt: skip
def test_classes_that_nothing_tells_apart_are_refused(
    tmp_path: Path, changes: dict[str, Any], labels: list[str], says: str
) -> None:
    facts: dict[str, Any] = {"tasks": ["zero-shot"], "prompts": {"clear": ["a"], "nodule": ["b"], "Clear": ["c"]}}
    rows = [{"image": f"{i}.png", "label": label} for i, label in enumerate(labels)]
    with pytest.raises(DataError, match=says):
        hand_made(tmp_path, rows, **facts | changes)


def test_a_domain_is_kept_as_it_was_meant(tmp_path: Path) -> None:
    assert made(tmp_path / "a", [ROW], domain="X-Ray").task.domain == "xray"
    assert made(tmp_path / "b", [ROW], domain="new:octa").task.domain == "octa"
    assert EvalSet.load(tmp_path / "b").task.domain == "octa"
