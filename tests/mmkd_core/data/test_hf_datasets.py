"""Data sets in the layout of the hub: written here as its libraries write them, read without them."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from mmkd_core.data.eval_sets import EvalSet, labels_of
from mmkd_core.data.eval_task import TASK
from mmkd_core.data.hf_datasets import import_hf
from mmkd_core.data.issues import ImportLog
from mmkd_core.data.options import Reading
from mmkd_core.errors import DataError

CLASS = {"names": ["benign", "malignant"], "_type": "ClassLabel"}
FEATURES: dict[str, Any] = {
    "image": {"_type": "Image"},
    "label": CLASS,
    "patient": {"dtype": "string", "_type": "Value"},
}


def picture(shade: int, kind: str = "PNG") -> dict[str, Any]:
    buffer = io.BytesIO()
    Image.fromarray(np.full((9, 7), shade, np.uint8)).save(buffer, kind)
    return {"bytes": buffer.getvalue(), "path": f"{shade}.png"}


def shard(path: Path, rows: list[dict[str, Any]], features: dict[str, Any] = FEATURES) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    table = pa.Table.from_pylist(rows)
    told = json.dumps({"info": {"features": features}}).encode()
    pq.write_table(table.replace_schema_metadata({b"huggingface": told}), path)


def rows(start: int, n: int) -> list[dict[str, Any]]:
    return [{"image": picture(start + i), "label": i % 2, "patient": f"p{start + i // 2 * 2}"} for i in range(n)]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    root = tmp_path / "slides"
    shard(root / "data" / "train-00000-of-00002.parquet", rows(0, 6))
    shard(root / "data" / "train-00001-of-00002.parquet", rows(10, 4))
    shard(root / "data" / "validation-00000-of-00001.parquet", rows(20, 4))
    shard(root / "data" / "test-00000-of-00001.parquet", rows(30, 5))
    (root / "README.md").write_text("---\nlicense: cc-by-4.0\n---\n# Slides\n")
    return root


def imported(folder: Path, tmp_path: Path, how: Reading | None = None, name: str = "set") -> EvalSet:
    return import_hf(folder, tmp_path / name, name, "pathology", how or Reading({"group_id": "patient"}), ImportLog())


def test_splits_classes_patients_and_licence_are_those_of_the_data_set(folder: Path, tmp_path: Path) -> None:
    found = imported(folder, tmp_path)
    assert [len(found.where(split)) for split in ("train", "val", "test")] == [10, 4, 5]
    assert found.task.classes == ("benign", "malignant")
    assert found.task.tasks == ("zero-shot", "linear-probe")
    assert found.task.license == "cc-by-4.0"
    test = found.where("test")
    assert list(found["label"][test]) == ["benign", "malignant"] * 2 + ["benign"]
    assert list(found["group_id"][test]) == ["p30", "p30", "p32", "p32", "p34"]
    assert Image.open(found.path(test[2])).getpixel((0, 0)) == 32
    assert found.path(test[2]).read_bytes() == picture(32)["bytes"], "bytes are kept as they came"


def test_the_revision_is_a_commit_in_the_cache_of_the_hub_and_a_hash_elsewhere(folder: Path, tmp_path: Path) -> None:
    first = imported(folder, tmp_path).task.revision
    assert first.startswith("sha256:")
    assert imported(folder, tmp_path, name="again").task.revision == first
    snapshot = tmp_path / "datasets--o--slides" / "snapshots" / ("ab" * 20)
    snapshot.parent.mkdir(parents=True)
    folder.rename(snapshot)
    assert imported(snapshot, tmp_path, name="cached").task.revision == "ab" * 20
    shard(snapshot / "data" / "test-00000-of-00001.parquet", rows(40, 4))
    moved = tmp_path / "elsewhere"
    snapshot.rename(moved)
    assert imported(moved, tmp_path, name="other").task.revision not in (first, "ab" * 20)


def test_configurations_of_the_card_are_chosen_by_name(tmp_path: Path) -> None:
    root = tmp_path / "many"
    shard(root / "a" / "part-0.parquet", rows(0, 4))
    shard(root / "b" / "part-0.parquet", rows(10, 2))
    files = "".join(
        f"- config_name: {name}\n  data_files:\n  - split: test\n    path: {name}/part-*.parquet\n" for name in "ab"
    )
    (root / "README.md").write_text(f"---\nconfigs:\n{files}---\n")
    with pytest.raises(DataError, match="several configurations: a, b"):
        imported(root, tmp_path)
    assert len(imported(root, tmp_path, Reading({"group_id": "patient"}, config="b"))) == 2
    with pytest.raises(DataError, match="belongs to the configuration c"):
        imported(root, tmp_path, Reading({}, config="c"))


def test_the_parquet_version_that_the_hub_makes_has_a_folder_for_each_configuration(tmp_path: Path) -> None:
    root, how = tmp_path / "many", {"group_id": "patient"}
    for number, name in enumerate(("small", "large")):
        shard(root / name / "train" / "0000.parquet", rows(20 * number, 2))
        shard(root / name / "test" / "0000.parquet", rows(20 * number + 10, 3))
    with pytest.raises(DataError, match="several configurations: large, small"):
        imported(root, tmp_path)
    found = imported(root, tmp_path, Reading(how, config="large"))
    assert [len(found.where(split)) for split in ("train", "test")] == [2, 3]
    assert Image.open(found.path(int(found.where("test")[0]))).getpixel((0, 0)) == 30
    with pytest.raises(DataError, match=r"belongs to the configuration huge.*It has large, small"):
        imported(root, tmp_path, Reading(how, config="huge"))


def test_splits_may_be_folders(tmp_path: Path) -> None:
    shard(tmp_path / "d" / "train" / "0.parquet", rows(0, 2))
    shard(tmp_path / "d" / "test" / "0.parquet", rows(10, 2))
    assert len(imported(tmp_path / "d", tmp_path).where("test")) == 2


def test_lists_of_classes_are_several_labels(tmp_path: Path) -> None:
    given = [{"image": picture(i), "labels": found} for i, found in enumerate(([0, 1], [], [1]))]
    features = {"image": {"_type": "Image"}, "labels": {"feature": CLASS, "_type": "List"}}
    table = tmp_path / "chest" / "test.parquet"
    shard(table, given, features)
    found = imported(tmp_path / "chest", tmp_path, Reading({}), "set")
    assert found.task.multilabel
    assert found.task.tasks == ("zero-shot",)
    assert [labels_of(found, row) for row in range(3)] == [("benign", "malignant"), (), ("malignant",)]


def test_one_class_in_a_column_called_labels_and_a_label_that_is_not_known(tmp_path: Path) -> None:
    features = {"img": {"_type": "Image"}, "labels": CLASS}
    shard(tmp_path / "d" / "test.parquet", [{"img": picture(i), "labels": i - 1} for i in range(3)], features)
    found = imported(tmp_path / "d", tmp_path, Reading({}), "set")
    assert not found.task.multilabel
    assert list(found["label"]) == [None, "benign", "malignant"]


def test_questions_and_captions_give_their_tasks(tmp_path: Path) -> None:
    asked = [{"image": picture(i), "question": "Is it?", "answer": "yes", "caption": ["a", "b"]} for i in range(2)]
    shard(tmp_path / "q" / "train.parquet", asked[:1], {})
    shard(tmp_path / "q" / "test.parquet", asked[1:], {})
    found = imported(tmp_path / "q", tmp_path, Reading({}), "set")
    assert found.task.tasks == ("retrieval", "vqa")
    assert list(found["captions"]) == [("a", "b"), ("a", "b")]


def test_leaks_by_group_and_by_pixels_are_refused(folder: Path, tmp_path: Path) -> None:
    shard(folder / "data" / "test-00000-of-00001.parquet", [rows(30, 1)[0] | {"patient": "p0"}])
    with pytest.raises(DataError, match="the group 'p0' lies in train and in test"):
        imported(folder, tmp_path)
    assert not (tmp_path / "set" / TASK).exists()
    copy = rows(30, 1)[0] | {"image": picture(3, "BMP")}  # other bytes, the same pixels
    shard(folder / "data" / "test-00000-of-00001.parquet", [copy])
    with pytest.raises(DataError, match=r"the same pixels .* lie in train and in test .*--keep-once"):
        imported(folder, tmp_path, name="set")
    kept = imported(folder, tmp_path, Reading({"group_id": "patient"}, keep_once=True), "set")
    assert [len(kept.where(split)) for split in ("train", "val", "test")] == [9, 4, 1]


@pytest.mark.parametrize(
    ("change", "how", "says"),
    [
        (lambda root: (root / "data").rename(root.parent / "away"), Reading({}), "no parquet files"),
        (lambda root: None, Reading({"label": "dx"}), "no column 'dx'"),
        (lambda root: None, Reading({"colour": "label"}), "colour is no column of a set"),
        (lambda root: shard(root / "data" / "extra-test.parquet", rows(50, 1), {}), Reading({}), None),
        (
            lambda root: shard(root / "test.parquet", [rows(0, 1)[0] | {"image": {"bytes": b"x", "path": None}}]),
            Reading({}),
            r"not an image.*test.parquet, row 1",
        ),
        (
            lambda root: shard(root / "test.parquet", [{"image": picture(99)}]),
            Reading({}),
            "the file has no column 'label', as others have",
        ),
        (
            lambda root: (root / "data" / "train-00000-of-00002.parquet").write_bytes(b"x"),
            Reading({}),
            "cannot be read",
        ),
        (lambda root: (root / "README.md").write_text("---\n: [\n---\n"), Reading({}), "card cannot be read"),
    ],
)
def test_what_does_not_fit_is_a_sentence(
    folder: Path, tmp_path: Path, change: Any, how: Reading, says: str | None
) -> None:
    change(folder)
    if says is None:
        assert len(imported(folder, tmp_path, how, "set").where("test")) == 6
        return
    with pytest.raises(DataError, match=says):
        imported(folder, tmp_path, how, "set")


def test_a_path_that_leads_out_of_the_folder_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "secret.png").write_bytes(picture(1)["bytes"])
    shard(tmp_path / "d" / "test.parquet", [{"image": {"bytes": None, "path": "../secret.png"}, "caption": "x"}], {})
    with pytest.raises(DataError, match="the cell holds no image"):
        imported(tmp_path / "d", tmp_path, Reading({}), "set")


PLAIN: dict[str, Any] = {"image": {"_type": "Image"}}


def test_labels_that_are_missing_are_no_class(tmp_path: Path) -> None:
    given = [{"image": picture(i), "label": label} for i, label in enumerate([0.0, 1.0, float("nan"), None])]
    shard(tmp_path / "d" / "test.parquet", given, PLAIN)
    log = ImportLog()
    found = import_hf(tmp_path / "d", tmp_path / "set", "set", "xray", Reading(), log)
    assert found.task.classes == ("0", "1")
    assert list(found["label"]) == ["0", "1", None, None]
    assert log.absent["label"] == {"NaN": 1}
    words = [{"image": picture(i), "label": label} for i, label in enumerate(["a", "b", "nan", "N/A"])]
    shard(tmp_path / "e" / "test.parquet", words, PLAIN)
    found = import_hf(tmp_path / "e", tmp_path / "set-e", "e", "xray", Reading(), log)
    assert found.task.classes == ("a", "b")
    assert log.absent["label"] == {"NaN": 1, "nan": 1, "N/A": 1}


def test_rows_without_a_patient_are_groups_of_their_own_and_counted(tmp_path: Path) -> None:
    given = [{"image": picture(i), "label": "ab"[i % 2], "group_id": p} for i, p in enumerate([1.0, 1.0, float("nan")])]
    shard(tmp_path / "d" / "test.parquet", given, PLAIN)
    log = ImportLog()
    found = import_hf(tmp_path / "d", tmp_path / "set", "set", "xray", Reading(), log)
    assert list(found["group_id"]) == ["1", "1", "test.parquet, row 3"]
    assert log.absent == {"group_id": {"NaN": 1}}


def test_places_of_0_and_1_are_named_or_refused(tmp_path: Path) -> None:
    given = [{"image": picture(i), "label": label} for i, label in enumerate([[0, 1, 0], [1, 1, 0], [0, 0, 0]])]
    shard(tmp_path / "d" / "test.parquet", given, PLAIN)
    with pytest.raises(DataError, match=r"the labels are numbers, \[0, 1, 0\], and not names"):
        imported(tmp_path / "d", tmp_path, Reading())
    found = imported(tmp_path / "d", tmp_path, Reading(labels_from=("mass", "edema", "hernia")))
    assert found.task.classes == ("mass", "edema", "hernia")
    assert list(found["labels"]) == [("edema",), ("mass", "edema"), ()]


def test_columns_of_0_and_1_are_findings(tmp_path: Path) -> None:
    given = [{"image": picture(i), "Mass": i % 2, "Edema": 1.0, "label": "unused"} for i in range(3)]
    shard(tmp_path / "d" / "test.parquet", given, PLAIN)
    found = imported(tmp_path / "d", tmp_path, Reading(labels_from=("Mass", "Edema")))
    assert list(found["labels"]) == [("Edema",), ("Mass", "Edema"), ("Edema",)]


def test_labels_in_one_cell_and_spellings(tmp_path: Path) -> None:
    given = [{"image": picture(i), "label": label} for i, label in enumerate(["mass|edema", "Mass", "mass"])]
    shard(tmp_path / "d" / "test.parquet", given, PLAIN)
    with pytest.raises(DataError, match=r"'Mass' \(1\) and 'mass' \(2\).*--merge-labels"):
        imported(tmp_path / "d", tmp_path, Reading())
    found = imported(tmp_path / "d", tmp_path, Reading(merge_labels=True))
    assert list(found["labels"]) == [("mass", "edema"), ("mass",), ("mass",)]


def test_classes_of_a_data_set_have_names_of_their_own(tmp_path: Path) -> None:
    for names, says in ((["a", " "], "class 1 has no name"), (["Crane", "crane"], "'Crane' .* and 'crane'.*--merge")):
        features = {"image": {"_type": "Image"}, "label": {"names": names, "_type": "ClassLabel"}}
        shard(tmp_path / "d" / "test.parquet", [{"image": picture(i), "label": i} for i in range(2)], features)
        with pytest.raises(DataError, match=says):
            imported(tmp_path / "d", tmp_path, Reading())


def test_a_class_that_does_not_exist_is_named_with_its_row(tmp_path: Path) -> None:
    shard(tmp_path / "d" / "test.parquet", [{"image": picture(i), "label": i} for i in range(3)], FEATURES)
    with pytest.raises(DataError, match=r"the label 2 is none of the 2 classes \(test.parquet, row 3\)"):
        imported(tmp_path / "d", tmp_path, Reading())


def test_one_picture_in_grey_and_in_colour_lies_in_two_splits(tmp_path: Path) -> None:
    colour = picture(5)
    buffer = io.BytesIO()
    Image.fromarray(np.full((9, 7, 3), 5, np.uint8)).save(buffer, "PNG")
    colour["bytes"] = buffer.getvalue()
    shard(tmp_path / "d" / "train.parquet", [{"image": picture(5), "label": "a"}], PLAIN)
    shard(tmp_path / "d" / "test.parquet", [{"image": colour, "label": "b"}], PLAIN)
    with pytest.raises(DataError, match="the same pixels"):
        imported(tmp_path / "d", tmp_path, Reading())
    log = ImportLog()
    import_hf(tmp_path / "d", tmp_path / "once", "once", "xray", Reading(keep_once=True), log)
    assert [issue.what for issue in log.issues.issues] == ["images with different labels in two rows"]
    assert [issue.what for issue in log.left_out.issues] == ["copies of images in a later split"]
