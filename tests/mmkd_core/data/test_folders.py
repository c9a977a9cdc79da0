"""Images with a text file beside each: what a user has who never heard of manifests."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from PIL import Image

from mmkd_core.data.folders import read_folder
from mmkd_core.data.importers import ImportOptions, import_data
from mmkd_core.data.issues import ImportLog
from mmkd_core.errors import DataError


@pytest.fixture
def folder(picture_folder: Path) -> Path:
    """12 images, captioned, in one folder."""
    for image in picture_folder.glob("*.png"):
        image.with_suffix(".txt").write_text(f"finding {image.stem},\nleft lung\n", encoding="utf-8")
    return picture_folder


def test_every_image_with_its_caption_becomes_a_sample(folder: Path, tmp_path: Path) -> None:
    (folder / "README").write_text("how they were made")
    (folder / ".hidden.png").write_bytes(b"of a file manager")
    corpus, report = import_data(folder, tmp_path / "out", ImportOptions(domain="xray"))
    assert sorted(corpus.caption) == sorted(f"finding {k}, left lung" for k in range(12))
    assert corpus.image[0] == str(folder / "0.png"), "images stay where they are"
    assert report.domains == {"xray": 12}
    assert sum(report.splits.values()) == 12
    assert "every image is its own group, so intervals may be too narrow" in report.notes
    assert any("no image has a label" in line and "mmkd eval retrieval" in line for line in report.notes)
    again, _ = import_data(folder, tmp_path / "again", ImportOptions(domain="xray"))
    assert again.fingerprint == corpus.fingerprint


def test_folders_say_what_kind_of_images_they_hold(folder: Path, tmp_path: Path) -> None:
    for k in range(12):
        into = folder / ("CT" if k % 2 else "xray") / f"patient {k // 4}"
        into.mkdir(parents=True, exist_ok=True)
        for kind in (".png", ".txt"):
            shutil.move(folder / f"{k}{kind}", into)
    table = read_folder(folder, ImportLog())
    assert {row.image.stem: row.domain for row in table.rows} == {
        str(k): ("ct" if k % 2 else "xray") for k in range(12)
    }
    assert [row.image for row in table.rows] == sorted(row.image for row in table.rows)
    with pytest.raises(DataError, match=r"--domain oct contradicts folders that are named .*: ct, xray"):
        read_folder(folder, ImportLog(), "oct")
    assert {row.domain for row in read_folder(folder / "xray" / "patient 0", ImportLog(), "xray").rows} == {"xray"}
    assert {row.domain for row in read_folder(folder / "xray", ImportLog()).rows} == {"xray"}, "its own name counts too"


@pytest.mark.parametrize(
    ("domain", "harm", "says"),
    [
        (None, lambda f: None, r"not known what kind of images these are.*--domain.*xray, ct"),
        ("xray", lambda f: (f / "3.txt").unlink(), r"1 of 12 images have no caption, the first is 3\.png.*3\.txt"),
        ("xray", lambda f: (f / "3.txt").write_text(" \n"), r"the caption is empty.*3\.txt"),
        ("xray", lambda f: (f / "3.txt").write_bytes(b"\xff\xfe\xff"), r"not UTF-8 text.*3\.txt"),
        ("xray", lambda f: (f / "3.png").write_bytes(b"no image"), r"3\.png"),
    ],
)
def test_what_is_wrong_is_a_sentence(folder: Path, tmp_path: Path, domain: str | None, harm, says: str) -> None:
    harm(folder)
    with pytest.raises(DataError, match=says):
        import_data(folder, tmp_path / "out", ImportOptions(domain=domain))
    assert not (tmp_path / "out").exists()


def test_a_manifest_without_a_domain_takes_it_from_the_option(folder: Path, tmp_path: Path) -> None:
    (folder / "captions.csv").write_text("image,caption\n0.png,one\n1.png,two\n")
    with pytest.raises(DataError, match=r"no column domain.*--domain"):
        import_data(folder, tmp_path / "no")
    corpus, _ = import_data(folder, tmp_path / "out", ImportOptions(domain="ct"))
    assert (list(corpus.caption), corpus.domains) == (["one", "two"], ["ct"])
    (folder / "captions.csv").write_text("image,caption,domain\n0.png,one,mri\n")
    with pytest.raises(DataError, match=r"has a column domain itself.*Leave --domain out"):
        import_data(folder, tmp_path / "both", ImportOptions(domain="ct"))


def test_what_is_not_read_is_counted(folder: Path, tmp_path: Path) -> None:
    Image.new("L", (3, 3)).save(folder / "moving.gif")
    (folder / "moving.txt").write_text("of a picture that is not read")
    (folder / "IM0001").write_bytes(b"a file of an archive")
    (folder / "README.md").write_text("documentation is no data")
    _, report = import_data(folder, tmp_path / "out", ImportOptions(domain="xray"))
    assert {issue.what: issue.examples for issue in report.left_out} == {
        "suffixless files, which are not read": ("IM0001",),
        ".gif files, which are not read": ("moving.gif",),
        "a text without an image": ("moving.txt",),
    }
    assert report.rows == report.samples == 12


def test_lines_of_a_text_are_captions_by_option(folder: Path, tmp_path: Path) -> None:
    (folder / "0.txt").write_text("\ufefffirst  caption\n\n second\nfirst caption\n", encoding="utf-8")
    corpus, _ = import_data(folder, tmp_path / "one", ImportOptions(domain="xray"))
    assert corpus.captions(0) == ("first caption second first caption",)
    corpus, _ = import_data(folder, tmp_path / "lines", ImportOptions(domain="xray", caption_lines=True))
    assert corpus.captions(0) == ("first caption", "second")
    assert corpus.captions(1) == ("finding 1,", "left lung")


def test_all_texts_that_say_nothing_are_named(folder: Path, tmp_path: Path) -> None:
    for name in ("3", "7"):
        (folder / f"{name}.txt").write_text("\ufeff \n", encoding="utf-8")
    with pytest.raises(DataError, match=r"2 problems: the caption is empty: 2 \(.*3\.txt; .*7\.txt\)"):
        import_data(folder, tmp_path / "out", ImportOptions(domain="xray"))


def test_folders_of_classes_are_told_how_labels_come_in(picture_folder: Path, tmp_path: Path) -> None:
    (picture_folder / "normal").mkdir()
    shutil.move(picture_folder / "0.png", picture_folder / "normal")
    with pytest.raises(DataError, match="Where folders are classes, write a csv with the columns image and label"):
        import_data(picture_folder, tmp_path / "out", ImportOptions(domain="xray"))


def test_options_that_say_nothing_of_a_source_are_refused(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="--labels-from says nothing of a folder of images"):
        import_data(folder, tmp_path / "out", ImportOptions(domain="xray", labels_from=("a",)))
    (folder / "m.csv").write_text("image,caption\n0.png,one\n")
    with pytest.raises(DataError, match="--caption-lines says nothing of a manifest"):
        import_data(folder, tmp_path / "out", ImportOptions(domain="xray", caption_lines=True))
