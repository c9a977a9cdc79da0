"""Images with a text file beside each: what a user has who never heard of manifests."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

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
