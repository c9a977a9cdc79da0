"""What a wheel file or a plugin folder says about itself before it is installed. Runs none of its code."""

from __future__ import annotations

import configparser
import tomllib
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from email.parser import Parser
from pathlib import Path
from typing import Any

from mmkd_core.contract import ENTRY_POINT_GROUP
from mmkd_core.errors import PluginError

_PREFIX = "mmkd.v"


@dataclass(frozen=True)
class Package:
    """A distribution that is not installed yet.

    Args:
        name: the distribution.
        target: what the installer is given.
        requires: its requirements; None if they are not known before it is built or fetched.
        folder: what it is built from, if that lies on this machine.
    """

    name: str
    target: str
    requires: tuple[str, ...] | None
    folder: Path | None = None


def read_package(path: Path) -> Package:
    """Read a wheel file or a folder with a pyproject.toml.

    Raises:
        PluginError: it is neither, is damaged, or offers no plugin for this plugin API.
    """
    package, groups = _read_wheel(path) if path.suffix == ".whl" else _read_folder(path)
    others = sorted(group for group in groups if group.startswith(_PREFIX))
    if ENTRY_POINT_GROUP not in groups and others:
        raise PluginError(
            f"package {package.name} is written for {', '.join(others)}, this mmkd has {ENTRY_POINT_GROUP}",
            where=str(path),
            next="Get a version of the plugin for this mmkd",
        )
    if ENTRY_POINT_GROUP not in groups:
        raise PluginError(
            f"package {package.name} offers no teacher: it has no entry point in the group {ENTRY_POINT_GROUP}",
            where=str(path),
        )
    return package


def _read_wheel(path: Path) -> tuple[Package, Mapping[str, Any]]:
    try:
        with zipfile.ZipFile(path) as wheel:
            files = {name.rpartition("/")[2]: name for name in wheel.namelist() if ".dist-info/" in name}
            metadata = Parser().parsestr(wheel.read(files["METADATA"]).decode("utf-8"), headersonly=True)
            points = wheel.read(files["entry_points.txt"]).decode("utf-8") if "entry_points.txt" in files else ""
        groups = configparser.ConfigParser(delimiters=("=",), interpolation=None)
        groups.read_string(points)
        name = metadata["Name"].strip()
    # zipfile raises most things on bytes that are no zip, and a wheel may come from anywhere
    except (MemoryError, KeyboardInterrupt):
        raise
    except Exception as error:
        raise PluginError("this is no wheel file that can be read", where=str(path)) from error
    requires = tuple(metadata.get_all("Requires-Dist") or ())
    return Package(name, str(path.resolve()), requires), groups


def _read_folder(path: Path) -> tuple[Package, Mapping[str, Any]]:
    file = path / "pyproject.toml"
    try:
        project = tomllib.loads(file.read_text(encoding="utf-8")).get("project", {})
    except FileNotFoundError:
        raise PluginError("this folder has no pyproject.toml", where=str(path)) from None
    except (OSError, tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise PluginError(f"pyproject.toml cannot be read: {error}", where=str(file)) from error
    if "name" not in project:
        raise PluginError("pyproject.toml names no project", where=str(file))
    stated = None if "dependencies" in project.get("dynamic", ()) else tuple(project.get("dependencies", ()))
    return Package(project["name"], str(path.resolve()), stated, path), project.get("entry-points", {})
