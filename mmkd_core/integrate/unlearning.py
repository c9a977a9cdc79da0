"""A teacher is withdrawn: which releases hold what it taught, and a student that never learnt from it.

Weights cannot be cleaned of a teacher. What can be done, exactly, is to go back to where it had no part yet: to the
last release of the same line that never saw it, or to stage 1, and to integrate the other teachers again. The new
release is put into use whatever it lost, because the old one may not be used any more; its facts say so. Releases that
hold the teacher stay on disk, and ``releases/withdrawn.json`` names them, until somebody removes their folders.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from mmkd_core.errors import PluginError, ReleaseError
from mmkd_core.integrate import releases
from mmkd_core.integrate.releases import Release
from mmkd_core.integrate.teaching import locked_names, run_distill, run_incremental
from mmkd_core.integrate.workspace import Workspace, write_json
from mmkd_core.plugins.removal import remove
from mmkd_core.progress import Progress

STAGE_ONE = "stage 1"


@dataclass(frozen=True)
class Unlearned:
    """What a withdrawal came to.

    Attributes:
        holding: ids of the releases whose weights have learnt from the teacher, oldest first.
        start: where the new student comes from: the id of a release, or ``stage 1``; None if nothing had to be made.
        before: what was in use.
        release: what is in use now.
    """

    teacher: str
    holding: list[str]
    start: str | None
    before: Release | None
    release: Release | None


def run_unlearn(workspace: Workspace, name: str, progress: Progress | None = None) -> Unlearned:
    """Take a teacher out of use and out of the student; run again after a kill, it goes on.

    Raises:
        PluginError: neither the lock nor a release knows the teacher.
        ReleaseError: no other teacher is left to make a student of.
    """
    in_use = releases.current(workspace)
    holding = [found.id for found in releases.all_releases(workspace) if name in found.teachers]
    if name in locked_names(workspace):
        remove(name, workspace.lock_file)
    elif not holding:
        raise PluginError(f"{name} is not in use, and no release has learnt from it", next="Run `mmkd teachers list`")
    if in_use is None or name not in in_use.teachers:
        _note(workspace, name, holding, in_use)
        return Unlearned(name, holding, None, in_use, in_use)
    clean = next((found for found in releases.lineage(workspace, in_use) if name not in found.teachers), None)
    made = _without(workspace, name, in_use, clean, holding, progress)
    releases.promote(workspace, made.id, "withdrawal")
    _note(workspace, name, holding, made)
    return Unlearned(name, holding, clean.id if clean else STAGE_ONE, in_use, made)


def withdrawn(workspace: Workspace) -> dict[str, Any]:
    """Teachers that were withdrawn and are not in use again: the releases that hold them, and what replaced these."""
    here = set(locked_names(workspace))
    return {name: facts for name, facts in releases.withdrawals(workspace).items() if name not in here}


def _without(
    workspace: Workspace,
    name: str,
    in_use: Release,
    clean: Release | None,
    holding: list[str],
    progress: Progress | None,
) -> Release:
    """The student without the teacher: made, found, or the clean release itself if nobody else came after it."""
    locked = set(locked_names(workspace))
    others = [teacher for teacher in in_use.teachers if teacher != name and teacher in locked]
    facts = {"unlearned": {"teacher": name, "releases": holding, "from": clean.id if clean else STAGE_ONE}}
    if clean is None:
        if not others:
            raise ReleaseError(
                f"{name} was the student's only teacher, so no student is left without it",
                next="Run `mmkd teachers add NAME` with another, and this command again",
            )
        return run_distill(workspace, progress, teachers=others, more=facts).release
    later = [teacher for teacher in others if teacher not in clean.teachers]
    if not later:
        return clean
    return run_incremental(workspace, progress, parent=clean, teachers=later, more=facts).release


def _note(workspace: Workspace, name: str, holding: list[str], now: Release | None) -> None:
    known = releases.withdrawals(workspace)
    entry = {"releases": holding, "replaced_by": now.id if now else None}
    write_json(workspace.releases / releases.WITHDRAWN, {**known, name: entry})
