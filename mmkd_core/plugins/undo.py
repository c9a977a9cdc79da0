"""Takes back an installation that turned out wrong: new packages are removed, a replaced one is put back.

What is put back comes from a wheel that was made of the installed package before, so it needs no network. A package
that the installer replaced on the way, as a dependency, is asked from the index again.

What was there before stands in a journal in the environment itself, ``share/mmkd/unfinished``. A process that is killed
leaves it behind, and the next one that installs takes back what is left (``take_back_unfinished``).
"""

from __future__ import annotations

import importlib
import importlib.metadata
import json
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from mmkd_core.errors import MmkdError, PluginError
from mmkd_core.plugins import installer, versions
from mmkd_core.plugins.lock import read_lock
from mmkd_core.plugins.names import canonical
from mmkd_core.plugins.scratch import remove_dead
from mmkd_core.plugins.wheels import repack
from mmkd_core.progress import Progress

_NOTE = "journal.json"


@dataclass(frozen=True)
class Journal:
    """What an installation began with.

    Args:
        package: that is installed, above all.
        lock: path of the lock that will name it once all went well.
        before: canonical name to version of every package of the environment.
        backup: file of the wheel of what is replaced, beside the journal; empty if there is none.
    """

    package: str
    lock: str
    before: dict[str, str]
    backup: str = ""

    @property
    def wheel(self) -> Path | None:
        """The backup, if there is one."""
        return _home() / self.backup if self.backup else None

    def save(self) -> None:
        """Write it; an environment in which that is not possible has no journal."""
        partial = _home() / f"{_NOTE}.tmp"
        with suppress(OSError):
            partial.write_text(json.dumps(asdict(self)))
            partial.replace(_home() / _NOTE)

    @property
    def finished(self) -> bool:
        """Whether the lock names what is installed now: then only the end of the work is missing."""
        version = _packages().get(canonical(self.package))
        try:
            teachers = read_lock(Path(self.lock)).teachers.values()
        except MmkdError:
            return False
        return any(canonical(t.package) == canonical(self.package) and t.version == version for t in teachers)


def unfinished() -> Journal | None:
    """The journal of an installation in this environment that is under way, or whose process died."""
    try:
        return Journal(**json.loads((_home() / _NOTE).read_text()))
    except (OSError, ValueError, TypeError):
        return None


def take_back_unfinished(progress: Progress) -> None:
    """Bring the environment back to where an installation began whose process was killed, and say what was done.

    Its temporary folders are removed as well.

    One that is under way is waited for. One that the lock names already is left as it is, and so is every package that
    the interrupted one does not need.
    """
    remove_dead("mmkd-")
    if unfinished() is None:
        return
    with installer.alone():
        journal = unfinished()
        if journal is None:  # its process has come to its end meanwhile
            return
        if journal.finished:
            told = "is complete and in use"
        else:
            now, before = _packages(), journal.before
            ours = _needed_by(journal.package)
            # What else changed since then was changed by somebody else.
            wanted = {k: v for k, v in now.items() if k not in ours} | {k: v for k, v in before.items() if k in ours}
            left = _undo(wanted, journal.package, journal.wheel)
            done = [_change(name, now.get(name), before.get(name)) for name in sorted(ours)]
            told = f"was taken back: {', '.join(filter(None, done)) or 'nothing was left of it'}"
            told += f"; not taken back: {'; '.join(left)}" if left else ""
        progress.say(f"an earlier installation of {journal.package} was interrupted; it {told}")
        shutil.rmtree(_home(), ignore_errors=True)


@contextmanager
def undone_on_failure(package: str, lock: Path) -> Iterator[None]:
    """Within it packages are installed, ``package`` above all; if it is left by an error, they are as before.

    Raises:
        PluginError: whatever was raised inside; what could not be taken back is added to it.
    """
    before = _packages()
    shutil.rmtree(_home(), ignore_errors=True)
    with suppress(OSError):
        _home().mkdir(parents=True)
    backup = _backup(package, _home()) if canonical(package) in before else None
    Journal(package, str(lock.absolute()), before, backup.name if backup else "").save()
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
    finally:
        shutil.rmtree(_home(), ignore_errors=True)


def _needed_by(package: str) -> set[str]:
    """Canonical names of a package, and of what it needs beyond mmkd if it is installed."""
    found, _ = versions.closure([package], without={canonical(pin.partition("==")[0]) for pin in installer.pins()})
    return {canonical(package), *found}


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


def _change(name: str, now: str | None, before: str | None) -> str:
    """What was undone of one package, in words; empty if nothing was."""
    if now == before:
        return ""
    return f"{name} {now} was removed" if before is None else f"{name} {before} was put back"


def _backup(package: str, folder: Path) -> Path | None:
    """The wheel of what is about to be replaced; None where none can be made (an editable installation)."""
    try:
        return repack(importlib.metadata.distribution(package), folder)
    except (PluginError, OSError):
        return None


def _home() -> Path:
    return Path(sys.prefix, "share", "mmkd", "unfinished")


def _packages() -> dict[str, str]:
    """Canonical name to version of what is installed into this environment itself."""
    importlib.invalidate_caches()
    here = [entry for entry in sys.path if Path(entry).resolve().is_relative_to(Path(sys.prefix).resolve())]
    found: dict[str, str] = {}
    for distribution in importlib.metadata.distributions(path=here):
        found.setdefault(canonical(distribution.name), distribution.version)
    return found
