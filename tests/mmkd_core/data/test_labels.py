"""Labels as people write them: several in one cell, lists, columns of 0 and 1, spellings that no reader tells apart."""

from __future__ import annotations

import csv
import json
import unicodedata
from pathlib import Path

import pytest

from mmkd_core.data.importers import ImportOptions, import_data
from mmkd_core.data.manifest import Corpus
from mmkd_core.data.report import ImportReport
from mmkd_core.errors import DataError


def table(folder: Path, labels: list[object], column: str = "label", kind: str = "jsonl", **more: object) -> Path:
    rows = [
        {"image": f"{k}.png", "domain": "xray", column: label, "group_id": f"p{k}", "split": "train", **more}
        for k, label in enumerate(labels)
    ]
    path = folder / f"m.{kind}"
    if kind == "jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    else:
        with path.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)
    return path


def imported(path: Path, options: ImportOptions = ImportOptions()) -> tuple[Corpus, ImportReport]:
    return import_data(path, path.parent.parent / "out", options)


def refused(path: Path, options: ImportOptions = ImportOptions()) -> str:
    with pytest.raises(DataError) as caught:
        imported(path, options)
    assert not (path.parent.parent / "out").exists()
    return str(caught.value)


@pytest.mark.parametrize(
    ("labels", "kind"),
    [
        (["mass|edema", "edema", "mass", None], "csv"),
        (["edema; mass ;", "edema", "mass", ""], "csv"),
        (['["mass", "edema"]', '["edema"]', "mass", "NaN"], "csv"),
        (["['mass', 'edema']", "edema", "['mass']", "nan"], "csv"),
        (["{'mass', 'edema'}", "('edema',)", "mass", ""], "csv"),
        ([["mass", "edema", "mass"], ["edema"], "mass", None], "jsonl"),
        (["mass|edema", "edema", ["mass"], float("nan")], "jsonl"),
    ],
)
def test_several_labels_of_a_cell_are_findings(picture_folder: Path, labels: list[object], kind: str) -> None:
    corpus, _ = imported(table(picture_folder, labels, kind=kind, caption="a film"))
    assert list(corpus.labels) == [("edema", "mass"), ("edema",), ("mass",), None]
    assert set(corpus.label) == {None}
    assert corpus.classes("xray") == ["edema", "mass"]


def test_a_list_of_nothing_says_that_there_is_nothing(picture_folder: Path) -> None:
    corpus, _ = imported(table(picture_folder, [["mass"], [], ["edema"]], "labels"))
    assert list(corpus.labels) == [("mass",), (), ("edema",)]


def test_lists_of_one_label_each_are_classes(picture_folder: Path) -> None:
    corpus, _ = imported(table(picture_folder, [["mass"], ["edema"]]))
    assert (list(corpus.label), list(corpus.labels)) == (["mass", "edema"], [None, None])


def test_columns_of_0_and_1_are_findings_in_their_order(picture_folder: Path) -> None:
    path = picture_folder / "m.csv"
    path.write_text(
        "image,domain,Mass,Edema,Cardiomegaly,caption\n"
        "0.png,xray,1,1.0,0,\n1.png,xray,0,no,0.0,\n2.png,xray,false,True,0,\n3.png,xray,,,,unlabelled\n"
    )
    corpus, report = imported(path, ImportOptions(labels_from=("Mass", "Edema", "Cardiomegaly")))
    assert list(corpus.labels) == [("Mass", "Edema"), (), ("Edema",), None]
    assert corpus.classes("xray") == ["Mass", "Edema"]
    assert "caption" in report.absent


@pytest.mark.parametrize(
    ("cell", "names", "says"),
    [
        ("-1", ("Mass", "Edema"), "the cell of Edema is '-1', not 1 or 0 (m.csv, line 2). Write 1 where"),
        ("", ("Mass", "Edema"), "the cell of Edema is empty, not 1 or 0 (m.csv, line 2)."),
        ("1", ("Mass", "Oedema"), "--labels-from: 'Oedema' is no column (m.csv). Is it 'Edema'?"),
        ("1", ("Mass", "Mass"), "--labels-from repeats a name (m.csv)."),
    ],
)
def test_columns_that_are_not_of_0_and_1_are_refused(
    picture_folder: Path, cell: str, names: tuple[str, ...], says: str
) -> None:
    path = picture_folder / "m.csv"
    path.write_text(f"image,domain,Mass,Edema\n0.png,xray,1,{cell}\n1.png,xray,0,1\n")
    assert refused(path, ImportOptions(labels_from=names)).startswith(says)


def test_places_of_0_and_1_are_named_or_refused(picture_folder: Path) -> None:
    path = table(picture_folder, [[1, 0, 1], [0, 0, 0], [0, 1, 0]])
    text = refused(path)
    assert "the labels are numbers, [1, 0, 1], and not names: 1 (m.jsonl, line 1)" in text
    assert "Name the 3 places of 0 and 1, in order, with --labels-from" in text
    corpus, _ = imported(path, ImportOptions(labels_from=("mass", "edema", "hernia")))
    assert list(corpus.labels) == [("mass", "hernia"), (), ("edema",)]


@pytest.mark.parametrize(
    ("labels", "says"),
    [
        (["a|b", "c;d"], "labels hold both | and ;, as 'a|b' and 'c;d': which stands between two labels? (m.jsonl)"),
        (["a;b", ["lesion; left", "b"]], "';' stands between labels ('a;b') and inside of one ('lesion; left')"),
        (["a|nan", "a"], "a label in 'a|nan' is no name"),
        (["|", "a"], "a label in '|' is no name"),
    ],
)
def test_what_can_be_read_in_two_ways_is_refused(picture_folder: Path, labels: list[object], says: str) -> None:
    text = refused(table(picture_folder, labels))
    assert text.startswith(says)
    assert "list" in text, "there is a way out"


def test_names_in_lists_are_whole(picture_folder: Path) -> None:
    corpus, _ = imported(table(picture_folder, [["lesion; left"], ["a|b", "c"]]))
    assert list(corpus.labels) == [("lesion; left",), ("a|b", "c")]


MENIERE = [unicodedata.normalize(form, "Ménière") for form in ("NFC", "NFD")]


def test_labels_that_look_alike_are_refused_all_at_once_or_made_one(picture_folder: Path) -> None:
    labels = ["Normal", "normal", "normal", MENIERE[0], MENIERE[1], MENIERE[1], "no\u00a0mass", "no mass", "other"]
    path = table(picture_folder, labels, kind="csv")
    text = refused(path)
    assert "'Normal' (1) and 'normal' (2)" in text
    assert "(2) and 'M\\xe9ni\\xe8re' (1)" in text, "what a screen does not tell apart is written out"
    assert text.endswith("Correct them, or add --merge-labels: each becomes one class, the commonest.")
    corpus, report = imported(path, ImportOptions(merge_labels=True))
    assert list(corpus.label) == ["normal"] * 3 + [MENIERE[1]] * 3 + ["no mass"] * 2 + ["other"]
    assert corpus.classes("xray") == sorted([MENIERE[1], "no mass", "normal", "other"])
    assert sum("are one label" in line for line in report.notes) == 2, "white space alone is never kept"


def test_findings_that_look_alike_are_merged_too(picture_folder: Path) -> None:
    corpus, _ = imported(table(picture_folder, ["Mass|edema", "mass|EDEMA", "mass"]), ImportOptions(merge_labels=True))
    assert list(corpus.labels[1:]) == [corpus.labels[0], ("mass",)]


def test_labels_that_can_hardly_be_meant_are_named(picture_folder: Path) -> None:
    _, report = imported(table(picture_folder, ["No Finding|edema", "No Finding", "mass", "edema, mass", "edema"]))
    assert [(issue.what, issue.examples) for issue in report.issues] == [
        ("xray: images with and without a finding at once", ("No Finding|edema",)),
        ("xray: labels that look like several (write them as a|b)", ("'edema, mass'",)),
    ]
    assert ("No Finding",) in list(Corpus.load(picture_folder.parent / "out").labels), "alone it is a class"


def test_whole_numbers_are_not_told_with_a_point(picture_folder: Path) -> None:
    corpus, report = imported(table(picture_folder, [0.0, 1.0, float("nan")], caption="a film"))
    assert list(corpus.label) == ["0", "1", None]
    assert report.issues[0].what == "xray: labels that are no names: their sentences say nothing"
    assert report.absent["label"] == {"NaN": 1}


@pytest.mark.parametrize("labels", [[True, False], ["Yes", "no"], ["class 0", "class 1"]])
def test_labels_that_say_nothing_are_remarked_upon(picture_folder: Path, labels: list[object]) -> None:
    _, report = imported(table(picture_folder, labels))
    assert report.issues[0].what == "xray: labels that are no names: their sentences say nothing"
    assert report.issues[0].examples == (", ".join(sorted(map(str, labels))),)


def test_one_number_in_two_spellings_is_one_label(picture_folder: Path) -> None:
    assert "'1' (1) and '1.0' (2)" in refused(table(picture_folder, ["1", "1.0", "1.0", "2"], kind="csv"))
    corpus, _ = imported(table(picture_folder, ["1", "1.0", "1.0", "2.50"]), ImportOptions(merge_labels=True))
    assert corpus.classes("xray") == ["1.0", "2.50"]


def test_a_label_that_is_read_as_none_is_told_where_it_is_missed(picture_folder: Path) -> None:
    said = refused(table(picture_folder, ["NA", "positive"]))
    assert "the label is missing" in said
    assert "'NA' is taken for none: a class of that name needs another one." in said


@pytest.mark.parametrize(
    ("labels", "doubted"),
    [
        (["pneumonia, effusion", "Pneumonia", "No Finding"], ("'pneumonia, effusion'",)),
        (["edema + mass", "nodule and edema", "cyst"], ("'edema + mass'", "'nodule and edema'")),
        (["squamous cell carcinoma, grade 2", "head and neck", "cyst"], ()),
    ],
)
def test_labels_that_share_a_part_look_like_several(
    picture_folder: Path, labels: list[object], doubted: tuple[str, ...]
) -> None:
    _, report = imported(table(picture_folder, labels))
    assert tuple(name for issue in report.issues for name in issue.examples) == doubted
