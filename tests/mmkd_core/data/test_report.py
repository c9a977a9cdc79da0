"""What an import says at its end, and that --strict writes nothing."""

from __future__ import annotations

import csv
from functools import partial
from pathlib import Path

import pytest
from PIL import Image

from mmkd_core.data.enough import Minimum
from mmkd_core.data.importers import ImportOptions, import_data
from mmkd_core.data.issues import Issue
from mmkd_core.data.report import longer_captions, small_probe
from mmkd_core.errors import DataError

FITS = "one two three four five six seven eight nine ten eleven twelve thirteen"
LONG = f"{FITS}-"  # a mark is a token too
LOOKS = (partial(longer_captions, context=14),)


def write(folder: Path, rows: list[dict[str, str]]) -> Path:
    path = folder / "m.csv"
    columns = ["image", "domain", "label", "caption", "caption_2", "group_id", "split"]
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, columns, restval="")
        writer.writeheader()
        writer.writerows(rows)
    return path


def row(k: int, **more: str) -> dict[str, str]:
    return {"image": f"{k}.png", "domain": "ct", "label": "ab"[k % 2], "group_id": f"p{k}", "split": "train", **more}


@pytest.fixture
def untidy(picture_folder: Path) -> Path:
    """A table with one of everything that a report remarks upon."""
    (picture_folder / "3.png").write_bytes(b"broken")
    (picture_folder / "5.png").write_bytes((picture_folder / "4.png").read_bytes())
    pages = [Image.new("L", (4, 4), shade) for shade in (1, 2, 3)]
    pages[0].save(picture_folder / "6.tif", save_all=True, append_images=pages[1:])
    return write(
        picture_folder,
        [
            row(0, caption=FITS, caption_2=LONG),
            row(1, label="NA", caption="nan? no", group_id="nan"),
            row(2),
            row(3),
            row(4),
            row(5),
            row(6, image="6.tif"),
        ],
    )


def test_everything_is_said_at_once(untidy: Path, tmp_path: Path) -> None:
    corpus, report = import_data(untidy, tmp_path / "out", ImportOptions(max_bad=1, looks=LOOKS))
    assert (report.rows, report.samples, len(corpus)) == (7, 6, 6)
    (broken,) = report.left_out
    assert (broken.what, broken.count) == ("the file is not an image, or of an unknown format", 1)
    assert broken.examples[0].endswith("3.png, m.csv, line 5")
    assert report.absent == {"label": {"NA": 1}, "group_id": {"nan": 1}, "caption": {"": 5}}
    assert report.issues[0].what == "files of several pages or frames, of which the first is read"
    assert report.issues[0].examples[0].endswith("6.tif, 3 pages")
    assert report.issues[1] == Issue("groups that share an image, and so lie in one split", 1, ("p4, p5",))
    assert report.issues[2] == Issue("images with different labels in two rows", 1, ("line 6 'a', line 7 'b'",))
    assert report.issues[3] == Issue(
        "captions longer than the student's context of 14 tokens (by words, so at least these)", 1, ("0.png, 14 words",)
    )
    assert report.captions[0] == f"{FITS} | {LONG}"
    assert list(corpus.captions(0)) == report.captions[0].split(" | ")
    assert len(report.captions) == 3
    assert report.captions[1] == "nan? no"


def test_strict_names_everything_and_writes_nothing(untidy: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError) as caught:
        import_data(untidy, tmp_path / "out", ImportOptions(max_bad=1, strict=True, looks=LOOKS))
    text = str(caught.value)
    assert text.startswith("--strict refuses the import for 7 reasons: left out, the file is not an image")
    for words in ('taken as absent, label: "NA" 1', 'group_id: "nan" 1', "two rows: 1", "14 tokens", "pages"):
        assert words in text
    assert "caption: empty" not in text, "a table has no other way to say that there is none"
    assert not (tmp_path / "out").exists()


def test_strict_lets_a_tidy_table_pass(picture_folder: Path, tmp_path: Path) -> None:
    path = write(picture_folder, [row(0, caption="a chest"), row(1), row(2)])
    corpus, report = import_data(path, tmp_path / "out", ImportOptions(strict=True, looks=LOOKS))
    assert len(corpus) == 3
    assert (report.left_out, report.issues, report.absent) == ((), (), {"caption": {"": 2}})


def probe_told(folder: Path, out: Path, rows: list[dict[str, str]]) -> dict[str, str]:
    """What is said of each domain's validation split."""
    options = ImportOptions(looks=(partial(small_probe, minimum=Minimum(samples=4, patients=3, per_class=2)),))
    _, report = import_data(write(folder, rows), out, options)
    return dict(example.split(": ") for issue in report.issues for example in issue.examples)


def test_validation_splits_that_measure_nothing_are_named(picture_folder: Path, tmp_path: Path) -> None:
    rows = [row(k, domain="ct" if k < 6 else "mri", split="val") for k in range(12)]
    assert probe_told(picture_folder, tmp_path / "enough", rows) == {}
    train = [dict(one, split="train") for one in rows]
    nothing = "no labelled images"
    assert probe_told(picture_folder, tmp_path / "none", train) == {"ct": nothing, "mri": nothing}
    one = [dict(one, label="a") for one in rows[:6]] + [dict(one, group_id="p") for one in rows[6:]]
    assert probe_told(picture_folder, tmp_path / "one", one) == {
        "ct": "all 6 labelled images are a",
        "mri": "6 labelled images of 1 patients, 4 of 3 are needed",
    }
    rare = [dict(one, label="b" if k in (0, 6, 8) else "a") for k, one in enumerate(rows)]
    assert probe_told(picture_folder, tmp_path / "rare", rare) == {
        "ct": "fewer than two classes have 2 labelled images"
    }
    several = [dict(one, label=("x|y", "x", "y|x")[k % 3]) for k, one in enumerate(rows[:6])]
    assert probe_told(picture_folder, tmp_path / "several", several) == {"ct, x": "all 6 labelled images are x"}
    assert probe_told(picture_folder, tmp_path / "bare", [dict(r, label="", caption="text") for r in rows]) == {}


def test_captions_that_are_shown_are_of_different_domains_and_classes(picture_folder: Path, tmp_path: Path) -> None:
    rows = [row(k, domain="mri" if k == 5 else "ct", label="b" if k == 3 else "a", caption=f"{k}") for k in range(6)]
    _, report = import_data(write(picture_folder, rows), tmp_path / "out")
    assert report.captions == ("0", "5", "3")
    _, report = import_data(write(picture_folder, rows[:3]), tmp_path / "one")
    assert report.captions == ("0", "1", "2")
