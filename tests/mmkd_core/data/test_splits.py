"""Splits: by a hash of seed and patient; an image that two patients share tears neither apart."""

from __future__ import annotations

from pathlib import Path

import pytest

from mmkd_core.data.issues import ImportLog
from mmkd_core.data.splits import Known, refuse_torn, split_of, splits_of
from mmkd_core.data.tables import Row
from mmkd_core.errors import DataError

OWN = {"patient-1": "test", "patient-2": "val", "patient-4": "train"}
"""What the hash says of each with seed 0."""


def known(group: str, image: str, split: str | None = None) -> Known:
    return Known(Row(f"row {image}", Path(f"{image}.png"), "xray", "a", None, group, split), image, group)


def test_groups_have_the_splits_that_they_always_had() -> None:
    assert {name: split_of(name, 0) for name in OWN} == OWN
    log = ImportLog()
    assert splits_of([known(name, f"of {name}") for name in OWN], 0, log) == ["test", "val", "train"]
    how = "assigned by a hash of group_id with seed 0, 70/10/20 % train/val/test"
    assert log.notes == [f"3 of 3 rows name no split: {how}"]


def test_groups_that_share_images_fall_into_one_split_however_long_the_chain() -> None:
    rows = [known("patient-4", "x"), known("patient-2", "x"), known("patient-2", "y"), known("patient-1", "y")]
    assert [OWN[row.group] for row in rows] == ["train", "val", "val", "test"], "their own hashes differ"
    assert splits_of(rows, 0, ImportLog()) == ["test"] * 4, "that of the first name decides"
    assert splits_of(rows[::-1], 0, ImportLog()) == ["test"] * 4
    assert splits_of([known("patient-4", "x"), known("patient-2", "y")], 0, ImportLog()) == ["train", "val"]


def test_groups_that_share_an_image_are_told() -> None:
    log = ImportLog()
    rows = [known(f"p{k}", "blank", "train") for k in range(5)] + [known("q", "x", "val"), known("q", "y", "val")]
    assert splits_of(rows, 0, log) == ["train"] * 5 + ["val"] * 2
    (issue,) = log.issues.issues
    assert (issue.count, issue.examples) == (1, ("p0, p1, p2 and 2 more",))


def test_a_split_that_one_row_names_is_that_of_all_that_hang_together() -> None:
    rows = [known("patient-4", "x"), known("patient-2", "x", "train"), known("patient-2", "z"), known("patient-1", "w")]
    assert splits_of(rows, 0, ImportLog()) == ["train", "train", "train", "test"]


def test_all_torn_groups_and_images_are_named_at_once() -> None:
    rows = [known("p", "x"), known("p", "y"), known("q", "z"), known("q", "y"), known("r", "z")]
    with pytest.raises(DataError) as caught:
        refuse_torn(rows, ["train", "test", "val", "test", "test"], "m.csv")
    text = str(caught.value)
    assert text.startswith("3 problems: a group is in two splits: 2 ('p': train at row x, test at row y of m.csv; ")
    assert "an image is in two splits: 1 (z.png, z.png: val at row z, test at row z of m.csv)" in text
