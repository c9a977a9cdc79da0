"""`mmkd doctor`: what stands in the way, found before it does, and how to mend it. Changes nothing.

Works without a workspace (then it looks at the environment alone) and with a broken one: each check is on its own, and
one that cannot be done is a finding like any other.
"""

from __future__ import annotations

import os
import platform
import shutil
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Literal

from feature_store import FeatureStore
from mmkd_core import advice
from mmkd_core.errors import MmkdError
from mmkd_core.integrate import releases
from mmkd_core.integrate.features import locked_specs
from mmkd_core.integrate.stage_one import DONE, stage_one
from mmkd_core.integrate.storekeeping import reachable
from mmkd_core.integrate.workspace import CONFIG, Workspace
from mmkd_core.plugins import PluginHost, read_lock
from mmkd_core.plugins.undo import unfinished

State = Literal["ok", "warning", "problem"]
LOW_DISK = 5 * 2**30
"""Bytes below which the free disk is worth a warning."""
NETWORK_DISKS = {"nfs", "nfs4", "cifs", "smb3", "lustre", "gpfs", "beegfs", "fuse.sshfs", "9p"}
"""Kinds of file systems on which LMDB's locks and memory maps cannot be trusted."""


@dataclass(frozen=True)
class Check:
    """One thing that was looked at."""

    name: str
    state: State
    found: str
    fix: str = ""
    """A command or a sentence; empty if nothing needs mending."""


def diagnose(root: Path) -> list[Check]:
    """All checks of the environment and of the workspace in ``root``, if there is one."""
    checks = [*_guarded("python", _python), *_guarded("packages", _packages), *_guarded("torch", _torch)]
    checks += [*_guarded("plugins", _plugins), *_guarded("installation", _installation)]
    checks += _guarded("disk", lambda: _disk(root))
    if not (root / CONFIG).exists():
        return [
            *checks,
            Check("workspace", "warning", f"{root.absolute()} is none", "Run `mmkd init`, or name one: -w"),
        ]
    try:
        workspace = Workspace.open(root)
    except MmkdError as error:
        return [*checks, _problem("workspace", error)]
    checks.append(Check("workspace", "ok", f"{workspace.config.name}, seed {workspace.config.seed}"))
    looks = {
        "data": _data,
        "lock": _lock,
        "store": _store,
        "stage 1": _stage_one,
        "releases": _releases,
        "use": _in_use,
    }
    for name, look in looks.items():
        checks += _guarded(name, lambda look=look: look(workspace))  # type: ignore[misc]
    return checks


def _guarded(name: str, look: Callable[[], Iterator[Check]]) -> list[Check]:
    """A check that fails is a finding, not the end of the others."""
    try:
        return list(look())
    except MmkdError as error:
        return [_problem(name, error)]
    except Exception as error:
        return [
            Check(name, "problem", f"could not be looked at: {type(error).__name__}: {error}", "Report this, please")
        ]


def _problem(name: str, error: MmkdError) -> Check:
    where = f" ({error.where})" if error.where else ""
    return Check(name, "problem", f"{error.what}{where}", error.next or "")


def _python() -> Iterator[Check]:
    found = f"{platform.python_version()} in {sys.prefix}"
    if sys.prefix == sys.base_prefix:
        yield Check("python", "warning", f"{found}, which is no virtual environment", "python -m venv .venv")
    else:
        yield Check("python", "ok", found)


def _packages() -> Iterator[Check]:
    """Every dependency that mmkd declares, in the version that is installed."""
    from packaging.requirements import Requirement

    wrong, wanted = [], []
    for line in metadata.requires("mmkd") or []:
        needed = Requirement(line)
        if needed.marker and not needed.marker.evaluate({"extra": ""}):
            continue
        try:
            version = metadata.version(needed.name)
        except metadata.PackageNotFoundError:
            wrong.append(f"{needed.name} is missing")
            wanted.append(advice.plain(needed))
            continue
        if not needed.specifier.contains(version, prereleases=True):
            wrong.append(f"{needed.name} {version} is installed, {needed.specifier} is needed")
            wanted.append(advice.plain(needed))
    if wrong:
        yield Check("packages", "problem", "; ".join(wrong), advice.pip(wanted))
    else:
        yield Check("packages", "ok", f"mmkd {metadata.version('mmkd')}, and all that it needs")


def _torch() -> Iterator[Check]:
    """That torch and torchvision fit: a pair that does not takes open_clip down with it."""
    import torch

    try:
        import torchvision  # noqa: F401
    except Exception as error:
        reason = " ".join(str(error).split())
        fix = "pip install --force-reinstall torch torchvision"
        yield Check("torch", "problem", f"torch {torch.__version__} and torchvision do not fit: {reason}", fix)
        return
    if torch.cuda.is_available():
        free, total = torch.cuda.mem_get_info()
        memory = f"{free / 2**30:.0f} of {total / 2**30:.0f} GiB free"
        yield Check("torch", "ok", f"{torch.__version__}, {torch.cuda.get_device_name()} ({memory})")
        return
    fast = "fast bfloat16" if torch.cpu._is_avx512_bf16_supported() else "no fast bfloat16"
    yield Check("torch", "ok", f"{torch.__version__}, no GPU, {os.cpu_count()} cores, {fast}")


def _plugins() -> Iterator[Check]:
    host = PluginHost.discover()
    for record in host.records():
        if record.status in ("broken", "incompatible"):
            fix = f"pip uninstall {record.distribution}, then add it again from where it came, with `mmkd teachers add`"
            yield Check("plugins", "problem", f"{record.name} is {record.status}: {record.error}", fix)
    yield Check("plugins", "ok", f"{len(host.specs())} teachers can be loaded")


def _installation() -> Iterator[Check]:
    """Whether a process died while it installed a plugin."""
    if journal := unfinished():
        found = f"the installation of {journal.package} was interrupted, or is under way"
        yield Check("installation", "warning", found, "mmkd teachers sync")


def _disk(root: Path) -> Iterator[Check]:
    there = next(folder for folder in (root.absolute(), *root.absolute().parents) if folder.exists())
    free = shutil.disk_usage(there).free
    if free < LOW_DISK:
        fix = "Make room; `mmkd store gc --dry-run` shows what can go"
        yield Check("disk", "warning", f"{free / 2**30:.1f} GiB are free", fix)
    else:
        yield Check("disk", "ok", f"{free / 2**30:.0f} GiB are free")
    kind = _file_system(there)
    if kind in NETWORK_DISKS:
        fix = (
            "Keep the live store on a local disk, and read sealed generations from the network (features: in mmkd.yaml)"
        )
        yield Check("disk", "warning", f"{there} lies on {kind}, which LMDB cannot write safely", fix)


def _file_system(path: Path) -> str:
    """Kind of the file system that holds ``path``; empty where the system does not say."""
    mounts = Path("/proc/mounts")
    if not mounts.exists():
        return ""
    best, kind = "", ""
    for line in mounts.read_text().splitlines():
        _, point, name, *_ = line.split(" ")
        inside = path == Path(point) or Path(point) in path.parents
        if inside and len(point) >= len(best):
            best, kind = point, name
    return kind


def _data(workspace: Workspace) -> Iterator[Check]:
    corpus = workspace.corpus()
    splits = ", ".join(f"{len(corpus.where(split=name)):,} {name}" for name in ("train", "val", "test"))
    missing = sum(not corpus.path(row).exists() for row in range(0, len(corpus), max(1, len(corpus) // 200)))
    if missing:
        what = f"{missing} of about 200 images that were looked for are not where the manifest says"
        yield Check("data", "problem", what, "Run `mmkd data check`")
    yield Check("data", "ok", f"{len(corpus):,} samples of {len(corpus.domains)} domains ({splits})")
    if skipped := workspace.skipped():
        what = f"{len(skipped):,} images could not be read and are left out: {workspace.skipped_file}"
        yield Check("data", "warning", what, "Mend them and run `mmkd extract` again")


def _lock(workspace: Workspace) -> Iterator[Check]:
    names = sorted(read_lock(workspace.lock_file).teachers)
    if not names:
        yield Check("lock", "warning", "no teacher is in use", "Run `mmkd teachers add NAME`")
        return
    locked_specs(workspace, PluginHost.discover())
    yield Check("lock", "ok", f"{', '.join(names)}: installed as they were locked")


def _store(workspace: Workspace) -> Iterator[Check]:
    if not workspace.store.exists():
        yield Check("store", "warning", "no features were extracted yet", "Run `mmkd extract`")
        return
    with FeatureStore.open(workspace.store) as store:
        tables, needed = store.tables(), reachable(workspace, store)
        loose = sorted({table.table for table in tables} - needed)
    yield Check("store", "ok", f"{len({t.table for t in tables})} tables; `mmkd store verify` reads every byte")
    if loose:
        what = f"features of {len(loose)} teachers that nothing refers to"
        yield Check("store", "warning", what, "Run `mmkd store gc --dry-run`")


def _releases(workspace: Workspace) -> Iterator[Check]:
    found, current = releases.all_releases(workspace), releases.current(workspace)
    for release in found:
        try:
            releases.verify(release)
        except MmkdError as error:
            used = current is not None and release.id == current.id
            fix = "Run `mmkd releases rollback` to another one" if used else "Restore its folder from a copy"
            yield Check("releases", "problem", f"{release.id}: {error.what} ({error.where})", fix)
    for folder in releases.cut_off(workspace):
        what = f"{folder.name} has no {releases.FACTS}: a copy that was cut off, which is passed over"
        yield Check("releases", "warning", what, f"Copy it again, or remove {folder}")
    in_use = f"{current.id} is in use" if current else "none is in use"
    yield Check("releases", "ok", f"{len(found)}, {in_use}")


def _stage_one(workspace: Workspace) -> Iterator[Check]:
    """Of a workspace with releases it is not needed any more, so that it may be of other settings."""
    if not (workspace.runs / "pretrain" / DONE).exists():
        return
    try:
        stage_one(workspace)
    except MmkdError as error:
        yield Check("stage 1", "warning", error.what, error.next or "")
        return
    yield Check("stage 1", "ok", "whole, and made from the present data and settings")


def _in_use(workspace: Workspace) -> Iterator[Check]:
    try:
        with workspace.writing():
            pass
    except MmkdError as error:
        yield Check("use", "warning", error.what, error.next or "")
