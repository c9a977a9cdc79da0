"""CLIP_benchmark folders: read in place, with their classes and templates."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

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
    with pytest.raises(DataError, match="multi-label"):
        imported(folder, tmp_path / "set", "x", "xray")
