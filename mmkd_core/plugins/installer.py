"""Installs and removes packages in this environment. The only module that runs pip or uv.

A constraints file pins the installed mmkd and torch, so that a plugin can never up- or downgrade them: an impossible
plugin fails here, with the resolver's own words, and changes nothing.

Does not: choose what to install (``lifecycle``), or notice what was installed: that takes a fresh interpreter, because
the running one does not read new ``.pth`` files.
"""

from __future__ import annotations

import functools
import importlib.metadata
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from mmkd_core.errors import PluginError
from mmkd_core.plugins import versions
from mmkd_core.plugins.names import canonical

PINNED = ("mmkd", "torch")
TIME_LIMIT_S = 1800


@dataclass(frozen=True)
class Tool:
    """An installer: how its two commands begin for this interpreter."""

    install: tuple[str, ...]
    uninstall: tuple[str, ...]


def install(target: str, requires: Sequence[str] | None = None) -> None:
    """Install a requirement, a wheel file or a folder into this environment.

    Args:
        target: what pip would take.
        requires: the target's own requirements, if they are known; when all of them are surely met, nothing is
            resolved and no index is needed.

    Raises:
        PluginError: there is no installer, or it failed; its output is in the message.
    """
    with tempfile.TemporaryDirectory(prefix="mmkd-install-") as folder:
        constraints = Path(folder, "constraints.txt")
        constraints.write_text("".join(f"{pin}\n" for pin in pins()), encoding="utf-8")
        _run([*install_command(target, requires), "--constraint", str(constraints)], f"installing {target}")


def install_command(target: str, requires: Sequence[str] | None = None) -> list[str]:
    """The command that ``install`` runs, without its constraints."""
    met = requires is not None and all(versions.installed(requirement) for requirement in requires)
    return [*_tool().install, *(["--no-deps"] if met else []), target]


def uninstall(package: str) -> None:
    """Remove a package.

    Raises:
        PluginError: it is not installed, mmkd or torch is meant, or the installer failed.
    """
    if canonical(package) in PINNED:
        raise PluginError(f"package {package} is not removed: mmkd needs it")
    try:
        importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        raise PluginError(f"package {package} is not installed") from None
    _run([*_tool().uninstall, package], f"removing {package}")


def pins() -> list[str]:
    """``name==version`` for the packages that a plugin must not change, as far as they are installed."""
    found = []
    for name in PINNED:
        try:
            found.append(f"{name}=={importlib.metadata.version(name)}")
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


@functools.cache
def _tool() -> Tool:
    """uv if it is there and starts, else this interpreter's pip."""
    python = sys.executable
    uv = shutil.which("uv")
    if uv is not None and _starts([uv, "--version"]):
        return Tool((uv, "pip", "install", "--python", python), (uv, "pip", "uninstall", "--python", python))
    if _starts([python, "-m", "pip", "--version"]):
        quiet = ("--disable-pip-version-check", "--no-input")
        return Tool((python, "-m", "pip", "install", *quiet), (python, "-m", "pip", "uninstall", "--yes", *quiet))
    raise PluginError(
        "there is neither uv nor pip to install with",
        where=python,
        next=f"Install uv, or run `{python} -m ensurepip`",
    )


def _starts(command: list[str]) -> bool:
    try:
        return subprocess.run(command, capture_output=True, timeout=60, check=False).returncode == 0
    except (OSError, subprocess.TimeoutExpired):
        return False


def _run(command: list[str], doing: str) -> None:
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, errors="replace", timeout=TIME_LIMIT_S, check=False
        )
    except subprocess.TimeoutExpired as error:
        raise PluginError(f"{doing} took more than {TIME_LIMIT_S} s and was stopped") from error
    if done.returncode != 0:
        shown = " ".join(part for part in command if part != "--constraint" and not part.endswith("constraints.txt"))
        raise PluginError(
            f"{doing} failed:\n{(done.stdout + done.stderr).strip()[-4000:]}\n",
            next=f"The command was `{shown}`",
        )
