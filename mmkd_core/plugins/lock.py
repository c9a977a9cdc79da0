"""``mmkd.lock``: the teachers in use, each pinned to package version, fingerprint and the sha256 of its files.

The lock is the enabled set: a teacher that is installed but not locked is available, and using it in a student is an
error. The file is JSON, sorted and without timestamps, so that the same teachers give the same bytes.
"""

from __future__ import annotations

import fcntl
import json
import os
import tempfile
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from mmkd_core import advice
from mmkd_core.contract import LicenseInfo, TeacherSpec, WeightSource
from mmkd_core.errors import PluginError
from mmkd_core.plugins.names import did_you_mean
from mmkd_core.settings import brief, first_fault

LOCK_NAME = "mmkd.lock"
SCHEMA_VERSION = 1
STATE = ".mmkd"
"""Folder beside the lock for what can be made again: environments of isolated teachers, unpacked wheels and weights."""


class LockedRuntime(BaseModel):
    """The environment of an isolated teacher."""

    model_config = ConfigDict(frozen=True, extra="forbid", defer_build=True)

    python: str | None = Field(default=None, description="A ready interpreter; empty if mmkd makes the environment.")
    requires: tuple[str, ...] = Field(default=(), description="What mmkd installs into it.")
    remote_code: bool = Field(
        default=False, description="Whether a configuration among its files names code, and the user agreed to run it."
    )


class LockedTeacher(BaseModel):
    """One teacher as it was when it was added."""

    model_config = ConfigDict(frozen=True, extra="forbid", defer_build=True)

    name: str = Field(description="The teacher's name.")
    package: str = Field(description="The distribution that provides it.")
    version: str = Field(description="Version of that distribution.")
    source: str = Field(
        description="Where it came from: bundled, registry (a folder beside it), index, installed, git+URL@COMMIT, "
        "wheel+URL#sha256=... or folder+URL."
    )
    fingerprint: str = Field(description="Fingerprint of its spec: features are stored under it.")
    plugin_api: int = Field(description="Plugin API that it was loaded with.")
    weights: tuple[WeightSource, ...] = Field(description="Sources with the sha256 of each file.")
    license: LicenseInfo = Field(description="Terms when it was added.")
    license_accepted: bool = Field(default=False, description="Whether the user agreed to restrictive terms.")
    runtime: LockedRuntime | None = Field(default=None, description="Of an isolated teacher; else empty.")
    logit_scale: float | None = Field(
        default=None, gt=0, description="The model's own, where it is not the one that its spec declares."
    )

    @field_validator("weights")
    @classmethod
    def _pinned(cls, weights: tuple[WeightSource, ...]) -> tuple[WeightSource, ...]:
        if not all(source.pinned for source in weights):
            raise ValueError("a locked file has no sha256")
        return weights


class Lock(BaseModel):
    """All teachers in use, by name."""

    model_config = ConfigDict(frozen=True, extra="forbid", defer_build=True)

    schema_version: int = Field(default=SCHEMA_VERSION, description="Version of this format.")
    teachers: dict[str, LockedTeacher] = Field(default_factory=dict, description="Name to what is pinned.")

    @model_validator(mode="after")
    def _keys_are_names(self) -> Lock:
        for key, teacher in self.teachers.items():
            if key != teacher.name:
                raise ValueError(f"entry {key} holds teacher {teacher.name}")
        return self

    def having(self, *teachers: LockedTeacher) -> Lock:
        """A copy in which ``teachers`` are added or replaced."""
        return Lock(teachers={**self.teachers, **{teacher.name: teacher for teacher in teachers}})

    def only(self, names: Collection[str]) -> Lock:
        """The lock with some of its teachers.

        Raises:
            PluginError: one of the names is not locked.
        """
        if missing := sorted(set(names) - set(self.teachers)):
            raise PluginError(f"teacher {missing[0]} is not locked", next=f"Run `mmkd teachers add {missing[0]}`")
        return self.model_copy(update={"teachers": {n: t for n, t in self.teachers.items() if n in names}})

    def without(self, name: str) -> Lock:
        """A copy without one teacher; raises PluginError if it is not in."""
        if name not in self.teachers:
            raise PluginError(
                f"teacher {name!r} is not locked",
                next=f"{did_you_mean(name, self.teachers)}Run `mmkd teachers list` to see which are",
            )
        return Lock(teachers={key: teacher for key, teacher in self.teachers.items() if key != name})


def read_lock(path: Path) -> Lock:
    """Read a lock; a missing file is an empty lock.

    Raises:
        PluginError: the file is damaged or was written by a newer mmkd.
    """
    try:
        raw: Any = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return Lock()
    except OSError as error:
        raise PluginError(f"the lock cannot be read: {error.strerror}", where=str(path)) from error
    except (ValueError, RecursionError) as error:  # the latter for ten thousand brackets
        raise _damaged(path, f"it is no JSON: {error}") from error
    version = raw.get("schema_version") if isinstance(raw, dict) else None
    if isinstance(version, int) and version > SCHEMA_VERSION:
        raise PluginError(
            f"the lock has format {version}, this mmkd reads {SCHEMA_VERSION}", where=str(path), next=advice.NEWER
        )
    if version != SCHEMA_VERSION:
        raise _damaged(path, f"schema_version is {brief(repr(version))}")
    try:
        return Lock.model_validate(raw)
    except ValidationError as error:
        key, what = first_fault(error)
        raise _damaged(path, f"{key or 'the top'}: {what}") from None


def write_lock(path: Path, lock: Lock) -> None:
    """Replace the lock at once: a reader sees the old or the new one, and a crash leaves one of them."""
    text = json.dumps(lock.model_dump(mode="json"), indent=2, sort_keys=True, ensure_ascii=True) + "\n"
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, 0o644)  # mkstemp makes it private, but the lock is shared like any project file
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def change_lock(path: Path, change: Callable[[Lock], Lock]) -> Lock:
    """Read, change and replace the lock while no other process does; returns the new one.

    Whoever comes second waits: the lock is held for milliseconds, never while something is installed.
    """
    guard = path.parent / STATE / f"{path.name}.guard"
    guard.parent.mkdir(parents=True, exist_ok=True)
    with guard.open("a") as file:  # not the lock itself: that file is replaced, and the hold would go with the old one
        fcntl.flock(file, fcntl.LOCK_EX)
        changed = change(read_lock(path))
        write_lock(path, changed)
        return changed


def require_locked(lock: Lock, spec: TeacherSpec) -> LockedTeacher:
    """The lock's entry for an installed teacher.

    Raises:
        PluginError: it is not locked, or its spec changed since.
    """
    locked = lock.teachers.get(spec.name)
    if locked is None:
        raise PluginError(f"teacher {spec.name} is not locked", next=f"Run `mmkd teachers add {spec.name}`")
    as_locked(spec, locked)
    return locked


def locked_spec(lock: Lock, spec: TeacherSpec) -> TeacherSpec:
    """``as_locked`` with the lock's entry; raises like ``require_locked``."""
    return as_locked(spec, require_locked(lock, spec))


def as_locked(spec: TeacherSpec, locked: LockedTeacher) -> TeacherSpec:
    """What is loaded, and under which features are stored: the declared spec with the entry's files and logit scale.

    Raises:
        PluginError: the spec changed since it was locked.
    """
    try:
        found = spec.resolved(locked.weights)
    except ValueError:
        found = spec  # they contradict it, which the fingerprint shows
    if locked.fingerprint != found.fingerprint:
        raise PluginError(
            f"teacher {spec.name} changed since it was locked: fingerprint {found.fingerprint}, locked "
            f"{locked.fingerprint} with {locked.package} {locked.version}",
            next=f"Run `mmkd teachers add {spec.name}` to use the new one, or install the locked version",
        )
    return found.model_copy(update={"logit_scale": locked.logit_scale or spec.logit_scale})


def is_as_locked(spec: TeacherSpec, locked: LockedTeacher) -> bool:
    """Whether an installed teacher is still the one that was locked."""
    try:
        as_locked(spec, locked)
    except PluginError:
        return False
    return True


def _damaged(path: Path, reason: str) -> PluginError:
    return PluginError(
        f"the lock is damaged: {reason}",
        where=str(path),
        next="Restore it from version control, or remove it and add the teachers again",
    )
