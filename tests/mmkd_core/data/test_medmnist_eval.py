"""MedMNIST files as evaluation sets: published classes, several labels, grades, and copies in two splits."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from mmkd_core.data.eval_sets import EvalSet, labels_of
from mmkd_core.data.eval_task import TASK
from mmkd_core.data.issues import ImportLog
from mmkd_core.data.medmnist_eval import import_medmnist_set
from mmkd_core.data.medmnist_sets import FLAGS, SEVERAL
from mmkd_core.data.options import Reading
from mmkd_core.errors import DataError

COUNTS = {"train": 12, "val": 4, "test": 6}


def arrays(labels: int, colour: bool = False) -> dict[str, Any]:
    """As the published files are: uint8, labels N x 1 below ``labels``, or for 14 labels N x 14 of zeros and ones."""
    rng = np.random.default_rng(0)
    made: dict[str, Any] = {}
    for split, n in COUNTS.items():
        made[f"{split}_images"] = rng.integers(0, 256, (n, 28, 28, 3) if colour else (n, 28, 28), np.uint8)
        several = rng.integers(0, 2, (n, labels), np.uint8)
        made[f"{split}_labels"] = several if labels == 14 else np.arange(n, dtype=np.uint8)[:, None] % labels
    return made


def imported(file: Path, out: Path, name: str, domain: str | None = None, how: Reading = Reading()) -> EvalSet:
    return import_medmnist_set(file, out, name, domain, how, ImportLog())


def saved(path: Path, values: dict[str, Any]) -> Path:
    np.savez_compressed(path, **values)
    return path


def test_grades_keep_their_order_and_pixels_come_through(tmp_path: Path) -> None:
    values = arrays(5, colour=True)
    found = imported(saved(tmp_path / "retinamnist_64.npz", values), tmp_path / "set", "retina")
    assert found.task.domain == "fundus"
    assert found.task.classes == FLAGS["retinamnist"][1]
    assert found.task.tasks == ("zero-shot", "linear-probe")
    assert found.task.license == "CC-BY-4.0"
    assert found.task.revision.startswith("sha256:")
    for split, n in COUNTS.items():
        rows = found.where(split)
        assert len(rows) == n
        for i, row in enumerate(rows):
            assert found["label"][row] == found.task.classes[i % 5]
            assert np.array_equal(np.asarray(Image.open(found.path(row))), values[f"{split}_images"][i])


def test_several_labels_an_image_come_through(tmp_path: Path) -> None:
    values = arrays(14)
    values["test_labels"][0] = 0
    found = imported(saved(tmp_path / "chestmnist.npz", values), tmp_path / "set", "chest")
    assert found.task.multilabel
    assert found.task.classes == SEVERAL["chestmnist"][1]
    assert set(found.task.absent) == set(found.task.classes)
    rows = found.where("test")
    assert labels_of(found, int(rows[0])) == ()
    for i, row in enumerate(rows):
        expected = tuple(n for n, yes in zip(found.task.classes, values["test_labels"][i], strict=True) if yes)
        assert labels_of(found, int(row)) == expected


def test_an_image_in_two_splits_is_refused_and_the_test_split_can_keep_it(tmp_path: Path) -> None:
    values = arrays(9, colour=True)
    values["train_images"][3] = values["test_images"][1]
    values["val_images"][2] = values["test_images"][1]
    values["train_images"][5] = values["val_images"][0]
    file = saved(tmp_path / "pathmnist.npz", values)
    with pytest.raises(
        DataError, match=r"the same pixels .* lie in train and in .*; so do 1 other images.*--keep-once"
    ):
        imported(file, tmp_path / "set", "path")
    assert not (tmp_path / "set" / TASK).exists()
    found = imported(file, tmp_path / "set", "path", how=Reading(keep_once=True))
    assert [len(found.where(split)) for split in COUNTS] == [10, 3, 6]


def test_an_unknown_set_needs_its_modality(tmp_path: Path) -> None:
    file = saved(tmp_path / "clinic.npz", arrays(2))
    with pytest.raises(DataError, match="--domain"):
        imported(file, tmp_path / "set", "clinic")
    found = imported(file, tmp_path / "set", "clinic", "ct")
    assert found.task.classes == ("class 0", "class 1")
    assert found.task.license == ""


def test_a_damaged_file_is_a_sentence(tmp_path: Path) -> None:
    file = saved(tmp_path / "pathmnist.npz", arrays(9))
    file.write_bytes(file.read_bytes()[:-400])
    with pytest.raises(DataError, match="damaged"):
        imported(file, tmp_path / "set", "path")
