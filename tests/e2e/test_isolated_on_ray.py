"""`mmkd extract --engine ray` with a teacher in an environment of its own: each actor starts its worker there."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import venv
from pathlib import Path

import numpy as np
import pytest

from feature_store import FeatureStore
from tests.e2e.test_bad_input import write_dist_info
from tests.mmkd_core.plugins.test_isolation import WORKER

pytest.importorskip("ray")
pytestmark = pytest.mark.slow

PLUGIN = """
import versioned_lib
from mmkd_core.contract import ImageSpec, Isolation, LicenseInfo, TeacherSpec, TextSpec, WeightSource, hookimpl

assert versioned_lib.VERSION == 1.0  # what mmkd's own environment has

@hookimpl
def mmkd_teachers():
    return [TeacherSpec(
        name="apart", title="Apart", summary="Pins another version of a library", family="apart",
        weights=(WeightSource(role="model", kind="path", location="FOLDER", files={"scale.txt": "DIGEST"}),),
        image=ImageSpec(size=2, mean=(0, 0, 0), std=(1, 1, 1)), text=TextSpec(tokenizer="hf", context_length=4),
        embed_dim=3, logit_scale=10, domains=("ct",), runtime="isolated",
        license=LicenseInfo(code="MIT", weights="MIT", commercial_use=True),
        isolation=Isolation(worker="mmkd_apart.worker:load", requires=("versioned-lib==2.0",)))]
"""


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    folder = tmp_path / "weights"
    folder.mkdir()
    (folder / "scale.txt").write_text("2.0")
    return folder


@pytest.fixture
def site(tmp_path: Path, weights: Path) -> Path:
    """The plugin as installed beside mmkd, where the library has version 1."""
    folder = tmp_path / "site"
    (folder / "mmkd_apart").mkdir(parents=True)
    text = PLUGIN.replace("FOLDER", str(weights)).replace("DIGEST", hashlib.sha256(b"2.0").hexdigest())
    (folder / "mmkd_apart" / "__init__.py").write_text(text)
    (folder / "mmkd_apart" / "worker.py").write_text(WORKER)
    (folder / "versioned_lib.py").write_text("VERSION = 1.0\n")
    write_dist_info(folder, "mmkd-apart", "[mmkd.v1]\napart = mmkd_apart\n")
    return folder


@pytest.fixture
def python(tmp_path: Path) -> Path:
    """An environment that holds version 2 of the library, and nothing else."""
    venv.create(tmp_path / "env", with_pip=False, symlinks=True)
    site = next((tmp_path / "env" / "lib").glob("python*")) / "site-packages"
    (site / "versioned_lib.py").write_text("VERSION = 2.0\n")
    return tmp_path / "env" / "bin" / "python"


def features(ws: Path) -> dict[str, np.ndarray]:
    with FeatureStore.open(ws / ".mmkd" / "features") as store:
        assert store.verify() == []
        return {t.tower: store.gather(t.table, t.tower, range(t.rows)) for t in store.tables()}


def test_an_isolated_teacher_answers_on_ray_as_it_does_here(
    site: Path, weights: Path, python: Path, tmp_path: Path
) -> None:
    paths = os.pathsep.join([str(site), *(entry for entry in sys.path if entry)])

    def mmkd(*arguments: object, root: Path) -> str:
        command = [sys.executable, "-m", "mmkd_core", *map(str, arguments), "-w", str(root)]
        done = subprocess.run(
            command, env={**os.environ, "PYTHONPATH": paths}, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    here, there = tmp_path / "here", tmp_path / "there"
    mmkd("init", root=here)
    mmkd("data", "phantom", "--train", 4, "--val", 2, "--test", 2, "--domains", "xray,ct", root=here)
    mmkd("teachers", "add", "apart", "--yes", "--python", python, root=here)
    shutil.copytree(here, there)
    mmkd("extract", root=here)
    (weights / "misbehave").write_text("crash 1")  # the first worker dies at its first batch of images
    mmkd("extract", "--engine", "ray", root=there)
    assert not (weights / "misbehave").exists()
    expected, found = features(here), features(there)
    assert (expected["image"][:, 2] == 2.0).all()  # the library of the worker's own environment
    assert found.keys() == expected.keys()
    assert all(np.array_equal(found[tower], array) for tower, array in expected.items())
    assert "nothing was missing" in mmkd("extract", "--engine", "ray", root=there)
