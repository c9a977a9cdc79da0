from __future__ import annotations

import base64
import csv
import hashlib
import importlib
import io
import json
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from mmkd_core.contract import LicenseInfo, TeacherSpec, TrustClaim, golden_image, measure_golden
from mmkd_core.data.images import to_square
from mmkd_core.errors import ReleaseError
from mmkd_core.plugins.loaders.open_clip import load
from mmkd_core.student import parity
from mmkd_core.student.config import StudentConfig, TextConfig
from mmkd_core.student.export import WRITERS, export_folder, export_teacher, write_teacher
from mmkd_core.student.formats import write_transformers
from mmkd_core.student.model import Student
from mmkd_core.student.parity import CLOSE, OPEN_CLIP

TEXTS = ["chest radiograph, no finding", "", "a nodule " * 20]
FACTS = {
    "domains": ("ct", "xray"),
    "trust": {"ct": TrustClaim(score=0.93, metric="zero-shot accuracy", dataset="here", n=40, source="mmkd audit")},
    "training_data": "40 phantom images",
}


@pytest.fixture(scope="module")
def exported(built, tmp_path_factory):
    out = tmp_path_factory.mktemp("out")
    return (out, *export_teacher(built, out, "tiny-one", **FACTS))


def members(wheel):
    with zipfile.ZipFile(wheel) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def test_the_record_names_every_file_with_its_hash(exported):
    out, spec, wheel = exported
    files = members(wheel)
    info = f"mmkd_tiny_one-0.1.0+{spec.fingerprint[:8]}.dist-info"
    rows = list(csv.reader(io.StringIO(files[f"{info}/RECORD"].decode())))
    assert sorted(row[0] for row in rows) == sorted(files)
    for name, digest, size in rows:
        if name == f"{info}/RECORD":
            assert (digest, size) == ("", "")
            continue
        expected = base64.urlsafe_b64encode(hashlib.sha256(files[name]).digest()).decode().rstrip("=")
        assert (digest, int(size)) == (f"sha256={expected}", len(files[name]))
    assert wheel == out / f"mmkd_tiny_one-0.1.0+{spec.fingerprint[:8]}-py3-none-any.whl"
    assert not list(out.glob("*.tmp"))


def test_the_wheel_installs_and_offers_the_teacher(exported, tmp_path):
    """pip takes it without a network, and the entry point leads to the spec."""
    _, spec, wheel = exported
    pytest.importorskip("pip")
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index", "--no-compile"]
    done = subprocess.run(
        [*pip, "--disable-pip-version-check", "--target", str(tmp_path), str(wheel)], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    (found,) = importlib.metadata.distributions(path=[str(tmp_path)])
    assert (found.name, found.version) == ("mmkd-tiny-one", f"0.1.0+{spec.fingerprint[:8]}")
    assert found.requires == ["mmkd"]
    (point,) = found.entry_points
    assert (point.group, point.name, point.value) == ("mmkd.v1", "tiny-one", "mmkd_tiny_one")
    sys.path.insert(0, str(tmp_path))
    try:
        module = importlib.import_module(point.value)
    finally:
        sys.path.remove(str(tmp_path))
        sys.modules.pop(point.value, None)
    assert module.mmkd_teachers() == [spec]


def test_the_source_is_a_project_with_the_same_entry_point(exported):
    import tomllib

    out, spec, wheel = exported
    project = tomllib.loads((out / "mmkd-tiny-one/pyproject.toml").read_text())["project"]
    assert project["name"] == "mmkd-tiny-one"
    assert project["entry-points"] == {"mmkd.v1": {"tiny-one": "mmkd_tiny_one"}}
    assert project["version"] in wheel.name
    source = out / "mmkd-tiny-one/src/mmkd_tiny_one"
    inside = {name: data for name, data in members(wheel).items() if name.startswith("mmkd_tiny_one/")}
    assert inside == {f"mmkd_tiny_one/{p.relative_to(source)}": p.read_bytes() for p in source.rglob("*.*")}
    assert spec.summary == "Small CLIP for ct and xray, trained by mmkd pretrain"


def test_the_same_student_gives_the_same_bytes(built, exported, tmp_path):
    _, spec, wheel = exported
    built.save(tmp_path / "student")
    again, other = export_teacher(Student.load(tmp_path / "student"), tmp_path, "tiny-one", **FACTS)
    assert again == spec
    assert other.name == wheel.name
    assert other.read_bytes() == wheel.read_bytes()


def test_another_student_under_the_same_name_is_another_version(make_student, exported, tmp_path):
    _, spec, wheel = exported
    student = make_student()
    with torch.no_grad():
        next(student.model.visual.parameters()).mul_(1.5)
    other_spec, other = export_teacher(student, tmp_path, "tiny-one", **FACTS)
    assert other_spec.fingerprint != spec.fingerprint
    assert other.name != wheel.name


def test_exporting_again_leaves_nothing_of_the_old_source(built, tmp_path):
    export_teacher(built, tmp_path, "tiny-one", **FACTS)
    stale = tmp_path / "mmkd-tiny-one/src/mmkd_tiny_one/teacher/stale.bin"
    stale.write_bytes(b"x")
    _, wheel = export_teacher(built, tmp_path, "tiny-one", **FACTS)
    assert not stale.exists()
    assert "mmkd_tiny_one/teacher/stale.bin" not in members(wheel)


def test_the_spec_says_what_was_exported(built, exported):
    out, spec, _ = exported
    folder = out / "mmkd-tiny-one/src/mmkd_tiny_one/teacher"
    assert TeacherSpec.model_validate_json((folder / "teacher.json").read_text()) == spec
    (source,) = spec.weights
    assert (source.kind, source.location) == ("package", "mmkd_tiny_one:teacher")
    for name, digest in source.files.items():
        assert hashlib.sha256((folder / name).read_bytes()).hexdigest() == digest
    assert {path.name for path in folder.iterdir()} == {*source.files, "teacher.json"}
    assert (spec.embed_dim, spec.image.size, spec.text.context_length) == (16, 32, 12)
    assert spec.logit_scale == pytest.approx(built.logit_scale)
    assert spec.image.mean == tuple(built.preprocess["mean"])
    assert spec.domains == ("ct", "xray")
    assert spec.trust == FACTS["trust"]
    assert spec.provenance.training_data == "40 phantom images"


def test_golden_values_are_those_of_the_student(built, exported):
    """Reached without the loader: by the student itself, from an image that is resized here."""
    out, spec, _ = exported
    assert spec.golden.prompt == "an image of ct"
    assert len(spec.golden.image) == len(spec.golden.text) == 8
    student = Student.load(out / "mmkd-tiny-one/src/mmkd_tiny_one/teacher")
    student.model.eval()
    image = np.asarray(golden_image(spec.golden.seed).resize((32, 32), Image.Resampling.BICUBIC))[None]
    with torch.no_grad():
        raw_image = student.images(student.prepare(image))[0, :8]
        raw_text = student.texts(student.tokenize([spec.golden.prompt]))[0, :8]
    assert raw_image.tolist() == pytest.approx(spec.golden.image, abs=1e-4)
    assert raw_text.tolist() == pytest.approx(spec.golden.text, abs=1e-5)


def test_a_loaded_teacher_embeds_as_the_student_does(exported, pixels):
    out, spec, _ = exported
    folder = out / "mmkd-tiny-one/src/mmkd_tiny_one/teacher"
    teacher, student = load(spec, {"model": folder}, "cpu"), Student.load(folder)
    images = teacher.encode_image(torch.stack([teacher.preprocess(Image.fromarray(p)) for p in pixels]))
    texts = teacher.encode_text(teacher.tokenize(TEXTS))
    for ours, theirs in ((student.embed_images(pixels), images), (student.embed_texts(TEXTS), texts)):
        np.testing.assert_allclose(ours, torch.nn.functional.normalize(theirs, dim=-1).numpy(), atol=1e-5)
    again = measure_golden(teacher, spec.golden.seed, spec.golden.prompt)
    assert again == spec.golden


def test_a_teacher_of_many_domains_has_a_summary_that_fits(built, tmp_path):
    domains = (
        "ct",
        "dermatology",
        "endoscopy",
        "fundus",
        "microscopy",
        "mri",
        "oct",
        "pathology",
        "ultrasound",
        "xray",
    )
    spec = write_teacher(
        built, tmp_path, "all", domains=domains, trust={}, location="mmkd_all:teacher", training_data="all"
    )
    assert spec.summary == "Small CLIP for 10 domains, trained by mmkd pretrain"
    assert spec.domains == domains


def test_a_folder_with_other_files_is_refused(built, tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(ReleaseError, match=r"^the folder is not empty \(.*\)\. Choose another folder\.?$"):
        export_folder(built, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]


@pytest.fixture(scope="module")
def transformer():
    config = StudentConfig(vision="vit-tiny", image_size=32, embed_dim=24, resize="shortest", text=TextConfig(layers=2))
    return Student.build(config, TEXTS, 3)


@pytest.mark.slow
@pytest.mark.parametrize("form", ["open-clip", "transformers", "onnx"])
def test_a_fresh_process_loads_the_folder_and_says_the_same(form, transformer, tmp_path):
    parity = export_folder(transformer, tmp_path / "out", form, "# A card\n")
    assert parity.cosine > CLOSE
    assert (tmp_path / "out" / "README.md").read_text() == "# A card\n"
    assert not [path for path in (tmp_path / "out").iterdir() if path.suffix in (".bin", ".pt", ".pkl")]
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("form", "head"), [("open-clip", "mlp"), ("onnx", "mlp"), ("transformers", "linear"), ("open-clip", "linear")]
)
def test_a_student_with_a_bert_leaves_too(form, head, tmp_path):
    """open_clip asks for the configuration of a BERT by name; the name is the folder's own."""
    text = TextConfig(tower="bert", layers=1, width=32, heads=2, head=head)
    shape = {"vision": "vit-tiny", "image_size": 32, "embed_dim": 24, "resize": "shortest"}
    student = Student.build(StudentConfig(text=text, **shape), TEXTS, 3)
    assert export_folder(student, tmp_path / "out", form).cosine > CLOSE
    facts = json.loads((tmp_path / "out" / "mmkd.json").read_text())
    assert (facts["schema"], facts["form"]) == ("mmkd.export/v1", form)
    assert facts["parity"]["cosine"] > CLOSE


@pytest.mark.slow
def test_an_export_that_says_something_else_gets_no_name(transformer, tmp_path, monkeypatch):
    def wrong(student: Student, folder: Path) -> None:
        student.save(folder)
        config = json.loads((folder / "open_clip_config.json").read_text())
        config["model_cfg"]["quick_gelu"] = True  # loads without a complaint
        (folder / "open_clip_config.json").write_text(json.dumps(config))

    monkeypatch.setitem(WRITERS, "open-clip", (wrong, OPEN_CLIP))
    with pytest.raises(ReleaseError, match="the export gives other embeddings"):
        export_folder(transformer, tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("name", "change", "says"),
    [
        ("tokens", lambda x: x + 1, "other tokens"),
        ("pixels", lambda x: x + 1e-3, "other pixels"),
        ("image", lambda x: -x, "other embeddings"),
        ("text", lambda x: x + 1e-4, "other embeddings"),
        ("alone", lambda x: x[:, ::-1], "other embeddings"),
        ("scale", lambda x: x * 1.001, "other embeddings"),
    ],
)
def test_every_difference_is_found(name, change, says, transformer):
    images = parity._images(exact=True)
    squares = np.stack([np.asarray(to_square(image, transformer.pixels, "shortest")) for image in images])
    found = {
        "tokens": transformer.tokenize(parity.TEXTS).numpy(),
        "pixels": transformer.prepare(squares).numpy(),
        "image": transformer.embed_images(squares),
        "text": transformer.embed_texts(parity.TEXTS),
        "alone": transformer.embed_images(squares[:1]),
        "scale": transformer.logit_scale,
    }
    assert parity._compared(transformer, squares, found, exact=True).cosine > CLOSE
    with pytest.raises(ReleaseError, match=says):
        parity._compared(transformer, squares, {**found, name: change(found[name])}, exact=True)


def test_what_transformers_has_no_model_for_is_refused(tmp_path):
    convolution = Student.build(StudentConfig(image_size=32, embed_dim=24), TEXTS, 3)
    with pytest.raises(ReleaseError, match="has no model like this student: its models want a vision transformer"):
        write_transformers(convolution, tmp_path)
    text = TextConfig(tower="bert", layers=1, width=32, heads=2)
    bert = Student.build(StudentConfig(vision="vit-tiny", image_size=32, embed_dim=24, text=text), TEXTS, 3)
    with pytest.raises(ReleaseError, match=r"VisionTextDualEncoder reads a BERT through its pooler.*head: linear"):
        write_transformers(bert, tmp_path)
    student = Student.build(StudentConfig(vision="vit-tiny", image_size=32, embed_dim=24), TEXTS, 3)
    student.model_config["text_cfg"]["eos_id"] = 2
    with pytest.raises(ReleaseError, match="the end of a text has id 2"):
        write_transformers(student, tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_the_readme_of_a_teacher_names_its_licence_and_where_it_comes_from(built, tmp_path):
    bound = LicenseInfo(code="MIT", weights="CC-BY-NC-4.0", commercial_use=False)
    export_teacher(built, tmp_path, "bound", {"quilt": bound}, license=bound, **FACTS)
    text = (tmp_path / "mmkd-bound" / "README.md").read_text()
    assert "The weights are under CC-BY-NC-4.0. It does not allow commercial use." in text
    assert "| quilt | CC-BY-NC-4.0 (no commercial use) |" in text
    assert "    mmkd teachers add bound\n" in text


def test_the_wheel_is_compressed_and_readable_by_all(exported):
    _, _, wheel = exported
    with zipfile.ZipFile(wheel) as archive:
        entries = archive.infolist()
    assert {entry.compress_type for entry in entries} == {zipfile.ZIP_DEFLATED}
    assert {oct(entry.external_attr >> 16) for entry in entries} == {"0o100644"}
    weights = next(entry for entry in entries if entry.filename.endswith(".safetensors"))
    assert weights.compress_size < weights.file_size
