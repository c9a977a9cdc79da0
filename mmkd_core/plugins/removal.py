"""A teacher's way out: of the lock and, if asked for, of the environment. Its features stay in the store."""

from __future__ import annotations

from pathlib import Path

from mmkd_core.errors import PluginError
from mmkd_core.plugins import installer, runtimes
from mmkd_core.plugins.lock import Lock, LockedTeacher, change_lock
from mmkd_core.plugins.names import canonical
from mmkd_core.plugins.sources import CORE


def remove(name: str, lock_path: Path, *, uninstall: bool = False) -> LockedTeacher:
    """Take one teacher out of the lock; its features stay, and its package unless ``uninstall``.

    Raises:
        PluginError: it is not in, or its package is needed: by mmkd or by another teacher in use.
    """
    removed: list[LockedTeacher] = []

    def change(lock: Lock) -> Lock:
        remaining = lock.without(name)
        if uninstall:
            _require_unused(lock.teachers[name], remaining)
        removed.append(lock.teachers[name])
        return remaining

    change_lock(lock_path, change)
    if uninstall:
        with installer.alone():
            installer.uninstall(removed[0].package)
        runtimes.discard(lock_path.absolute().parent, name)
    return removed[0]


def _require_unused(locked: LockedTeacher, rest: Lock) -> None:
    others = [name for name, other in rest.teachers.items() if canonical(other.package) == canonical(locked.package)]
    if canonical(locked.package) == CORE or others:
        by = f"teachers in use need it: {', '.join(others)}" if others else "it is mmkd itself"
        raise PluginError(
            f"package {locked.package} is not removed: {by}",
            next=f"Run `mmkd teachers remove {locked.name}` without --uninstall",
        )
