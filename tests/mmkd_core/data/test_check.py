from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from mmkd_core.data.check import CheckReport, check, torn
from mmkd_core.data.manifest import Corpus


def edited(corpus: Corpus, name: str, **cells: str | None) -> Corpus:
    column = getattr(corpus, name).copy()
    for row, value in cells.items():
        column[int(row.removeprefix("r"))] = value
    return replace(corpus, **{name: column})


def texts(report: CheckReport) -> tuple[list[str], list[str]]:
    return [str(issue) for issue in report.problems], [str(issue) for issue in report.warnings]


def test_a_good_corpus_is_good(corpus: Corpus) -> None:
    report = check(corpus)
    assert report.ok
    assert texts(report) == ([], [])
    assert report.samples == 12


def test_groups_and_images_in_two_splits(corpus: Corpus) -> None:
    problems, _ = texts(check(edited(corpus, "split", r6="test"), images=False))
    assert problems == ["group in two splits: 1 (group patient 1 in val (row 4) and test (row 6))"]
    problems, _ = texts(check(edited(corpus, "image_id", r11=corpus.image_id[0]), images=False))
    assert problems == [f"same image in two splits: 1 (image {corpus.image_id[0]} in train (row 0) and test (row 11))"]


def test_texts(corpus: Corpus) -> None:
    problems, _ = texts(check(edited(corpus, "caption", r2=" ", r3=""), images=False))
    assert problems == ["empty caption: 2 (row 2: images/2.png; row 3: images/3.png)"]
    problems, _ = texts(check(edited(corpus, "label", r5="wart"), images=False))
    assert problems == ["label without prompts: 1 (mri: 'wart' (1 samples))"]


def test_images(corpus: Corpus) -> None:
    (corpus.root / "images" / "1.png").unlink()
    (corpus.root / "images" / "2.png").write_bytes(b"no image")
    Image.new("RGB", (12, 10)).save(corpus.root / "images" / "3.png")
    problems, _ = texts(check(corpus))
    assert problems == [
        "image missing or unreadable: 2 (row 1: no such image file: images/1.png; "
        "row 2: the file is not an image, or of an unknown format: images/2.png)",
        "pixels changed since import: 1 (row 3: images/3.png)",
    ]


def test_warnings(corpus: Corpus) -> None:
    one = edited(corpus, "label", r4="finding 1", r6="finding 1")
    assert texts(check(one, images=False))[1] == ["class missing in a split: 1 (xray: val has no 'finding 0')"]
    single = replace(corpus, prompts={**corpus.prompts, "mri": {"finding 0": ("x",)}})
    assert "domain with a single class: 1 (mri)" in texts(check(single, images=False))[1]
    twice = corpus.take(np.array([0, *range(12)]))
    assert texts(check(twice, images=False))[1] == ["same image and caption twice: 1 (row 1 repeats row 0)"]


def test_long_lists_are_counted_and_cut(corpus: Corpus) -> None:
    empty = replace(corpus, caption=np.array([""] * 12, dtype=object))
    (issue,) = check(empty, images=False).problems
    assert issue.count == 12
    assert len(issue.examples) == 5
    assert str(issue).endswith("; row 4: images/4.png, and 7 more)")


@given(st.lists(st.tuples(st.sampled_from("abcd"), st.sampled_from(["train", "val", "test"]))))
def test_torn_agrees_with_its_definition(pairs: list[tuple[str, str]]) -> None:
    keys, splits = [key for key, _ in pairs], [split for _, split in pairs]
    found = torn(keys, splits)
    assert set(found) == {key for key in keys if len({s for k, s in pairs if k == key}) > 1}
    for key, (i, j) in found.items():
        assert keys[i] == keys[j] == key
        assert splits[i] != splits[j]
        assert i < j


def test_check_needs_no_labels(corpus: Corpus) -> None:
    bare = replace(corpus, label=np.array([None] * 12, dtype=object), prompts={})
    assert check(bare, images=False).ok


@pytest.mark.parametrize("images", [True, False])
def test_an_empty_corpus_passes(corpus: Corpus, images: bool) -> None:
    assert check(replace(corpus.take([]), prompts={}), images=images).ok


def test_labels_that_are_alike_and_images_with_two_labels(corpus: Corpus) -> None:
    label, image = corpus.label.copy(), corpus.image_id.copy()
    label[0] = "Finding 1"  # row 4 is "finding 0", row 2 "finding 1", all of xray
    image[2] = image[0]
    names = ("finding 0", "finding 1", "Finding 1")
    prompts = {"xray": {name: (name,) for name in names}, "mri": dict(corpus.prompts["mri"])}
    prompts["mri"]["finding 0"] = prompts["mri"]["finding 1"][::-1]
    found = check(replace(corpus, label=label, image_id=image, prompts=prompts), images=False)
    told = {issue.what: issue.examples for issue in (*found.problems, *found.warnings)}
    assert told["labels that differ only by case, white space or Unicode form"] == ("xray: 'Finding 1', 'finding 1'",)
    assert told["classes with the same sentences"] == ("mri: 'finding 1' and 'finding 0'",)
    assert told["image with different labels in two rows"] == ("row 2 'finding 1', row 0 'Finding 1'",)
