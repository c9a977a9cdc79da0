"""Takes back an installation that turned out wrong: new packages are removed, a replaced one is put back.

What is put back comes from a wheel that was made of the installed package before, so it needs no network. A package
that the installer replaced on the way, as a dependency, is asked from the index again.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from mmkd_core.errors import PluginError
from mmkd_core.plugins import installer
from mmkd_core.plugins.names import canonical
from mmkd_core.plugins.wheels import repack


@contextmanager
def undone_on_failure(package: str) -> Iterator[None]:
    """Within it packages are installed, ``package`` above all; if it is left by an error, they are as before.

    Raises:
        PluginError: whatever was raised inside; what could not be taken back is added to it.
    """
    before = _packages()
    with tempfile.TemporaryDirectory(prefix="mmkd-undo-") as folder:
        backup = _backup(package, Path(folder)) if canonical(package) in before else None
        try:
            yield
        except BaseException as error:
            left = _undo(before, package, backup)
            if left and isinstance(error, PluginError):
                raise PluginError(
                    f"{error.what}; and what was installed could not be taken back: {'; '.join(left)}",
                    where=error.where,
                    next=error.next,
                ) from error
            raise


def _undo(before: dict[str, str], package: str, backup: Path | None) -> list[str]:
    """Put every package back; returns what went wrong, in words."""
    left = []
    now = _packages()
    if backup is not None and canonical(package) not in now:  # removed to make room, and nothing came
        now[canonical(package)] = before[canonical(package)]
        installer.install(str(backup), ())
    for name, version in now.items():
        if before.get(name) == version and name != canonical(package):
            continue
        try:
            if name not in before:
                installer.uninstall(name)
            elif backup is not None and name == canonical(package):
                installer.restore(name, str(backup), index=False)
            elif before[name] != version:
                installer.restore(name, f"{name}=={before[name]}", index=True)
        except PluginError as error:
            left.append(f"{name} {version} ({error.what.partition(chr(10))[0].rstrip(':')})")
    return left


def _backup(package: str, folder: Path) -> Path | None:
    """The wheel of what is about to be replaced; None where none can be made (an editable installation)."""
    try:
        return repack(importlib.metadata.distribution(package), folder)
    except PluginError:
        return None


def _packages() -> dict[str, str]:
    """Canonical name to version of what is installed into this environment itself."""
    importlib.invalidate_caches()
    here = [entry for entry in sys.path if Path(entry).resolve().is_relative_to(Path(sys.prefix).resolve())]
    found: dict[str, str] = {}
    for distribution in importlib.metadata.distributions(path=here):
        found.setdefault(canonical(distribution.name), distribution.version)
    return found
