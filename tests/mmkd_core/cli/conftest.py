"""Plugins from tests/data/plugins as if installed, and small workspaces; no model is trained here."""

from __future__ import annotations

import os
import tomllib
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from mmkd_core.cli import app

PLUGINS = Path(__file__).parents[2] / "data" / "plugins"
Run = Callable[..., Result]


@pytest.fixture(autouse=True)
def _alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An empty folder to stand in, and no settings of the person who runs the tests."""
    monkeypatch.chdir(tmp_path)
    for name in ("MMKD_PLUGINS", "MMKD_STRICT", "MMKD_REGISTRY", "MMKD_DEBUG"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def mmkd() -> Run:
    """Call with arguments of the command line; ``stdout`` and ``stderr`` of the result are apart."""

    def run(*arguments: object) -> Result:
        return CliRunner().invoke(app, [str(argument) for argument in arguments], prog_name="mmkd")

    return run


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Call with folder names of tests/data/plugins: they can be imported and have metadata, also in subprocesses."""
    site = tmp_path / "site"
    site.mkdir()

    def offer(*folders: str) -> None:
        for folder in folders:
            project = tomllib.loads((PLUGINS / folder / "pyproject.toml").read_text())["project"]
            info = site / f"{project['name'].replace('-', '_')}-1.0.dist-info"
            info.mkdir()
            (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {project['name']}\nVersion: 1.0\n")
            groups = project["entry-points"].items()
            lines = [f"[{group}]\n" + "".join(f"{k} = {v}\n" for k, v in points.items()) for group, points in groups]
            (info / "entry_points.txt").write_text("".join(lines))
        paths = [str(site), *(str(PLUGINS / folder) for folder in folders)]
        for path in paths:
            monkeypatch.syspath_prepend(path)
        monkeypatch.setenv("PYTHONPATH", os.pathsep.join([*paths, os.environ.get("PYTHONPATH", "")]))

    return offer


@pytest.fixture
def workspace(tmp_path: Path, mmkd: Run) -> Path:
    """A workspace without data."""
    assert mmkd("init", "ws", "--name", "tiny", "--seed", 3).exit_code == 0
    return Path("ws")


@pytest.fixture
def with_data(workspace: Path, mmkd: Run) -> Path:
    """A workspace with a handful of phantom images."""
    assert mmkd("data", "phantom", "-w", workspace, "--train", 4, "--val", 2, "--test", 2).exit_code == 0
    return workspace
