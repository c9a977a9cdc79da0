"""`mmkd teachers check NAME --golden`: features in the published layout, and a teacher that made them or did not."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from mmkd_core.errors import PluginError
from mmkd_core.extract.published import Published, pairs
from mmkd_core.integrate import golden
from mmkd_core.trust.published import NAMES

PLUGIN = """
import mmkd_good
from mmkd_core.contract import hookimpl

@hookimpl
def mmkd_teachers():
    yield mmkd_good.SPEC.model_copy(update={"name": "plip"})

@hookimpl
def mmkd_load_teacher(spec, weights, device):
    return mmkd_good.mmkd_load_teacher(spec, weights, device)
"""


@pytest.fixture
def plip(installed, tmp_path):
    """A plugin that declares a teacher of the paper, which is a small linear one; the teacher."""
    installed("good")
    (tmp_path / "site" / "mmkd_small_plip.py").write_text(PLUGIN)
    info = tmp_path / "site" / "mmkd_plip-2.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: mmkd-plip\nVersion: 2.0\n")
    (info / "entry_points.txt").write_text("[mmkd.v1]\nplip = mmkd_small_plip\n")
    import mmkd_good
    from mmkd_good.model import LinearTeacher

    return LinearTeacher(mmkd_good.SPEC, 7, "cpu")


def publish(root: Path, teacher, spoil=lambda tower, vector: vector) -> Path:
    """Four pairs as the authors publish them, made by ``teacher``; unit length, PLIP is trusted for three of them."""
    lines = []
    for number in range(4):
        name = f"{number:032x}"
        home = root / "features" / "data_1" / name
        home.mkdir(parents=True)
        picture = np.random.default_rng(number).integers(0, 256, (9, 12, 3), dtype=np.uint8)
        Image.fromarray(picture).save(home / "picture.png")
        caption = f"a scan with finding {number}"
        made = {
            "img": teacher.encode_image(teacher.preprocess(Image.fromarray(picture))[None])[0],
            "txt": teacher.encode_text(teacher.tokenize([caption]))[0],
        }
        keys = ["BMCA", "PLIP"] if number else ["BMCA"]
        vectors = {f"{key}_{tower}": spoil(tower, v) / v.norm() for key in keys for tower, v in made.items()}
        for file in ("clips_output.pt", "clips_project_output.pt"):
            torch.save(vectors, home / file)
        path = f"features/data_1/{name}/picture.png"
        lines.append({"folderid": "data_1", "id": name, "imgpath": path, "txt": caption, "available_clips": keys})
    (root / "meta.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return root


def compare(folder: Path, teacher) -> golden.Compared:
    """In this process what the command does in a fresh one."""
    done = Published()
    found = list(golden.of_folder(folder, "PLIP", done))
    asked = [{"image": one.image, "caption": one.caption} for one in found]
    return golden.compared("PLIP", found, golden.embedded(teacher, asked), done.skipped)


def test_a_teacher_that_made_them_passes(mmkd, plip, tmp_path):
    folder = publish(tmp_path / "published", plip)
    done = mmkd("teachers", "check", "plip", "--golden", folder)
    assert done.exit_code == 0, done.stderr
    lines = [" ".join(line.split()) for line in done.stdout.splitlines()]
    assert f"{1:032x} 1.0000 1.0000" in lines
    assert f"{0:032x} 1.0000 1.0000" not in lines, "PLIP was not trusted for it, so it has no features of it"
    assert any(line.startswith("plip against the published PLIP: equals it (at least 0.99 is asked)") for line in lines)


def test_another_teacher_fails(mmkd, plip, tmp_path):
    folder = publish(tmp_path / "published", plip, lambda tower, v: v.flip(0))
    done = mmkd("teachers", "check", "plip", folder, "--golden", "--json")
    assert done.exit_code == 1
    facts = json.loads(done.stdout)
    assert facts["published"]["passed"] is facts["passed"] is False
    assert sorted(facts["published"]["cosines"]) == [f"{number:032x}" for number in (1, 2, 3)]


@pytest.mark.parametrize(
    ("towers", "says"),
    [
        ((), ""),
        (("img",), "its images differ: preprocessing, activation, pooling or weights of the image tower"),
        (("txt",), "its texts differ: tokenizer, context length, pooling or weights of the text tower"),
        (("img", "txt"), "both towers differ: other weights, or another variant of the model"),
    ],
)
def test_the_side_that_differs_is_named(plip, tmp_path, towers, says):
    folder = publish(tmp_path / "published", plip, lambda tower, v: v.flip(0) if tower in towers else v)
    found = compare(folder, plip)
    assert (found.differs, found.passed) == (says, not says)
    for tower, name in (("img", "image"), ("txt", "text")):
        assert (min(row[name] for row in found.cosines.values()) < 0.99) == (tower in towers)


def test_another_number_of_dimensions_is_named(plip, tmp_path):
    found = compare(publish(tmp_path / "published", plip, lambda tower, v: torch.cat([v, v])), plip)
    assert (found.differs, found.passed) == ("its image embeddings have 4 numbers, the published ones 8", False)


def test_what_cannot_be_read_is_left_out_and_named(plip, tmp_path):
    folder = publish(tmp_path / "published", plip)
    (folder / f"features/data_1/{1:032x}/picture.png").unlink()
    (folder / f"features/data_1/{2:032x}/clips_output.pt").write_bytes(b"x")
    found = compare(folder, plip)
    assert list(found.cosines) == [f"{3:032x}"]
    assert found.passed
    assert dict(found.skipped)[f"{1:032x}"] == "its image is not there"
    assert f"{2:032x}" in dict(found.skipped)


def test_the_workspace_that_imported_both_needs_no_folder(mmkd, plip, workspace, tmp_path):
    folder = publish(tmp_path / "published", plip)
    rows = [json.loads(line) for line in (folder / "meta.jsonl").read_text().splitlines()]
    table = [{"image": str(folder / row["imgpath"]), "caption": row["txt"], "domain": "ct"} for row in rows]
    (tmp_path / "m.jsonl").write_text("".join(json.dumps(row) + "\n" for row in table))
    assert mmkd("data", "import", tmp_path / "m.jsonl", "-w", workspace).exit_code == 0
    with pytest.raises(PluginError, match=r"no published features of plip .* `mmkd teachers check plip --golden DIR`"):
        golden.run_golden("plip", workspace, None)
    assert mmkd("store", "import", "mmkd-clip", folder, "-w", workspace).exit_code == 0
    _, found = golden.run_golden("plip", workspace, None)
    assert len(found.cosines) == 3
    assert all(cosine > 0.9999 for row in found.cosines.values() for cosine in row.values())


def test_only_the_papers_teachers_have_published_features(mmkd, tmp_path):
    with pytest.raises(PluginError, match=r"authors published no features of good. The teachers of the paper are "):
        golden.run_golden("good", tmp_path, tmp_path)
    stray = mmkd("teachers", "check", "good", tmp_path)
    assert stray.exit_code == 2
    assert "a folder belongs to --golden" in stray.stderr


@pytest.mark.shared_data
def test_the_published_demo_has_features_of_eight_teachers(shared_data):
    folder = shared_data / "mmkd-clip-demo"
    done = Published()
    read = list(pairs(folder, done))
    assert (len(read), done.skipped) == (8, [])
    counts = {key: sum(key in pair.teachers for pair in read) for key in NAMES}
    assert counts == {
        "BMCA": 8, "BiomedCLIP": 8, "UniMedCLIP": 6, "QuiltNet": 8, "GenMedClip": 8, "PLIP": 3, "PUBMEDCLIP": 2,
        "PMCCLIP": 1, "MedCLIP": 0,
    }  # fmt: skip
    assert all(pair.file and pair.file.is_file() for pair in read)
    wide = {"BMCA", "PMCCLIP"}
    for pair in read:
        for key in pair.teachers:
            image, text = (pair.vectors[key, "raw", tower] for tower in ("image", "text"))
            assert len(image) == len(text) == (768 if key in wide else 512)
