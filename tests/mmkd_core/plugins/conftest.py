"""Plugins from tests/data/plugins, offered as if they were installed."""

from __future__ import annotations

import base64
import hashlib
import importlib.metadata
import os
import sys
import tomllib
import zipfile
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest

DATA = Path(__file__).parents[2] / "data" / "plugins"
INSTALLED_HERE = tuple(sys.path)


@pytest.fixture(autouse=True)
def _no_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("MMKD_PLUGINS", "MMKD_STRICT", "MMKD_REGISTRY"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture(autouse=True)
def _nothing_else_is_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Hide plugins of this interpreter (the bundled one, those of a developer) from discovery in this process.

    Distributions are still found and read by the real code, from those entries of ``sys.path`` that a test has added.
    """
    real = importlib.metadata.distributions

    def distributions(**context: Any) -> Iterable[importlib.metadata.Distribution]:
        return real(**{"path": [entry for entry in sys.path if entry not in INSTALLED_HERE], **context})

    monkeypatch.setattr(importlib.metadata, "distributions", distributions)


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., None]]:
    """Call with folder names: their packages are importable and have metadata, here and in fresh interpreters."""
    site = tmp_path / "site"
    site.mkdir()

    def offer(*folders: str, version: str = "1.0", distribution: str = "") -> None:
        for folder in folders:
            write_dist_info(site, DATA / folder, version, distribution)
            paths = [str(site), str(DATA / folder)]
            for path in paths:
                monkeypatch.syspath_prepend(path)
            monkeypatch.setenv("PYTHONPATH", os.pathsep.join([*paths, os.environ.get("PYTHONPATH", "")]))
        importlib.invalidate_caches()

    yield offer
    for module in [name for name in sys.modules if name.startswith(("mmkd_good", "mmkd_duplicate", "mmkd_bad"))]:
        del sys.modules[module]


@pytest.fixture
def wheel(tmp_path: Path) -> Callable[..., Path]:
    """Call with a folder name: a wheel file built from it."""

    def build(folder: str, requires: tuple[str, ...] = ()) -> Path:
        return write_wheel(tmp_path, DATA / folder, requires)

    return build


def write_dist_info(site: Path, folder: Path, version: str, distribution: str) -> None:
    project = tomllib.loads((folder / "pyproject.toml").read_text())["project"]
    name = distribution or project["name"]
    info = site / f"{name.replace('-', '_')}-{version}.dist-info"
    info.mkdir(exist_ok=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
    (info / "entry_points.txt").write_text(entry_points(project))


def entry_points(project: dict) -> str:
    groups = project["entry-points"].items()
    return "".join(f"[{group}]\n" + "".join(f"{k} = {v}\n" for k, v in points.items()) for group, points in groups)


def write_wheel(target: Path, folder: Path, requires: tuple[str, ...]) -> Path:
    project = tomllib.loads((folder / "pyproject.toml").read_text())["project"]
    stem = f"{project['name'].replace('-', '_')}-{project['version']}"
    lines = [f"Requires-Dist: {requirement}\n" for requirement in requires]
    files = {str(f.relative_to(folder)): f.read_bytes() for f in folder.rglob("*") if f.is_file()}
    files = {name: data for name, data in files.items() if name.startswith("mmkd_") and "__pycache__" not in name}
    metadata = f"Metadata-Version: 2.1\nName: {project['name']}\nVersion: {project['version']}\n{''.join(lines)}"
    files[f"{stem}.dist-info/METADATA"] = metadata.encode()
    files[f"{stem}.dist-info/WHEEL"] = (
        b"Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
    )
    files[f"{stem}.dist-info/entry_points.txt"] = entry_points(project).encode()
    record = [f"{name},sha256={_digest(data)},{len(data)}\n" for name, data in files.items()]
    files[f"{stem}.dist-info/RECORD"] = "".join([*record, f"{stem}.dist-info/RECORD,,\n"]).encode()
    path = target / f"{stem}-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return path


def _digest(data: bytes) -> str:
    return base64.urlsafe_b64encode(hashlib.sha256(data).digest()).rstrip(b"=").decode()
