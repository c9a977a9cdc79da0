"""Installs and removes packages, makes environments, and asks git. The only module that runs pip, uv, venv or git.

A constraints file pins mmkd, torch and all that mmkd needs to the installed versions, so that a plugin can never up- or
downgrade them: an impossible plugin fails here, with the resolver's own words, and changes nothing.

Does not: choose what to install (``sources``), or notice what was installed: that takes a fresh interpreter, because
the running one does not read new ``.pth`` files.
"""

from __future__ import annotations

import fcntl
import functools
import hashlib
import importlib
import importlib.metadata
import os
import shutil
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from mmkd_core.errors import PluginError
from mmkd_core.plugins import versions
from mmkd_core.plugins.names import canonical
from mmkd_core.plugins.scratch import scratch

PINNED = ("mmkd", "torch")
TIME_LIMIT_S = 1800


@dataclass(frozen=True)
class Tool:
    """An installer: how its commands begin for one interpreter."""

    install: tuple[str, ...]
    uninstall: tuple[str, ...]
    wheel: tuple[str, ...]
    """Builds one wheel; the folder it goes to is the next argument."""


def install(
    target: str, requires: Sequence[str] | None = None, wheels: Path | None = None, source: Path | None = None
) -> None:
    """Install a requirement, a wheel file or a folder into this environment.

    Args:
        target: what pip would take.
        requires: the target's own requirements, if they are known; when all of them are surely met, nothing is
            resolved and no index is needed.
        wheels: a folder; then nothing else is looked at, no index either.
        source: the folder that it will be built from, if that is known; by default ``target``.

    Raises:
        PluginError: there is no installer, or it failed; its output is in the message.
    """
    with scratch("mmkd-install-") as folder:
        constraints = folder / "constraints.txt"
        constraints.write_text("".join(f"{pin}\n" for pin in pins()), encoding="utf-8")
        command = install_command(target, requires, source)
        command += [*_only(wheels), "--constraint", str(constraints)]
        _run(command, f"installing {target}")
    importlib.invalidate_caches()


def install_command(target: str, requires: Sequence[str] | None = None, source: Path | None = None) -> list[str]:
    """The command that ``install`` runs, without its constraints."""
    met = requires is not None and all(versions.installed(requirement) for requirement in requires)
    return [*_tool().install, *(["--no-deps"] if met else []), *_isolation(source or Path(target)), target]


def restore(package: str, target: str, *, index: bool) -> None:
    """Put a version back as it was, in the place of whatever is there, without its requirements."""
    _run([*_tool().uninstall, package], f"removing {package}")
    _run([*_tool().install, "--no-deps", *([] if index else ["--no-index"]), target], f"putting {target} back")


def uninstall(package: str) -> None:
    """Remove a package.

    Raises:
        PluginError: it is not installed, mmkd needs it, or the installer failed.
    """
    if canonical(package) in {canonical(pin.partition("==")[0]) for pin in pins()}:
        raise PluginError(f"package {package} is not removed: mmkd needs it")
    try:
        importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        raise PluginError(f"package {package} is not installed") from None
    _run([*_tool().uninstall, package], f"removing {package}")
    importlib.invalidate_caches()


def build(folder: Path, out: Path) -> Path:
    """Build the wheel of a package's folder into the empty folder ``out``; its dependencies are not looked at."""
    _run([*_tool().wheel, str(out), *_isolation(folder), str(folder)], f"building {folder}")
    return next(out.glob("*.whl"))


def make_environment(folder: Path, requires: Sequence[str], wheels: Sequence[Path] = ()) -> Path:
    """Make a virtual environment with ``requires`` in it and nothing of this one; returns its interpreter.

    Args:
        wheels: if there are any, exactly these are installed, and no index is asked.

    Raises:
        PluginError: it cannot be made, or what is required cannot be installed; then no folder is left.
    """
    python = folder / "bin" / "python"
    wanted = ["--no-index", "--no-deps", *map(str, wheels)] if wheels else list(requires)
    try:
        _run([sys.executable, "-m", "venv", "--without-pip", "--clear", str(folder)], f"making {folder}")
        if wanted:
            _run([*_tool(str(python)).install, *wanted], f"installing {', '.join(requires)} into {folder}")
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise
    return python


def require_interpreter(python: Path) -> None:
    """Raises PluginError unless ``python`` runs Python 3.8 or newer, which a worker needs."""
    code = "import sys; sys.exit(sys.version_info < (3, 8))"
    if not _starts([str(python), "-I", "-c", code]):
        raise PluginError(
            "this is no interpreter of Python 3.8 or newer", where=str(python), next="Give another one to --python"
        )


def checkout(url: str, ref: str, folder: Path) -> str:
    """Fetch a repository into ``folder`` and go to ``ref`` (empty: its default branch); returns the commit.

    Raises:
        PluginError: git is missing, or does not find the repository or the reference.
    """
    if shutil.which("git") is None:
        raise PluginError("git is not installed", where=url, next="Install git, or give a wheel file")
    for word in (url, ref):
        if word.startswith("-"):
            raise PluginError(f"{word!r} is no address and no reference of a repository")
    _run(["git", "clone", "--quiet", "--no-checkout", url, str(folder)], f"fetching {url}")
    at = ["git", "-C", str(folder)]
    for name in (f"origin/{ref}", ref) if ref else ("HEAD",):
        found = subprocess.run([*at, "rev-parse", "--verify", "--quiet", f"{name}^{{commit}}"], capture_output=True)
        if found.returncode == 0:
            commit = found.stdout.decode().strip()
            _run([*at, "checkout", "--quiet", "--detach", commit], f"checking out {commit}")
            return commit
    raise PluginError(f"the repository has no commit, tag or branch {ref!r}", where=url)


@contextmanager
def alone() -> Iterator[None]:
    """Hold this environment: of two processes that change its packages the second one waits."""
    name = hashlib.sha256(os.path.realpath(sys.prefix).encode()).hexdigest()[:16]
    with open(Path(tempfile.gettempdir(), f"mmkd-{os.getuid()}-{name}.guard"), "a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def pins() -> list[str]:
    """``name==version`` for the packages that a plugin must not change: mmkd, torch, and what they need."""
    known = [name for name in PINNED if versions.installed(name)]
    found, _ = versions.closure(known)
    return sorted(f"{distribution.name}=={distribution.version}" for distribution in found.values())


def _only(wheels: Path | None) -> list[str]:
    return [] if wheels is None else ["--no-index", "--find-links", str(wheels)]


def _isolation(folder: Path) -> list[str]:
    """A folder whose build tools are all installed is built with them, so that no index is needed."""
    try:
        project = tomllib.loads((folder / "pyproject.toml").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return []
    tools = project.get("build-system", {}).get("requires", ["setuptools"])
    return ["--no-build-isolation"] if tools and all(map(versions.installed, tools)) else []


@functools.cache
def _tool(python: str = sys.executable) -> Tool:
    """uv if it is there and starts, else this interpreter's pip, which can serve other environments as well."""
    uv = shutil.which("uv")
    if uv is not None and _starts([uv, "--version"]):
        at = ("--python", python)
        return Tool((uv, "pip", "install", *at), (uv, "pip", "uninstall", *at), (uv, "build", *at, "--wheel", "-o"))
    if _starts([sys.executable, "-m", "pip", "--version"]):
        pip = (sys.executable, "-m", "pip", *(() if python == sys.executable else ("--python", python)))
        quiet = ("--disable-pip-version-check", "--no-input")
        wheel = (*pip, "wheel", *quiet, "--no-deps", "--wheel-dir")
        return Tool((*pip, "install", *quiet), (*pip, "uninstall", "--yes", *quiet), wheel)
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
    environ = {**os.environ, "GIT_TERMINAL_PROMPT": "0"}  # git must fail and not wait for a password
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, errors="replace", timeout=TIME_LIMIT_S, check=False, env=environ
        )
    except subprocess.TimeoutExpired as error:
        raise PluginError(f"{doing} took more than {TIME_LIMIT_S} s and was stopped") from error
    if done.returncode != 0:
        shown = " ".join(part for part in command if part != "--constraint" and not part.endswith("constraints.txt"))
        raise PluginError(
            f"{doing} failed:\n{(done.stdout + done.stderr).strip()[-4000:].rstrip('.')}",
            next=f"The command was `{shown}`",
        )
