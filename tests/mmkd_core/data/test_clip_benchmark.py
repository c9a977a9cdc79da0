"""CLIP_benchmark folders: read in place, with their classes and templates."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mmkd_core.data.captions import absent_prompts
from mmkd_core.data.clip_benchmark import import_clip_benchmark
from mmkd_core.data.decode import decode
from mmkd_core.data.eval_sets import EvalSet
from mmkd_core.data.issues import ImportLog
from mmkd_core.data.options import Reading
from mmkd_core.errors import DataError


def shard(path: Path, members: dict[str, bytes]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as archive:
        for name, data in members.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(data)
            archive.addfile(entry, io.BytesIO(data))


def png(shade: int) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(np.full((8, 8), shade, np.uint8)).save(buffer, "PNG")
    return buffer.getvalue()


def imported(source: Path, out: Path, name: str, domain: str, how: Reading = Reading()) -> EvalSet:
    return import_clip_benchmark(source, out, name, domain, how, ImportLog())


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    root = tmp_path / "wds_tumour"
    for number in range(30):
        members = {f"s{number:04d}.png": png(number), f"s{number:04d}.cls": str(number % 2).encode()}
        shard(root / "train" / f"{number}.tar", members)
    shard(root / "test" / "0.tar", {"s0.png": png(200), "s0.cls": b"1", "s1.png": png(201), "s1.cls": b"0"})
    (root / "classnames.txt").write_text("normal\ntumour\n")
    (root / "zeroshot_classification_templates.txt").write_text("a slide of {c}\n{c} tissue\n")
    return root


@pytest.mark.parametrize("text", ["\n", "an image\na slide\n"])
def test_templates_that_name_no_class_are_refused(folder: Path, tmp_path: Path, text: str) -> None:
    (folder / "zeroshot_classification_templates.txt").write_text(text)
    with pytest.raises(DataError, match=r"none holds \{c\} \(.*zeroshot_classification_templates.txt\)"):
        imported(folder, tmp_path / "set", "tumour", "pathology")


def test_a_class_that_only_looks_like_a_number_is_refused(folder: Path, tmp_path: Path) -> None:
    shard(folder / "test" / "1.tar", {"s2.png": png(202), "s2.cls": "²".encode()})
    with pytest.raises(DataError, match="class '²' is none of the 2"):
        imported(folder, tmp_path / "set", "tumour", "pathology")


def test_classes_templates_and_images_are_those_of_the_folder(folder: Path, tmp_path: Path) -> None:
    found = imported(folder, tmp_path / "set", "tumour", "pathology")
    assert found.task.tasks == ("zero-shot", "linear-probe")
    assert found.prompts["tumour"] == ("a slide of tumour", "tumour tissue")
    rows = found.where("test")
    assert list(found["label"][rows]) == ["tumour", "normal"]
    assert decode(found.path(int(rows[0]))).getpixel((0, 0)) == 200
    assert 0 < len(found.where("val")) < len(found.where("train"))
    again = imported(folder, tmp_path / "again", "tumour", "pathology")
    assert list(again["split"]) == list(found["split"])


def test_captions_make_a_retrieval_set(tmp_path: Path) -> None:
    shard(tmp_path / "wds" / "test" / "0.tar", {"a.jpg": png(1), "a.txt": b"a nodule\n"})
    found = imported(tmp_path / "wds", tmp_path / "set", "pairs", "xray")
    assert found.task.tasks == ("retrieval",)
    assert list(found["caption"]) == ["a nodule"]


def test_what_does_not_fit_is_a_sentence(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no shard holds a sample"):
        imported(tmp_path / "nothing", tmp_path / "set", "x", "xray")
    shard(folder / "test" / "0.tar", {"s0.png": png(1), "s0.cls": b"7"})
    with pytest.raises(DataError, match="class '7' is none of the 2"):
        imported(folder, tmp_path / "set", "x", "xray")
    shard(folder / "test" / "0.tar", {"s0.png": png(1), "s0.npy": b"x"})
    with pytest.raises(DataError, match=r"the \.npy cannot be read"):
        imported(folder, tmp_path / "set", "x", "xray")


def labelled(root: Path, classes: str, labels: list[str | None], texts: list[str] | None = None) -> Path:
    for split, first in (("train", 0), ("test", 100)):
        members: dict[str, bytes] = {}
        for i, label in enumerate(labels):
            members[f"s{i}.png"] = png(first + i)
            if label is not None:
                members[f"s{i}.cls"] = label.encode()
            if texts:
                members[f"s{i}.txt"] = texts[i].encode()
        shard(root / split / "0.tar", members)
    (root / "classnames.txt").write_text(classes, encoding="utf-8")
    (root / "zeroshot_classification_templates.txt").write_text("a photo of {c}.\n")
    return root


def test_the_number_of_a_line_is_the_class_blank_lines_included(tmp_path: Path) -> None:
    root = labelled(tmp_path / "a", "\ufeffnear\n\ndistant\nfar\n\n", ["0", "2", "3"])
    found = imported(root, tmp_path / "set", "a", "ct")
    assert list(found["label"][found.where("test")]) == ["near", "distant", "far"]
    assert found.task.classes == ("near", "distant", "far")
    with pytest.raises(DataError, match=r"class 1 has no name: line 2 of classnames.txt is blank"):
        imported(labelled(tmp_path / "b", "near\n\ndistant\n", ["0", "1"]), tmp_path / "b-set", "b", "ct")


@pytest.mark.parametrize(("second", "says"), [("crane", "0 and 1: 'crane'"), ("Crane", "'Crane' .* and 'crane'")])
def test_classes_of_one_name_are_refused_or_merged(tmp_path: Path, second: str, says: str) -> None:
    root = labelled(tmp_path / "a", f"crane\n{second}\ndog\n", ["0", "1", "2", "0"])
    with pytest.raises(DataError, match=says + "(.|\n)*--merge-labels"):
        imported(root, tmp_path / "set", "a", "ct")
    found = imported(root, tmp_path / "set", "a", "ct", Reading(merge_labels=True))
    assert found.task.classes == ("crane", "dog")


def test_all_captions_count_and_what_has_neither_is_left_out(tmp_path: Path) -> None:
    texts = ["one\ntwo\none\n", "three", ""]
    root, log = labelled(tmp_path / "a", "x\ny\n", ["0", None, None], texts), ImportLog()
    found = import_clip_benchmark(root, tmp_path / "set", "a", "ct", Reading(), log)
    rows = found.where("test")
    assert [found["captions"][row] for row in rows] == [("one", "two"), ("three",)]
    assert list(found["label"][rows]) == ["x", None]
    assert log.rows == 6
    (left,) = log.left_out.issues
    assert (left.count, left.examples[0]) == (2, "train/0.tar, sample s2")
    with pytest.raises(DataError, match="--strict refuses the import"):
        import_clip_benchmark(root, tmp_path / "no", "a", "ct", Reading(strict=True), ImportLog())


def numbers(*values: float) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, np.array(values))
    return buffer.getvalue()


def test_several_classes_of_an_image_are_findings(tmp_path: Path) -> None:
    given = [(1, 0, 1), (0, 0, 0), (0, 1, 0)]
    members = {f"s{i}.npy": numbers(*values) for i, values in enumerate(given)}
    shard(tmp_path / "wds" / "test" / "0.tar", {**members, **{f"s{i}.png": png(i) for i in range(3)}})
    (tmp_path / "wds" / "classnames.txt").write_text("mass\nedema\nhernia\n")
    (tmp_path / "wds" / "zeroshot_classification_templates.txt").write_text("a film with {c}\n")
    found = imported(tmp_path / "wds", tmp_path / "set", "several", "xray")
    assert found.task.multilabel
    assert list(found["labels"]) == [("mass", "hernia"), (), ("edema",)]
    assert found.task.absent["mass"] == absent_prompts("xray", "mass")
    for values in ((1, 0), (0.5, 0, 0), (-1, 0, 1)):
        shard(tmp_path / "wds" / "test" / "0.tar", {"s.png": png(1), "s.npy": numbers(*values)})
        with pytest.raises(DataError, match="and not 3 numbers 0 or 1, one for each line of classnames"):
            imported(tmp_path / "wds", tmp_path / "no", "no", "xray")
