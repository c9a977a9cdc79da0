"""A student leaves: as a folder for another library, or as a teacher plugin that anybody can add.

A teacher plugin is a wheel and its source: one package with ``teacher.json`` (the spec) and the open_clip folder of
the weights. The wheel is written here and not by a build tool, so that it can be made and installed without a network.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch

from mmkd_core import __version__
from mmkd_core.contract import (
    ImageSpec,
    LicenseInfo,
    Provenance,
    TeacherSpec,
    TextSpec,
    TrustClaim,
    WeightSource,
    measure_golden,
)
from mmkd_core.errors import ReleaseError
from mmkd_core.files import sha256_of
from mmkd_core.plugins.wheels import write_wheel
from mmkd_core.student import forms
from mmkd_core.student.card import model_card
from mmkd_core.student.formats import write_onnx, write_transformers
from mmkd_core.student.model import Student
from mmkd_core.student.parity import ONNX, OPEN_CLIP, TRANSFORMERS, Parity, check

SCHEMA, FACTS, SUMS = "mmkd.export/v1", "mmkd.json", "SHA256SUMS"
BASE_VERSION = "0.1.0"
OWN_LICENSE = LicenseInfo(code="Apache-2.0", weights="Apache-2.0", commercial_use=True)
MODULE = '''"""The teacher {name}, exported by `mmkd export teacher`."""

from pathlib import Path

from mmkd_core.contract import TeacherSpec, hookimpl


@hookimpl
def mmkd_teachers() -> list[TeacherSpec]:
    """Declare the teacher whose spec lies beside this file."""
    return [TeacherSpec.model_validate_json((Path(__file__).parent / "teacher" / "teacher.json").read_text())]
'''
PYPROJECT = """[build-system]
requires = ["hatchling"]
build-backend = "hatchling.build"

[project]
name = "mmkd-{name}"
version = "{version}"
description = "{summary}"
requires-python = ">=3.11"
license = "{license}"
dependencies = ["mmkd"]

[project.entry-points."mmkd.v1"]
{name} = "{package}"

[tool.hatch.build.targets.wheel]
packages = ["src/{package}"]
"""


def export_folder(
    student: Student,
    folder: Path,
    form: str = forms.OPEN_CLIP.name,
    card: str = "",
    facts: Mapping[str, Any] | None = None,
) -> Parity:
    """Write the student for another library. The folder gets its name only when it was loaded and says the same.

    Args:
        form: a name among ``forms.FORMS``.
        card: the text of its README (``card.model_card``); without one none is written.
        facts: what programs should know of it, such as its licences; kept in ``mmkd.json`` beside form and parity.

    Raises:
        ReleaseError: the folder is not empty, the student does not fit the form, or the export says something else.
    """
    if folder.exists() and any(folder.iterdir()):
        raise ReleaseError("the folder is not empty", where=str(folder), next="Choose another folder")
    write, script = WRITERS[form]
    folder.absolute().parent.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(dir=folder.absolute().parent, prefix=f".{folder.name}.", suffix=".tmp") as partial:
        made = Path(partial) / folder.name
        write(student, made)
        if form == forms.OPEN_CLIP.name:
            names_itself(made, str(made))
        parity = check(student, made, script)
        if form == forms.OPEN_CLIP.name:
            names_itself(made, str(folder.absolute()))
        if card:
            (made / "README.md").write_text(card, encoding="utf-8")
        whole = {"schema": SCHEMA, "mmkd": __version__, "form": form, "parity": asdict(parity), **(facts or {})}
        (made / FACTS).write_text(json.dumps(whole, indent=2, sort_keys=True) + "\n", encoding="utf-8")
        write_sums(made)
        os.replace(made, folder)  # an empty folder may be replaced
    return parity


def names_itself(folder: Path, where: str) -> None:
    """Say in an open_clip folder where it lies: open_clip reads the configuration of a BERT from there, or the hub.

    A student with a tower of open_clip's own needs no such line and may be moved.
    """
    path = folder / "open_clip_config.json"
    config = json.loads(path.read_text(encoding="utf-8"))
    if "hf_model_name" in config["model_cfg"]["text_cfg"]:
        config["model_cfg"]["text_cfg"]["hf_model_name"] = where
        path.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def write_sums(folder: Path) -> None:
    """Write ``SHA256SUMS`` over all other files of a folder, as ``sha256sum -c`` reads it."""
    sums = [f"{sha256_of(path)}  {path.name}" for path in sorted(folder.iterdir()) if path.name != SUMS]
    (folder / SUMS).write_text("\n".join(sums) + "\n", encoding="utf-8")


WRITERS: dict[str, tuple[Callable[[Student, Path], None], str]] = {
    forms.OPEN_CLIP.name: (Student.save, OPEN_CLIP),
    forms.TRANSFORMERS.name: (write_transformers, TRANSFORMERS),
    forms.ONNX.name: (write_onnx, ONNX),
}
"""By form, what writes the folder, and the script that loads it in a fresh process."""


def write_teacher(
    student: Student,
    folder: Path,
    name: str,
    *,
    domains: tuple[str, ...],
    trust: dict[str, TrustClaim],
    location: str,
    training_data: str,
    images: tuple[str, ...] = (),
    license: LicenseInfo = OWN_LICENSE,
) -> TeacherSpec:
    """Write ``folder/teacher.json`` and the weights (float16) beside it; return the spec.

    Args:
        location: ``package:folder`` by which the weights are found once installed.
        images: ids of some of the images that it was trained on.
        license: terms of the weights; a student of restricted teachers is restricted.
    """
    folder.mkdir(parents=True, exist_ok=True)
    student.save(folder, dtype=torch.float16)
    files = ["open_clip_config.json", "open_clip_model.safetensors", "tokenizer.json", "tokenizer_config.json"]
    files += ["config.json"] if (folder / "config.json").exists() else []  # of a BERT
    source = WeightSource(
        role="model",
        kind="package",
        location=location,
        files={file: sha256_of(folder / file) for file in files},
    )
    spec = TeacherSpec(
        name=name,
        title=f"{name}, a small CLIP of {student.pixels} pixels",
        summary=_summary(domains),
        family="open_clip",
        weights=(source,),
        image=ImageSpec(
            size=student.pixels,
            resize=student.preprocess["resize_mode"],
            mean=tuple(student.preprocess["mean"]),
            std=tuple(student.preprocess["std"]),
        ),
        text=TextSpec(tokenizer="hf", context_length=student.context_length),
        embed_dim=student.embed_dim,
        logit_scale=student.logit_scale,
        domains=domains,
        trust=trust,
        license=license,
        provenance=Provenance(training_data=training_data, images=images),
    )
    # The golden values come from the loader that users will have, so an export that loads differently cannot ship.
    from mmkd_core.plugins.loaders.open_clip import load

    golden = measure_golden(load(spec, {"model": folder}, "cpu"), seed=0, prompt=f"an image of {domains[0]}")
    spec = spec.model_copy(update={"golden": golden})
    text = json.dumps(spec.model_dump(mode="json"), indent=2, sort_keys=True)
    (folder / "teacher.json").write_text(text + "\n")
    return spec


def _summary(domains: tuple[str, ...]) -> str:
    """One sentence that fits into a spec, however many domains there are."""
    named = " and ".join(domains)
    return f"Small CLIP for {named if len(named) <= 80 else f'{len(domains)} domains'}, trained by mmkd pretrain"


def export_teacher(
    student: Student, out: Path, name: str, taught: Mapping[str, LicenseInfo] | None = None, **facts: Any
) -> tuple[TeacherSpec, Path]:
    """Write ``out/mmkd-NAME/`` (source, to publish) and ``out/mmkd_NAME-VERSION-py3-none-any.whl`` (to add).

    The version carries the fingerprint, so that another student under the same name replaces the installed one.

    Args:
        taught: the teachers that taught it, and their licences; for its README.
        facts: ``domains``, ``trust``, ``training_data`` and ``images`` of ``write_teacher``.
    """
    package = f"mmkd_{name.replace('-', '_')}"
    source = out / f"mmkd-{name}"
    if source.exists():
        shutil.rmtree(source)
    module = source / "src" / package
    spec = write_teacher(student, module / "teacher", name, location=f"{package}:teacher", **facts)
    (module / "__init__.py").write_text(MODULE.format(name=name))
    version = f"{BASE_VERSION}+{spec.fingerprint[:8]}"
    fields = {"name": name, "version": version, "package": package}
    text = PYPROJECT.format(summary=spec.summary, license=spec.license.weights, **fields)
    (source / "pyproject.toml").write_text(text)
    card = model_card(f"mmkd-{name}", spec.summary, spec.license, taught or {}, f"mmkd teachers add {name}")
    (source / "README.md").write_text(card, encoding="utf-8")
    wheel = out / f"{package}-{version}-py3-none-any.whl"
    _write_wheel(wheel, module, version, package, spec)
    return spec, wheel


def _write_wheel(wheel: Path, module: Path, version: str, package: str, spec: TeacherSpec) -> None:
    """The module and its metadata as a wheel."""
    info = f"{package}-{version}.dist-info"
    paths = [path for path in sorted(module.rglob("*")) if path.is_file() and "__pycache__" not in path.parts]
    files = {f"{package}/{path.relative_to(module).as_posix()}": path.read_bytes() for path in paths}
    metadata = (
        f"Metadata-Version: 2.4\nName: mmkd-{spec.name}\nVersion: {version}\nSummary: {spec.summary}\n"
        "Requires-Python: >=3.11\nRequires-Dist: mmkd\n"
    )
    files[f"{info}/METADATA"] = metadata.encode()
    files[f"{info}/WHEEL"] = b"Wheel-Version: 1.0\nGenerator: mmkd\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
    files[f"{info}/entry_points.txt"] = f"[mmkd.v1]\n{spec.name} = {package}\n".encode()
    write_wheel(wheel, files, info)
