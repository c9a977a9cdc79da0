from __future__ import annotations

from pathlib import Path

import pytest

from mmkd_core.errors import PluginError
from mmkd_core.plugins.packages import read_package

DATA = Path(__file__).parents[2] / "data" / "plugins"


def test_a_folder(tmp_path):
    package = read_package(DATA / "good")
    assert (package.name, package.target, package.requires) == ("mmkd-good", str(DATA / "good"), ())


def test_a_wheel(wheel):
    file = wheel("good", requires=("numpy>=1", "torch"))
    package = read_package(file)
    assert (package.name, package.target, package.requires) == ("mmkd-good", str(file), ("numpy>=1", "torch"))


def test_another_api_stops_before_installation(wheel):
    for target in (wheel("api_v2"), DATA / "api_v2"):
        with pytest.raises(PluginError, match=r"package mmkd-api-v2 is written for mmkd.v2, this mmkd has mmkd.v1"):
            read_package(target)


def test_what_is_no_plugin(tmp_path):
    with pytest.raises(PluginError, match=r"this folder has no pyproject.toml"):
        read_package(tmp_path)
    (tmp_path / "pyproject.toml").write_text("[project]\nname = 'x'\n")
    with pytest.raises(PluginError, match=r"package x offers no teacher: it has no entry point in the group mmkd.v1"):
        read_package(tmp_path)
    (tmp_path / "pyproject.toml").write_text("[project")
    with pytest.raises(PluginError, match=r"pyproject.toml cannot be read"):
        read_package(tmp_path)
    (tmp_path / "x.whl").write_text("no zip")
    with pytest.raises(PluginError, match="this is no wheel file that can be read"):
        read_package(tmp_path / "x.whl")
