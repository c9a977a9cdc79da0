from __future__ import annotations

import csv
import json
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from mmkd_core.data.assemble import _MANY
from mmkd_core.data.check import check
from mmkd_core.data.importers import ImportOptions, import_data
from mmkd_core.data.manifest import Corpus
from mmkd_core.data.splits import split_of
from mmkd_core.errors import DataError

Cells = Mapping[str, object]


def rows(count: int = 12) -> list[dict[str, object]]:
    """Return good rows: two domains of two classes, three patients, one split each."""
    return [
        {
            "image": f"{k}.png",
            "domain": ("xray", "mri")[k % 2],
            "label": ("normal", "tumor")[(k // 2) % 2],
            "group_id": f"p{k // 4}",
            "split": ("train", "val", "test")[k // 4],
        }
        for k in range(count)
    ]


def write(folder: Path, table: Sequence[Cells], kind: str = "csv") -> Path:
    path = folder / f"manifest.{kind}"
    if kind == "csv":
        with path.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, list(table[0]))
            writer.writeheader()
            writer.writerows(table)
    elif kind == "jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in table))
    else:
        pq.write_table(pa.Table.from_pylist(list(table)), path)
    return path


@pytest.mark.parametrize("kind", ["csv", "jsonl", "parquet"])
def test_every_kind_of_manifest_gives_the_same_corpus(picture_folder: Path, tmp_path: Path, kind: str) -> None:
    corpus, report = import_data(write(picture_folder, rows(), kind), tmp_path / "out")
    assert corpus.fingerprint == import_data(write(picture_folder, rows()), tmp_path / "csv")[0].fingerprint
    assert list(corpus.split) == [row["split"] for row in rows()]
    assert corpus.image[3] == str(picture_folder / "3.png")
    assert corpus.classes("mri") == ["normal", "tumor"]
    assert len(corpus.prompts["mri"]["tumor"]) == 5
    assert all(label in text for text, label in zip(corpus.caption, corpus.label, strict=True))
    assert check(Corpus.load(tmp_path / "out")).ok
    assert report.domains == {"mri": 6, "xray": 6}
    assert report.splits == {"train": 4, "val": 4, "test": 4}
    assert (report.samples, report.images, report.groups) == (12, 12, 3)
    assert report.notes == ()


def test_captions_depend_on_the_image_and_not_on_order(picture_folder: Path, tmp_path: Path) -> None:
    one, _ = import_data(write(picture_folder, rows()), tmp_path / "a", ImportOptions(workers=1))
    two, _ = import_data(write(picture_folder, rows()[::-1]), tmp_path / "b", ImportOptions(workers=3))
    assert two.take(np.arange(12)[::-1]).fingerprint == one.fingerprint
    assert (
        import_data(write(picture_folder, rows()), tmp_path / "c", ImportOptions(seed=1))[0].fingerprint
        == one.fingerprint
    )


def test_own_captions_are_kept(picture_folder: Path, tmp_path: Path) -> None:
    table = [{"image": "0.png", "domain": "ct", "caption": " Œdème, left ", "label": None},
             {"image": "1.png", "domain": "ct", "caption": "a mass", "label": "tumor"},
             {"image": "2.png", "domain": "ct", "label": "normal"}]  # fmt: skip
    corpus, report = import_data(write(picture_folder, table, "jsonl"), tmp_path / "out")
    assert list(corpus.caption[:2]) == ["Œdème, left", "a mass"]
    assert "normal" in corpus.caption[2]
    assert corpus.label[0] is None
    assert any("no column group_id" in line for line in report.notes)


def test_captions_alone_are_enough(picture_folder: Path, tmp_path: Path) -> None:
    table = [{"image": f"{k}.png", "domain": "ct", "caption": f"figure {k}", "patient_id": f"p{k}"} for k in range(4)]
    corpus, report = import_data(write(picture_folder, table), tmp_path / "out")
    assert corpus.prompts == {}
    assert report.notes[0].endswith("intervals may be too narrow; is 'patient_id' the patient? Then rename it")
    how = "assigned by a hash of group_id with seed 0, 70/10/20 % train/val/test"
    assert report.notes[1] == f"4 of 4 rows name no split: {how}"


def test_assigned_splits_follow_groups_shared_images_and_given_rows(picture_folder: Path, tmp_path: Path) -> None:
    (picture_folder / "9.png").write_bytes((picture_folder / "0.png").read_bytes())
    table = [dict(row, split="", group_id=f"p{k}") for k, row in enumerate(rows())]
    table[1].update(group_id="p5")
    table[5].update(split="test")
    corpus, _ = import_data(write(picture_folder, table), tmp_path / "out", ImportOptions(seed=1))
    assert corpus.split[1] == corpus.split[5] == "test"
    assert corpus.split[9] == corpus.split[0] == "test"
    assert (corpus.split[2], corpus.split[7]) == ("train", "val")


def test_shares_of_assigned_splits() -> None:
    counts = Counter(split_of(f"patient {k}", 3) for k in range(5000))
    assert counts["train"] / 5000 == pytest.approx(0.7, abs=0.02)
    assert counts["val"] / 5000 == pytest.approx(0.1, abs=0.013)


def test_the_split_of_a_group_depends_on_its_name_and_on_the_seed() -> None:
    assert [split_of(name, 0) for name in ("p0", "p5", "q1")] == ["train", "val", "test"]
    assert [split_of(name, 1) for name in ("p0", "p5", "p7")] == ["test", "test", "val"]


def refused(folder: Path, table: Sequence[Cells], kind: str = "csv", **options: int) -> str:
    with pytest.raises(DataError) as caught:
        import_data(write(folder, table, kind), folder / "out", ImportOptions(**options))
    assert not (folder / "out").exists(), "a refused import leaves nothing behind"
    return str(caught.value)


def test_wrong_columns_are_named_with_the_nearest(picture_folder: Path) -> None:
    table = [{"img_path": "0.png", "modality": "ct", "dx": "x", "patient": 1}]
    assert refused(picture_folder, table) == (
        "the manifest has no column image and no column domain and no column label or caption; it has img_path, "
        "modality, dx, patient (manifest.csv). Rename 'img_path' to 'image' and 'modality' to 'domain' and 'dx' to "
        "'label'. Needed are image, domain, and label or caption (group_id and split if known)."
    )
    assert "Rename 'imgae' to 'image'." in refused(picture_folder, [{"imgae": 1, "domain": 2, "label": 3}])
    assert "no column label or caption; it has image, domain" in refused(picture_folder, [{"image": 1, "domain": 2}])


@pytest.mark.parametrize("kind", ["csv", "jsonl", "parquet"])
@pytest.mark.parametrize(
    ("column", "name"),
    [
        ("Split", "split"),
        ("Group ID", "group_id"),
        ("LABEL", "label"),
        ("Caption.2", "caption_2"),
        ("labels ", "labels"),
    ],
)
def test_a_column_that_is_ours_but_for_its_spelling_is_not_left_unread(
    picture_folder: Path, kind: str, column: str, name: str
) -> None:
    if column.strip() == name and kind == "csv":
        return  # the columns of a csv are read without white space
    table = [{"image": "0.png", "domain": "ct", "caption": "a slice", column: "test"}]
    said = refused(picture_folder, table, kind=kind)
    assert f"columns that would not be read: {column!r}" in said
    assert f"Rename '{column}' to '{name}'" in said


def test_a_patient_in_two_splits(picture_folder: Path) -> None:
    table = rows()
    table[2]["split"] = "test"
    assert refused(picture_folder, table).startswith(
        "a group is in two splits ('p0': train at line 2, test at line 4 of manifest.csv). Keep every patient in one "
    )


def test_an_image_in_two_splits(picture_folder: Path) -> None:
    table = rows()
    table[11].update(image="1.png")
    text = refused(picture_folder, table, "parquet")
    assert text.startswith("an image is in two splits (")
    assert "1.png: train at row 2, test at row 12 of manifest.parquet)" in text


@pytest.mark.parametrize(
    ("change", "kind", "message"),
    [
        ({"caption": "  ", "label": ""}, "csv", "the label and caption is missing (manifest.csv, line 5)."),
        (
            {"caption": "nan", "label": ""},
            "jsonl",
            "the label and caption is missing (manifest.jsonl, line 4).",
        ),
        ({"image": ""}, "csv", "the image is missing (manifest.csv, line 5)."),
        ({"domain": None}, "parquet", "the domain is missing (manifest.parquet, row 4)."),
        ({"caption": None, "label": None}, "jsonl", "the label and caption is missing (manifest.jsonl, line 4)."),
        ({"split": "fold 1"}, "csv", "unknown split 'fold 1' (manifest.csv, line 5). Use train, val, test."),
        ({"label": {"a": 1}}, "jsonl", "the label is no single value but a dict (manifest.jsonl, line 4)."),
        ({"label": [0, 1]}, "jsonl", "the labels are numbers, [0, 1], and not names (manifest.jsonl, line 4)."),
        ({"label": ["a", "cut \ud83d"]}, "jsonl", "the label is not UTF-8: 'cut \\ud83d' (manifest.jsonl, line 4)."),
        ({"label": ["a", None]}, "jsonl", "a label in ['a', None] is no name (manifest.jsonl, line 4)."),
        ({"label": "[a b]"}, "csv", "the label '[a b]' is no list (manifest.csv, line 5)."),
        ({"label": "a|nan"}, "csv", "a label in 'a|nan' is no name (manifest.csv)."),
        ({"caption": "cut \ud83d"}, "jsonl", "the caption is not UTF-8: 'cut \\ud83d' (manifest.jsonl, line 4)."),
    ],
)
def test_bad_cells_are_named_by_file_and_row(
    picture_folder: Path, change: dict[str, object], kind: str, message: str
) -> None:
    table = [dict(row, caption="some text") for row in rows()]
    table[3].update(change)
    assert refused(picture_folder, table, kind).startswith(message)


def test_broken_files(picture_folder: Path, tmp_path: Path) -> None:
    path = picture_folder / "manifest.jsonl"
    for text, message in (
        ('{"image": 1\n', r"not JSON: .*\(manifest.jsonl, line 1\)"),
        ("\n[1]\n", r"not a JSON object \(manifest.jsonl, line 2\)"),
        ("", r"no column image"),
    ):
        path.write_text(text)
        with pytest.raises(DataError, match=message):
            import_data(path, tmp_path / "out")
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(DataError, match=r"not UTF-8 text \(\S*manifest.jsonl\)"):
        import_data(path, tmp_path / "out")
    (picture_folder / "x.parquet").write_bytes(b"nothing")
    with pytest.raises(DataError, match=r"not a parquet table: .*\(x.parquet\)"):
        import_data(picture_folder / "x.parquet", tmp_path / "out")
    (picture_folder / "x.csv").write_text("image,domain,caption\n0.png,ct,one, two\n")
    with pytest.raises(DataError, match=r"more than 3 cells: 4 \(x.csv, line 2\). Put \"...\" around text"):
        import_data(picture_folder / "x.csv", tmp_path / "out")
    (picture_folder / "x.csv").write_text("image,domain,caption\n")
    with pytest.raises(DataError, match=r"the manifest has no rows \(x.csv\)"):
        import_data(picture_folder / "x.csv", tmp_path / "out")


def test_csv_lines_are_counted_as_an_editor_counts_them(picture_folder: Path, tmp_path: Path) -> None:
    (picture_folder / "x.csv").write_text(
        '\ufeffimage,domain,caption\n0.png,ct,"two\nlines"\n1.png,ct,\n', encoding="utf-8"
    )
    with pytest.raises(DataError, match=r"caption is missing \(x.csv, line 4\)"):
        import_data(picture_folder / "x.csv", tmp_path / "out")


def test_images_of_a_folder_that_its_manifest_does_not_name_are_told(picture_folder: Path, tmp_path: Path) -> None:
    path = write(picture_folder, rows(8))
    assert not any("not named" in line for line in import_data(path, tmp_path / "file")[1].notes)
    _, report = import_data(picture_folder, tmp_path / "folder")
    assert "4 images of the folder are not named by manifest.csv, and not read" in report.notes


def test_unreadable_images(picture_folder: Path, tmp_path: Path) -> None:
    (picture_folder / "3.png").write_bytes(b"broken")
    text = refused(picture_folder, rows())
    assert re.fullmatch(
        r"the file is not an image, or of an unknown format \(\S+3.png, manifest.csv, line 5\)\. "
        r"Mend the image or remove the row\.",
        text,
    )
    (picture_folder / "4.png").unlink()
    text = refused(picture_folder, rows(), max_bad=1)
    assert "2 problems: the file is not an image, or of an unknown format: 1 (" in text
    assert "; no such image file: 1 (" in text
    corpus, report = import_data(picture_folder, tmp_path / "out", ImportOptions(max_bad=2))
    assert len(corpus) == 10
    assert [(issue.what, issue.examples[0].split("raw/")[-1]) for issue in report.left_out] == [
        ("the file is not an image, or of an unknown format", "3.png, manifest.csv, line 5"),
        ("no such image file", "4.png, manifest.csv, line 6"),
    ]


def test_a_manifest_whose_images_are_elsewhere(picture_folder: Path) -> None:
    table = [dict(row, image=f"images/{row['image']}") for row in rows()]
    text = refused(picture_folder, table, max_bad=99)
    assert "12 problems: no such image file: 12 (" in text
    assert "and 7 more) (manifest.csv). Relative paths start at the folder of the manifest." in text


def test_what_is_said_about_domains_and_classes(picture_folder: Path, tmp_path: Path) -> None:
    table = [dict(row, domain=("X-Ray", "new:octa")[k % 2], label="normal") for k, row in enumerate(rows())]
    corpus, report = import_data(write(picture_folder, table), tmp_path / "out")
    assert corpus.domains == ["octa", "xray"]
    assert report.notes[0] == "the domain 'X-Ray' is xray"
    assert report.notes[2].startswith("domain 'octa' is none of xray, ct, ")
    assert report.notes[4] == "xray has a single class, 'normal': zero-shot AUC cannot be computed"
    table = rows()
    table[4]["label"] = "tumor"
    _, report = import_data(write(picture_folder, table), tmp_path / "out")
    assert report.notes == ("xray: val has no 'normal'",)


def test_what_cannot_be_imported(picture_folder: Path, tmp_path: Path) -> None:
    def message(path: Path) -> str:
        with pytest.raises(DataError) as caught:
            import_data(path, tmp_path / "out")
        return str(caught.value)

    assert message(tmp_path / "gone").startswith("no such file or folder (")
    (tmp_path / "empty").mkdir()
    assert message(tmp_path / "empty").startswith("the folder holds no manifest, no image, no shard and no .npz file (")
    assert message(picture_folder / "0.png").startswith("cannot import a '.png' file (")
    write(picture_folder, rows(), "jsonl")
    (picture_folder / "b.npz").touch()
    assert message(picture_folder).startswith("several things could be imported: manifest.jsonl, b.npz (")
    (picture_folder / "b.npz").unlink()
    import_data(picture_folder, tmp_path / "corpus")
    assert message(tmp_path / "corpus").startswith("the folder is a corpus already (")


def test_a_large_import_uses_a_pool_and_stays_the_same(tmp_path: Path) -> None:
    count = _MANY + 5
    for k in range(count):
        Image.fromarray(np.array([[k % 256, k // 256]], dtype=np.uint8)).save(tmp_path / f"{k}.png")
    table = [{"image": f"{k}.png", "domain": "ct", "label": "ab"[k % 2], "group_id": k} for k in range(count)]
    path = write(tmp_path, table)
    one, _ = import_data(path, tmp_path / "a", ImportOptions(workers=1))
    many, report = import_data(path, tmp_path / "b")
    assert one.fingerprint == many.fingerprint
    assert report.images == count


@pytest.mark.shared_data
def test_the_real_images(shared_data: Path, tmp_path: Path) -> None:
    corpus, report = import_data(shared_data / "biomed", tmp_path / "out")
    assert report.samples == 7490
    assert report.notes == ("pathology: val has no 'neoplastic cell'",)
    assert report.domains == {
        "dermatology": 1877,
        "microscopy": 1338,
        "mri": 2161,
        "pathology": 823,
        "ultrasound": 579,
        "xray": 712,
    }
    assert {domain: len(corpus.classes(domain)) for domain in corpus.domains} == {
        "dermatology": 7, "microscopy": 3, "mri": 4, "pathology": 3, "ultrasound": 3, "xray": 2
    }  # fmt: skip
    found = check(Corpus.load(tmp_path / "out"))
    assert found.ok
    assert [issue.what for issue in found.warnings] == ["class missing in a split", "same image and caption twice"]
