"""From a locked teacher to one that answers: loaded here, or started in an environment of its own."""

from __future__ import annotations

from pathlib import Path

from mmkd_core.contract import Teacher, TeacherSpec
from mmkd_core.errors import PluginError
from mmkd_core.plugins import remote_code, runtimes, weights
from mmkd_core.plugins.host import PluginHost
from mmkd_core.plugins.isolation import IsolatedTeacher, Limits
from mmkd_core.plugins.lock import LockedTeacher, as_locked


def open_teacher(
    host: PluginHost,
    spec: TeacherSpec,
    locked: LockedTeacher,
    root: Path,
    device: str = "cpu",
    bounds: Limits | None = None,
) -> Teacher:
    """Build a teacher from the files that its lock entry names.

    Args:
        spec: what its plugin declares, or that as it is locked already.
        locked: its entry in the lock.
        root: folder of the lock, beside which environments and logs lie.
        bounds: what the worker of an isolated teacher may use.

    Raises:
        PluginError: it changed since it was locked, files are missing or changed, a configuration names code to which
            nobody agreed, its environment is not there, or it cannot be loaded.
    """
    spec = as_locked(spec, locked)
    if spec.runtime == "shared":
        return host.load(spec, device)
    if locked.runtime is None:
        raise PluginError(
            f"teacher {spec.name} asks for an environment of its own, but none is locked",
            next=f"Run `mmkd teachers add {spec.name}`",
        )
    folders = weights.resolve(spec)
    if not locked.runtime.remote_code:
        remote_code.refuse(spec, folders)
    return IsolatedTeacher(
        spec,
        folders,
        runtimes.interpreter(root, spec.name, locked.runtime),
        runtimes.log_of(root, spec.name),
        device,
        bounds,
    )
