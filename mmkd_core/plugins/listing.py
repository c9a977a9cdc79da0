"""Which teachers there are, seen from the lock, the installed plugins and the registry at once. Imports no torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from mmkd_core.contract import TeacherSpec
from mmkd_core.errors import PluginError
from mmkd_core.plugins.host import PluginHost
from mmkd_core.plugins.lock import Lock, LockedTeacher, require_locked
from mmkd_core.plugins.record import PluginRecord
from mmkd_core.plugins.registry import Registry, RegistryEntry

Status = Literal["locked", "available", "broken", "incompatible", "disabled", "registry"]


@dataclass(frozen=True)
class TeacherRow:
    """One line of ``mmkd teachers list``.

    Args:
        name: the teacher; the plugin, where a plugin cannot be asked for its teachers.
        status: locked (in use), available (installed, not locked), broken, incompatible, disabled, or registry (known
            but not installed).
        package: the distribution; empty if unknown.
        version: its installed version; empty if it is not installed.
        domains: imaging modalities.
        licence: of the weights.
        error: why it cannot be used, in one line; empty if it can.
    """

    name: str
    status: Status
    package: str
    version: str
    domains: tuple[str, ...]
    licence: str
    error: str = ""


@dataclass(frozen=True)
class TeacherInfo:
    """All that is known about one name; None where that side does not know it."""

    name: str
    spec: TeacherSpec | None
    plugin: PluginRecord | None
    locked: LockedTeacher | None
    entry: RegistryEntry | None


def listing(lock: Lock, host: PluginHost, registry: Registry) -> list[TeacherRow]:
    """One row per teacher or unusable plugin, by name."""
    rows = [_of_spec(spec, host.record_of(spec.name), lock) for spec in host.specs()]
    rows += [_of_record(record) for record in host.records() if record.status != "loaded"]
    seen = {row.name for row in rows}
    rows += [_of_lock(teacher, registry) for name, teacher in lock.teachers.items() if name not in seen]
    seen |= set(lock.teachers)
    rows += [_of_entry(name, entry) for name, entry in registry.teachers.items() if name not in seen]
    return sorted(rows, key=lambda row: (row.name, row.package))


def info(name: str, lock: Lock, host: PluginHost, registry: Registry) -> TeacherInfo:
    """Everything about one teacher; raises PluginError, with near names, if no side knows it."""
    spec = next((spec for spec in host.specs() if spec.name == name), None)
    plugin = host.record_of(name) if spec else next((r for r in host.records() if r.name == name), None)
    known = TeacherInfo(name, spec, plugin, lock.teachers.get(name), registry.teachers.get(name))
    if known.spec is None and known.plugin is None and known.locked is None and known.entry is None:
        host.teacher(name, registry)  # raises
    return known


def _of_spec(spec: TeacherSpec, record: PluginRecord, lock: Lock) -> TeacherRow:
    status: Status = "available"
    error = ""
    if spec.name in lock.teachers:
        try:
            require_locked(lock, spec)
            status = "locked"
        except PluginError as changed:
            status, error = "broken", str(changed)
    return TeacherRow(spec.name, status, record.distribution, record.version, spec.domains, spec.license.weights, error)


def _of_record(record: PluginRecord) -> TeacherRow:
    assert record.status != "loaded"
    return TeacherRow(record.name, record.status, record.distribution, record.version, (), "", record.error)


def _of_lock(teacher: LockedTeacher, registry: Registry) -> TeacherRow:
    entry = registry.teachers.get(teacher.name)
    error = f"locked with {teacher.package} {teacher.version} but not offered by any installed plugin"
    domains = entry.domains if entry else ()
    return TeacherRow(teacher.name, "broken", teacher.package, "", domains, teacher.license.weights, error)


def _of_entry(name: str, entry: RegistryEntry) -> TeacherRow:
    return TeacherRow(name, "registry", entry.package, "", entry.domains, entry.license.weights)
