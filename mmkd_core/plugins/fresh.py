"""What ``add`` and ``sync`` ask a fresh interpreter (``isolated``): it sees what was just installed, and may crash."""

from __future__ import annotations

import math
from functools import partial
from pathlib import Path
from typing import Any

from pydantic import BaseModel, Field

from mmkd_core.contract import TeacherSpec
from mmkd_core.errors import PluginError
from mmkd_core.plugins import remote_code, weights
from mmkd_core.plugins.host import PluginHost
from mmkd_core.plugins.lock import LockedTeacher, as_locked
from mmkd_core.plugins.names import canonical
from mmkd_core.plugins.opening import open_teacher
from mmkd_core.plugins.smoke import smoke
from mmkd_core.plugins.sources import source_of


def describe(request: dict[str, str]) -> dict[str, Any]:
    """What the package ``request["package"]`` offers, its version, and where it came from."""
    package = request["package"]
    host = PluginHost.discover(environ={})
    records = [record for record in host.records() if canonical(record.distribution) == canonical(package)]
    for record in records:
        if record.status != "loaded":
            raise PluginError(f"plugin {record.provider} is {record.status}: {record.error}")
    if not records:
        raise PluginError(f"package {package} was installed but offers no plugin")
    offered = {name for record in records for name in record.teachers}
    specs = [spec.model_dump(mode="json") for spec in host.specs() if spec.name in offered]
    found = records[0]
    source = source_of(found.distribution, request["listed"])
    return {"specs": specs, "package": found.distribution, "version": found.version, "source": source}


def verify(specs: list[dict[str, Any]]) -> dict[str, list[str]]:
    """Find and hash the files of teachers: specs as they are or will be locked.

    Returns:
        By name, the configurations that ask for code to be run.
    """
    return {spec.name: verified(spec) for spec in map(TeacherSpec.model_validate, specs)}


def verified(spec: TeacherSpec) -> list[str]:
    """``verify`` for one teacher."""
    return [f"{path.name} ({key})" for path, key in remote_code.named(spec, weights.resolve(spec))]


class Tried(BaseModel):
    """What opening a teacher told."""

    logit_scale: float | None = Field(description="The model's own, where it is not the declared one.")
    differences: list[str] = Field(description="What its checkpoint's configuration says otherwise than its spec.")


def smoke_all(request: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Open and check teachers: entries as they will be locked, and the folder of the lock.

    Returns:
        By name what ``check`` gives.
    """
    host = PluginHost.discover(environ={})
    entries = [LockedTeacher.model_validate(entry) for entry in request["teachers"]]
    return {entry.name: check(host, entry, Path(request["root"])).model_dump() for entry in entries}


def check(host: PluginHost, locked: LockedTeacher, root: Path) -> Tried:
    """Open one teacher as its lock entry says, and run the smoke check on it."""
    from mmkd_core.plugins.loaders import stated

    spec = host.teacher(locked.name)
    pinned = as_locked(spec, locked)
    teacher = smoke(pinned, partial(open_teacher, host, spec, locked, root))
    learnt: float | None = getattr(teacher, "logit_scale", None)
    told = learnt is not None and not math.isclose(learnt, spec.logit_scale, rel_tol=1e-3)
    facts = stated.stated(pinned, weights.resolve(pinned))
    return Tried(
        logit_scale=float(learnt) if told and learnt is not None else None,
        differences=list(stated.differences(pinned, facts)),
    )
