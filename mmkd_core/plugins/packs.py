"""A pack: one file that brings a teacher to a machine without a network.

    manifest.json                   format, package, teachers with their lock entries, sha256 and size of every member
    wheels/*.whl                    the package, and what it needs beyond mmkd's own libraries
    runtimes/TEACHER/*.whl          of an isolated teacher: all that its environment holds
    weights/TEACHER/ROLE/...        files of the weights, unless they lie in the package

A zip without compression and with fixed dates: the same teacher gives the same bytes. Wheels are made again from what
is installed (``wheels``).

Does not: read packs (``unpacking``) or install them (``lifecycle``).
"""

from __future__ import annotations

import importlib.metadata
import json
import shutil
import stat
import tempfile
import zipfile
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field

from mmkd_core.contract import PLUGIN_API
from mmkd_core.errors import PluginError
from mmkd_core.files import sha256_of
from mmkd_core.plugins import installer, runtimes, versions, weights
from mmkd_core.plugins.host import PluginHost
from mmkd_core.plugins.lock import STATE, LockedTeacher, as_locked, read_lock, require_locked
from mmkd_core.plugins.names import canonical
from mmkd_core.plugins.sources import CORE, is_editable, local_path
from mmkd_core.plugins.wheels import repack

SUFFIX, FORMAT = ".mmkd", 1
MANIFEST = "manifest.json"
_CHUNK = 1 << 20


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", defer_build=True)


class Member(_Frozen):
    """One file of a pack."""

    sha256: str = Field(pattern=r"^[0-9a-f]{64}$", description="What it must hash to.")
    size: int = Field(ge=0, description="Its bytes.")


class Manifest(_Frozen):
    """What a pack says about itself."""

    format: int = Field(description="Version of this format.")
    plugin_api: int = Field(description="The plugin API that its package is written for.")
    wheel: str = Field(description="The member that is the teachers' package.")
    teachers: tuple[LockedTeacher, ...] = Field(min_length=1, description="As they were locked where it was packed.")
    lacking: tuple[str, ...] = Field(default=(), description="Requirements that were left out.")
    members: dict[str, Member] = Field(description="Every other file.")


def pack(name: str, root: Path, out: Path, host: PluginHost, *, dependencies: bool = True) -> Manifest:
    """Write a teacher that is in use into one file.

    Args:
        name: the teacher.
        root: folder of the lock.
        out: the file.
        dependencies: False leaves out the wheels of what the package needs.

    Raises:
        PluginError: it is not in use or comes with mmkd itself, or wheels that it needs cannot be made here (listed).
    """
    spec = host.teacher(name)
    locked = require_locked(read_lock(root / "mmkd.lock"), spec)
    if canonical(locked.package) == CORE:
        raise PluginError(f"teacher {name} comes with mmkd itself, so there is nothing to pack")
    folders = weights.resolve(as_locked(spec, locked))
    out.absolute().parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out.absolute().parent, prefix=".pack-") as scratch:
        files: dict[str, Path] = {}
        own = _own_wheel(locked, root, Path(scratch))
        lacking = _wheels(locked, own, Path(scratch), files, dependencies)
        _runtime(locked, root, Path(scratch), files)
        for source in locked.weights:
            if source.kind != "package":
                inside = f"weights/{name}/{source.role}"
                files |= {f"{inside}/{file}": folders[source.role] / file for file in source.files}
        manifest = Manifest(
            format=FORMAT,
            plugin_api=PLUGIN_API,
            wheel=f"wheels/{own.name}",
            teachers=(locked.model_copy(update={"source": f"wheel+./{own.name}", "license_accepted": False}),),
            lacking=tuple(lacking),
            members={inside: _member(path) for inside, path in sorted(files.items())},
        )
        partial = Path(scratch, "pack")
        _write(partial, manifest, files)
        partial.replace(out)
    return manifest


def packages_of(root: Path) -> Path:
    """Where wheels of packs are kept."""
    return root / STATE / "packages"


def runtime_wheels(root: Path, name: str) -> Path:
    """Where wheels of a pack for the environment of an isolated teacher are kept."""
    return packages_of(root) / f"runtime-{name}"


def _own_wheel(locked: LockedTeacher, root: Path, scratch: Path) -> Path:
    """The package's own wheel: the file that it came from, the installed files, or built from an editable folder."""
    folder = scratch / "own"
    folder.mkdir()
    kept = local_path(locked.source, root)
    if kept is not None and kept.is_file() and kept.suffix == ".whl":
        return Path(shutil.copy2(kept, folder / kept.name))
    if is_editable(locked.package) and kept is not None:
        return installer.build(kept, folder)
    return repack(importlib.metadata.distribution(locked.package), folder)


def _wheels(locked: LockedTeacher, own: Path, scratch: Path, files: dict[str, Path], dependencies: bool) -> list[str]:
    """Add the package's wheel and those of what it needs beyond mmkd; returns what was left out."""
    files[f"wheels/{own.name}"] = own
    core, _ = versions.closure([CORE])
    needed, lacking = versions.closure([locked.package], without={CORE, *core})
    needed.pop(canonical(locked.package), None)
    if not dependencies:
        return sorted([*lacking, *(f"{d.name}=={d.version}" for d in needed.values())])
    folder = scratch / "wheels"
    folder.mkdir()
    reasons = [f"{requirement} is not installed" for requirement in lacking]
    for distribution in needed.values():
        try:
            wheel = repack(distribution, folder)
            files[f"wheels/{wheel.name}"] = wheel
        except PluginError as error:
            reasons.append(error.what)
    if reasons:
        raise PluginError(
            f"teacher {locked.name} was not packed, wheels that it needs cannot be made here: {'; '.join(reasons)}",
            next="Pack it without them: --no-dependencies",
        )
    return []


def _runtime(locked: LockedTeacher, root: Path, scratch: Path, files: dict[str, Path]) -> None:
    if locked.runtime is None:
        return
    if locked.runtime.python:
        what = f"teacher {locked.name} runs with an interpreter of yours, which cannot be packed"
        raise PluginError(what, where=locked.runtime.python, next="Add it without --python, then pack it")
    runtimes.interpreter(root, locked.name, locked.runtime)
    folder = scratch / "runtime"
    folder.mkdir()
    site = runtimes.site_of(root, locked.name)
    for distribution in importlib.metadata.distributions(path=[str(site)]):
        wheel = repack(distribution, folder)
        files[f"runtimes/{locked.name}/{wheel.name}"] = wheel


def _write(path: Path, manifest: Manifest, files: dict[str, Path]) -> None:
    text = json.dumps(manifest.model_dump(mode="json"), indent=2, sort_keys=True) + "\n"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(_info(MANIFEST), text)
        for inside, file in sorted(files.items()):
            with archive.open(_info(inside), "w", force_zip64=True) as out, file.open("rb") as data:
                shutil.copyfileobj(data, out, _CHUNK)


def _info(name: str) -> zipfile.ZipInfo:
    info = zipfile.ZipInfo(name, (2020, 1, 1, 0, 0, 0))  # fixed, so that the same files give the same bytes
    info.external_attr = (stat.S_IFREG | 0o644) << 16
    return info


def _member(path: Path) -> Member:
    return Member(sha256=sha256_of(path), size=path.stat().st_size)
