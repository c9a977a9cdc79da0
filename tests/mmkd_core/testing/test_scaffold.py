from __future__ import annotations

import importlib
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from mmkd_core.cli import app
from mmkd_core.errors import PluginError
from mmkd_core.plugins import PluginHost
from mmkd_core.plugins.conformance import Subject, run_all
from mmkd_core.plugins.packages import read_package
from mmkd_core.testing.scaffold import LICENSES, new_plugin
from mmkd_core.testing.tiny import write_tiny_weights

FAMILIES = {"open_clip": "open_clip_model.safetensors", "transformers": "model.safetensors"}


@pytest.fixture(params=FAMILIES)
def rendered(request, tmp_path, monkeypatch):
    family = request.param
    name = f"my-{family.replace('_', '-')}"
    root = new_plugin(name, tmp_path / "out", family=family)
    monkeypatch.syspath_prepend(str(root / "src"))
    return family, name, root, importlib.import_module(f"mmkd_{name.replace('-', '_')}")


def test_the_package_is_complete_and_its_declaration_short(rendered):
    family, name, root, module = rendered
    package = module.__name__
    files = sorted(path.relative_to(root).as_posix() for path in root.rglob("*") if path.is_file())
    shown = [file for file in files if "__pycache__" not in file and "/weights/" not in file]
    assert shown == [
        "LICENSE",
        "README.md",
        "pyproject.toml",
        f"src/{package}/__init__.py",
        "tests/test_conformance.py",
    ]
    assert f"src/{package}/weights/{FAMILIES[family]}" in files
    assert len(Path(module.__file__).read_text().splitlines()) <= 30
    for file in shown:
        text = (root / file).read_text()
        assert "${" not in text
        assert "tmpl" not in text
    assert "tiny random weights" in (root / "README.md").read_text()
    assert read_package(root).name == f"mmkd-{name}"
    assert "Apache License" in (root / "LICENSE").read_text()


def test_every_check_runs_and_passes(rendered):
    family, name, _, module = rendered
    host = PluginHost.offering({name: module})
    (spec,) = host.specs()
    assert (spec.name, spec.family) == (name, family)
    found = list(run_all(Subject(spec, lambda: host.load(spec)), "full"))
    assert [(o.name, o.reason) for o in found if o.status == "failed"] == []
    assert {o.name for o in found if o.status == "skipped"} == {
        "trust", "golden-tokens", "golden-pixels", "golden-image", "golden-text",
    }  # fmt: skip


@pytest.mark.parametrize("family", FAMILIES)
def test_tiny_weights_come_from_their_seed(tmp_path, family):
    write_tiny_weights(family, tmp_path / "a")
    names = write_tiny_weights(family, tmp_path / "b")
    write_tiny_weights(family, tmp_path / "c", seed=1)
    assert FAMILIES[family] in names
    for name in names:
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()
    assert (tmp_path / "a" / FAMILIES[family]).read_bytes() != (tmp_path / "c" / FAMILIES[family]).read_bytes()


@pytest.mark.slow
def test_it_passes_its_own_tests_at_once(rendered):
    _, _, root, _ = rendered
    environ = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    command = [sys.executable, "-m", "pytest", "-W", "error", "-p", "no:cacheprovider"]
    done = subprocess.run(command, cwd=root, env=environ, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout
    assert re.search(r"2[34] passed, [56] skipped in", done.stdout)  # what does not apply depends on the machine


@pytest.mark.parametrize("license", LICENSES)
def test_the_command_shows_what_to_fill_in(tmp_path, monkeypatch, license):
    monkeypatch.chdir(tmp_path)
    done = CliRunner().invoke(app, ["teachers", "new", "my-eye", "--license", license])
    assert done.exit_code == 0, done.stderr
    module = Path("mmkd-my-eye/src/mmkd_my_eye/__init__.py")
    assert module.exists()
    assert f'license = "{license}"' in Path("mmkd-my-eye/pyproject.toml").read_text()
    lines = done.stdout.splitlines()
    assert lines[0] == f"to fill in, in {module}:"
    assert any('title="My Eye",  # CHANGE' in line for line in lines)
    assert lines[-2:] == ["wrote: mmkd-my-eye", "next: cd mmkd-my-eye && pytest"]
    assert [path.name for path in tmp_path.iterdir()] == ["mmkd-my-eye"]


def test_a_name_that_the_registry_has_is_taken(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    refused = CliRunner().invoke(app, ["teachers", "new", "quilt-net"])
    assert refused.exit_code == 2
    assert "the registry has a teacher called 'quilt-net' already, in package mmkd-quilt-net" in refused.stderr
    assert list(tmp_path.iterdir()) == []


def test_nothing_is_written_over_and_names_are_checked(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "x").touch()
    with pytest.raises(PluginError, match=r"the folder is not empty \(full\). Choose another folder"):
        new_plugin("my-clip", Path("full"))
    with pytest.raises(PluginError, match=r"'My_Clip' cannot be the name of a teacher. Use small letters, digits and"):
        new_plugin("My_Clip")
    with pytest.raises(PluginError, match="family 'timm' is none of open_clip, transformers"):
        new_plugin("my-clip", family="timm")
    with pytest.raises(PluginError, match=r"licence 'GPL' is none of Apache-2.0, MIT"):
        new_plugin("my-clip", license="GPL")
    assert [path.name for path in tmp_path.iterdir()] == ["full"]
    (tmp_path / "empty").mkdir()
    facts = CliRunner().invoke(app, ["teachers", "new", "my-clip", "empty", "--json"]).stdout
    assert json.loads(facts)["module"] == "empty/src/mmkd_my_clip/__init__.py"
