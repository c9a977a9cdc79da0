"""A teacher's way in and out: resolve, install, discover, validate, verify weights, smoke check, lock.

The lock is written last, so any failure leaves it as it was; the message names the step, the teacher and the next
command. What was just installed is examined in a fresh interpreter, because the running one may not see it.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mmkd_core.contract import PLUGIN_API, TeacherSpec
from mmkd_core.errors import PluginError
from mmkd_core.plugins import installer, isolated, versions, weights
from mmkd_core.plugins.host import PluginHost
from mmkd_core.plugins.lock import LockedTeacher, read_lock, write_lock
from mmkd_core.plugins.names import canonical
from mmkd_core.plugins.packages import Package, read_package
from mmkd_core.plugins.registry import (
    GitSource,
    IndexSource,
    PathSource,
    Registry,
    RegistryEntry,
    WheelSource,
    load_registry,
)
from mmkd_core.plugins.smoke import smoke_check
from mmkd_core.progress import Progress, Silent

CHECK_LIMIT_S = 600.0


@dataclass(frozen=True)
class _Arrival:
    """What ``add`` found: the specs, who provides them, and whether this interpreter can load them."""

    specs: tuple[TeacherSpec, ...]
    package: str
    version: str
    source: str
    host: PluginHost | None
    """None if it was installed just now."""


def add(
    target: str,
    lock_path: Path,
    *,
    registry: Registry | None = None,
    host: PluginHost | None = None,
    accept_license: bool = False,
    progress: Progress | None = None,
) -> list[LockedTeacher]:
    """Make a teacher usable: everything from finding its package to writing it into the lock.

    Args:
        target: an installed teacher, a plugin with several teachers, a name in the registry, a wheel file, or a
            folder with a pyproject.toml.
        lock_path: the lock to extend.
        registry: by default the one that ``load_registry`` finds.
        host: by default the plugins of this interpreter.
        accept_license: agree to weights whose licence forbids commercial use.
        progress: hears one line per finished step.

    Returns:
        The teachers that were locked, by name.

    Raises:
        PluginError: names the step that failed; the lock is unchanged.
    """
    progress = progress or Silent()
    lock = read_lock(lock_path)
    registry = load_registry() if registry is None else registry
    arrival = _arrive(target, registry, host or PluginHost.discover(), accept_license, progress)
    with _step("validate", target):
        for spec in arrival.specs:
            _validate(spec, arrival, registry.teachers.get(spec.name))
            _agree(spec.name, spec.license.weights, spec.license.commercial_use, accept_license)
    names = ", ".join(spec.name for spec in arrival.specs)
    with _step("weights", target):
        _verify_weights(arrival)
    progress.say(f"{names}: weights verified")
    with _step("smoke check", target):
        _smoke(arrival)
    progress.say(f"{names}: smoke check passed")
    locked = [_locked(spec, arrival) for spec in sorted(arrival.specs, key=lambda spec: spec.name)]
    write_lock(lock_path, lock.having(*locked))
    return locked


def remove(name: str, lock_path: Path) -> LockedTeacher:
    """Take one teacher out of the lock; its package stays installed. Raises PluginError if it is not in."""
    lock = read_lock(lock_path)
    remaining = lock.without(name)
    write_lock(lock_path, remaining)
    return lock.teachers[name]


def describe_fresh(package: str) -> dict[str, Any]:
    """In a fresh interpreter: what a package that was just installed offers."""
    host = PluginHost.discover(environ={})
    records = [record for record in host.records() if canonical(record.distribution) == canonical(package)]
    for record in records:
        if record.status != "loaded":
            raise PluginError(f"plugin {record.provider} is {record.status}: {record.error}")
    if not records:
        raise PluginError(f"package {package} was installed but offers no plugin")
    offered = {name for record in records for name in record.teachers}
    specs = [spec.model_dump(mode="json") for spec in host.specs() if spec.name in offered]
    return {"specs": specs, "package": records[0].distribution, "version": records[0].version}


def verify_fresh(names: list[str]) -> None:
    """In a fresh interpreter: find and hash the files of these teachers."""
    host = PluginHost.discover(environ={})
    for name in names:
        weights.resolve(host.teacher(name))


def smoke_fresh(names: list[str]) -> None:
    """In a fresh interpreter: load and check these teachers."""
    host = PluginHost.discover(environ={})
    for name in names:
        smoke_check(host, host.teacher(name))


def _arrive(target: str, registry: Registry, host: PluginHost, accept_license: bool, progress: Progress) -> _Arrival:
    here = _installed(target, host, registry)
    if here is not None:
        return here
    with _step("resolve", target):
        package, source = _find(target, registry, host, accept_license)
    with _step("install", target):
        installer.install(package.target, package.requires)
        importlib.invalidate_caches()
    progress.say(f"{target}: installed {package.name}")
    with _step("discover", target):
        found = _freshly("describe_fresh", package.name)
        specs = tuple(TeacherSpec.model_validate(spec) for spec in found["specs"])
        if target in registry.teachers:
            specs = tuple(spec for spec in specs if spec.name == target)
        if not specs:
            raise PluginError(f"package {package.name} offers no teacher called {target}")
    return _Arrival(specs, found["package"], found["version"], source, None)


def _installed(target: str, host: PluginHost, registry: Registry) -> _Arrival | None:
    """The teachers that ``target`` names among the installed ones; None if it names none."""
    specs = tuple(spec for spec in host.specs() if spec.name == target)
    if not specs:
        names = [name for record in host.records() if record.name == target for name in record.teachers]
        specs = tuple(spec for spec in host.specs() if spec.name in names)
    if not specs:
        return None
    record = host.record_of(specs[0].name)
    entry = registry.teachers.get(specs[0].name)
    return _Arrival(specs, record.distribution, record.version, entry.source.kind if entry else "installed", host)


def _find(target: str, registry: Registry, host: PluginHost, accept_license: bool) -> tuple[Package, str]:
    """What to install for ``target``, and how the lock will call its source."""
    path = Path(target)
    if target.endswith(".whl") or path.is_dir():
        if not path.exists():
            raise PluginError("there is no such wheel file", where=target)
        return read_package(path), path.resolve().name
    if target not in registry.teachers:
        host.teacher(target, registry)  # raises: it says why nobody offers it, and which names are near
    entry = registry.lookup(target)
    if entry.plugin_api != PLUGIN_API:
        raise PluginError(
            f"it is written for plugin API {entry.plugin_api}, this mmkd has {PLUGIN_API}", next="Upgrade mmkd"
        )
    _agree(target, entry.license.weights, entry.license.commercial_use, accept_license)
    return _from_registry(target, entry, host, registry)


def _from_registry(name: str, entry: RegistryEntry, host: PluginHost, registry: Registry) -> tuple[Package, str]:
    match entry.source:
        case PathSource(path=path):
            return read_package(Path(path)), "path"
        case IndexSource():
            excluded = [f"!={version}" for version in sorted(entry.yanked)]
            ranges = ",".join([*filter(None, [entry.requires]), *excluded])
            return Package(entry.package, f"{entry.package}{ranges}", None), "index"
        case GitSource(url=url, commit=commit):
            return Package(entry.package, f"{entry.package} @ git+{url}@{commit}", None), f"git+{url}@{commit}"
        case WheelSource(url=url, sha256=sha256):
            return Package(entry.package, f"{entry.package} @ {url}#sha256={sha256}", None), url
    broken = [
        r for r in host.records() if r.status != "loaded" and canonical(r.distribution) == canonical(entry.package)
    ]
    reason = f": plugin {broken[0].provider} is {broken[0].status}: {broken[0].error}" if broken else ""
    raise PluginError(
        f"it comes with {entry.package} but is not offered by this installation{reason}",
        next="Install mmkd again, or run `mmkd teachers list` to see all plugins",
    )


def _validate(spec: TeacherSpec, arrival: _Arrival, entry: RegistryEntry | None) -> None:
    """The registry's stanza, if there is one, must be true."""
    if entry is None:
        return
    if canonical(arrival.package) != canonical(entry.package):
        raise PluginError(f"it comes from {arrival.package}, the registry says {entry.package}")
    if arrival.version in entry.yanked:
        raise PluginError(
            f"version {arrival.version} of {entry.package} was withdrawn: {entry.yanked[arrival.version]}"
        )
    if versions.satisfies(arrival.version, entry.requires) is False:
        raise PluginError(f"{entry.package} {arrival.version} is installed, the registry requires {entry.requires}")
    claims: list[tuple[str, object, object]] = [
        ("domains", sorted(spec.domains), sorted(entry.domains)),
        ("licence of the weights", spec.license.weights, entry.license.weights),
        ("commercial use", spec.license.commercial_use, entry.license.commercial_use),
        ("gated", spec.license.gated, entry.license.gated),
    ]
    for what, declared, listed in claims:
        if declared != listed:
            raise PluginError(f"its {what}: the plugin says {declared}, the registry says {listed}")


def _agree(name: str, licence: str, commercial_use: bool, accepted: bool) -> None:
    if not commercial_use and not accepted:
        raise PluginError(
            f"its weights ({licence}) must not be used commercially",
            next=f"If you agree, run `mmkd teachers add {name} --accept-license`",
        )


def _verify_weights(arrival: _Arrival) -> None:
    if arrival.host is None:
        for spec in arrival.specs:
            weights.fetch(spec)  # here, because the fresh interpreter has no network
        _freshly("verify_fresh", [spec.name for spec in arrival.specs])
    else:
        for spec in arrival.specs:
            weights.resolve(spec)


def _smoke(arrival: _Arrival) -> None:
    if arrival.host is None:
        _freshly("smoke_fresh", [spec.name for spec in arrival.specs])
    else:
        for spec in arrival.specs:
            smoke_check(arrival.host, spec)


def _freshly(function: str, argument: Any) -> Any:
    return isolated.run_isolated(f"{__name__}:{function}", argument, time_limit_s=CHECK_LIMIT_S)


def _locked(spec: TeacherSpec, arrival: _Arrival) -> LockedTeacher:
    return LockedTeacher(
        name=spec.name,
        package=arrival.package,
        version=arrival.version,
        source=arrival.source,
        fingerprint=spec.fingerprint,
        plugin_api=PLUGIN_API,
        weights=spec.weights,
        license=spec.license,
    )


@contextmanager
def _step(step: str, name: str) -> Iterator[None]:
    """Put the step and the teacher in front of whatever goes wrong inside."""
    try:
        yield
    except PluginError as error:
        raise PluginError(
            f"{name} was not added, at step {step}: {error.what}",
            where=error.where,
            next=error.next or f"When that is mended, run `mmkd teachers add {name}` again",
        ) from error
