"""Makes an environment hold what ``mmkd.lock`` says: on another machine, or after an upgrade dropped its packages.

Does not: change the lock. A teacher that cannot be brought back as it was is an error that names what differs.
"""

from __future__ import annotations

import importlib
import importlib.metadata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mmkd_core.contract import TeacherSpec
from mmkd_core.errors import MmkdError, PluginError
from mmkd_core.files import sha256_of
from mmkd_core.plugins import fresh, installer, isolated, packs, runtimes, weights
from mmkd_core.plugins.host import PluginHost
from mmkd_core.plugins.lock import Lock, LockedTeacher, as_locked, is_as_locked, read_lock
from mmkd_core.plugins.names import canonical
from mmkd_core.plugins.packages import read_package
from mmkd_core.plugins.registry import load_registry
from mmkd_core.plugins.sources import CORE, REGISTRY, local_path, registry_folder
from mmkd_core.plugins.undo import take_back_unfinished, undone_on_failure
from mmkd_core.progress import Progress, Silent

CHECK_LIMIT_S = 600.0


@dataclass(frozen=True)
class Step:
    """One package that is missing or of another version, or one environment that is not there.

    Args:
        what: "package" or "environment".
        name: the package, or the teacher whose environment it is.
        wanted: the version, or the requirements.
        found: the version that is installed; empty if none is.
        source: where it will come from, as the lock says.
        teachers: that need it.
    """

    what: str
    name: str
    wanted: str
    found: str
    source: str
    teachers: tuple[str, ...]


def plan(lock_path: Path) -> list[Step]:
    """What ``sync`` would install, packages first."""
    lock, root = read_lock(lock_path), lock_path.absolute().parent
    host = PluginHost.discover()
    steps = []
    for package, teachers in _by_package(lock).items():
        first = teachers[0]
        found = _version(package)
        offered = {spec.name: spec for spec in host.specs()}
        if found != first.version or not all(t.name in offered and is_as_locked(offered[t.name], t) for t in teachers):
            names = tuple(teacher.name for teacher in teachers)
            steps.append(Step("package", first.package, first.version, found, first.source, names))
    for teacher in lock.teachers.values():
        if teacher.runtime and not runtimes.is_ready(root, teacher.name, teacher.runtime):
            wanted = teacher.runtime.python or ", ".join(teacher.runtime.requires)
            steps.append(Step("environment", teacher.name, wanted, "", "", (teacher.name,)))
    return steps


def sync(lock_path: Path, progress: Progress | None = None) -> list[Step]:
    """Install what ``plan`` lists, then fetch and verify the weights of every locked teacher.

    Returns:
        What was installed.

    Raises:
        PluginError: something cannot be had as the lock says; names it. Packages that came before it stay.
    """
    progress = progress or Silent()
    take_back_unfinished(progress)
    lock, root = read_lock(lock_path), lock_path.absolute().parent
    steps = plan(lock_path)
    with installer.alone():
        for step in steps:
            teachers = [lock.teachers[name] for name in step.teachers]
            if step.what == "package":
                _bring_back(teachers, lock_path)
            elif teachers[0].runtime:
                wheels = sorted(packs.runtime_wheels(root, step.name).glob("*.whl"))
                runtimes.prepare(root, step.name, teachers[0].runtime, wheels)
            progress.say(f"{step.name}: {step.what} installed")
    specs = [spec for package, teachers in _by_package(lock).items() for spec in _compare(package, teachers)]
    for spec in specs:
        weights.fetch(spec)
    if specs:
        _freshly("verify", [spec.model_dump(mode="json") for spec in specs])
        progress.say(f"{', '.join(sorted(lock.teachers))}: weights verified")
    return steps


def _bring_back(teachers: Sequence[LockedTeacher], lock_path: Path) -> None:
    first = teachers[0]
    if canonical(first.package) == CORE:
        raise PluginError(
            f"teacher {first.name} comes with mmkd {first.version} as the lock has it, and not with this one",
            next=f"Install mmkd=={first.version}, or run `mmkd teachers add {first.name}` to use this one",
        )
    try:
        target, requires, wheels, folder = _target(first, lock_path.absolute().parent)
        with undone_on_failure(first.package, lock_path):
            if _version(first.package):
                installer.uninstall(first.package)
            installer.install(target, requires, wheels, folder)
            _compare(first.package, teachers)
    except MmkdError as error:
        raise PluginError(
            f"package {first.package} {first.version} was not brought back: {error.what}",
            where=error.where or first.source,
            next=error.next or f"Run `mmkd teachers add {first.name}` to use what there is now",
        ) from error


def _target(locked: LockedTeacher, root: Path) -> tuple[str, tuple[str, ...] | None, Path | None, Path | None]:
    """What the installer is given for a locked package: target, requirements, folder of wheels, source folder."""
    kind, _, rest = locked.source.partition("+")
    if locked.source == REGISTRY:
        path: Path | None = registry_folder(load_registry().teachers.get(locked.name))
    else:
        path = local_path(locked.source, root)
    if path is not None:
        if not path.exists():
            raise PluginError(
                "it came from a file that is not there any more",
                where=str(path),
                next="Put it back, or add the teacher from where it is now",
            )
        sha256 = rest.partition("#sha256=")[2]
        if sha256 and sha256_of(path) != sha256:
            raise PluginError("its file is not the locked one", where=str(path))
        package = read_package(path)
        inside = path.parent == packs.packages_of(root)
        return package.target, package.requires, path.parent if inside else None, package.folder
    if kind == "git":
        return locked.source, None, None, None
    if kind == "wheel":
        return f"{locked.package} @ {rest}", None, None, None
    return f"{locked.package}=={locked.version}", None, None, None


def _compare(package: str, teachers: Iterable[LockedTeacher]) -> list[TeacherSpec]:
    """What is installed must be what is locked; returns the specs as they are locked."""
    told = _freshly("describe", {"package": package, "listed": ""})
    specs = {spec.name: spec for spec in map(TeacherSpec.model_validate, told["specs"])}
    found = []
    for teacher in teachers:
        spec = specs.get(teacher.name)
        if spec is None or not is_as_locked(spec, teacher) or told["version"] != teacher.version:
            has = f"{told['version']} with fingerprint {spec.fingerprint}" if spec else f"{told['version']} without it"
            raise PluginError(
                f"teacher {teacher.name} is locked with {teacher.version} and fingerprint {teacher.fingerprint}, "
                f"installed is {has}"
            )
        found.append(as_locked(spec, teacher))
    return found


def _by_package(lock: Lock) -> dict[str, list[LockedTeacher]]:
    found: dict[str, list[LockedTeacher]] = {}
    for teacher in lock.teachers.values():
        found.setdefault(canonical(teacher.package), []).append(teacher)
    return found


def _version(package: str) -> str:
    importlib.invalidate_caches()
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return ""


def _freshly(function: str, argument: Any) -> Any:
    return isolated.run_isolated(f"{fresh.__name__}:{function}", argument, time_limit_s=CHECK_LIMIT_S)
