"""The environments of isolated teachers: ``.mmkd/runtimes/NAME`` beside the lock, or an interpreter of the user's.

Does not: start workers (``isolation``).
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path

from mmkd_core.errors import PluginError
from mmkd_core.plugins import installer
from mmkd_core.plugins.lock import STATE, LockedRuntime

_NOTE = "mmkd-runtime.json"


def interpreter(root: Path, name: str, runtime: LockedRuntime) -> Path:
    """The Python of a teacher's environment.

    Args:
        root: folder of the lock.

    Raises:
        PluginError: it is not there.
    """
    python = Path(runtime.python) if runtime.python else _folder(root, name) / "bin" / "python"
    if not python.exists():
        raise PluginError(
            f"the environment of teacher {name} is not there", where=str(python), next="Run `mmkd teachers sync`"
        )
    return python


def log_of(root: Path, name: str) -> Path:
    """Where its worker's output is kept."""
    return root / STATE / "logs" / f"{name}.log"


def is_ready(root: Path, name: str, runtime: LockedRuntime) -> bool:
    """Whether the environment is there and has what the lock says."""
    if runtime.python:
        return Path(runtime.python).exists()
    try:
        note = json.loads((_folder(root, name) / _NOTE).read_text())
    except (OSError, ValueError):
        return False
    return bool(note == _note(runtime)) and (_folder(root, name) / "bin" / "python").exists()


def prepare(root: Path, name: str, runtime: LockedRuntime, wheels: Sequence[Path] = ()) -> bool:
    """Make the environment if it is not ready; returns whether it was made.

    Args:
        wheels: of a pack; then exactly these are installed and no index is needed.

    Raises:
        PluginError: it cannot be made, or the given interpreter cannot run a worker.
    """
    if runtime.python:
        installer.require_interpreter(Path(runtime.python))
        return False
    if is_ready(root, name, runtime):
        return False
    folder = _folder(root, name)
    installer.make_environment(folder, runtime.requires, wheels)
    (folder / _NOTE).write_text(json.dumps(_note(runtime)) + "\n")
    return True


def discard(root: Path, name: str) -> None:
    """Remove an environment that mmkd made; it can be made again."""
    shutil.rmtree(_folder(root, name), ignore_errors=True)


def site_of(root: Path, name: str) -> Path:
    """Where the packages of an environment that mmkd made lie."""
    return next((_folder(root, name) / "lib").glob("python*/site-packages"))


def _folder(root: Path, name: str) -> Path:
    return root / STATE / "runtimes" / name


def _note(runtime: LockedRuntime) -> dict[str, object]:
    return {"requires": list(runtime.requires)}
