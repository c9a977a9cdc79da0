"""Which releases may come into use again, and what their audits said."""

from __future__ import annotations

from mmkd_core.audit.comparison import Verdict
from mmkd_core.audit.gate import GATE, read_gate
from mmkd_core.errors import ReleaseError, WorkspaceError
from mmkd_core.integrate import history, releases
from mmkd_core.integrate.audits import kept_audit
from mmkd_core.integrate.releases import Release
from mmkd_core.integrate.workspace import Workspace


def verdict_of(workspace: Workspace, found: Release) -> Verdict | None:
    """The verdict on a release against its parent, under the gate that it was made with; None without such an audit."""
    verdict, own = _said(workspace, found)
    return verdict if own else None


def standing(workspace: Workspace, found: Release) -> str:
    """The same in words: a verdict, or why there is none."""
    if found.parent is None:
        return "nothing to compare with"
    try:
        verdict, own = _said(workspace, found)
    except (ReleaseError, WorkspaceError):
        return "damaged"
    if verdict is None:
        return "not audited"
    return verdict.value if own else f"{verdict.value} under another gate"


def _said(workspace: Workspace, found: Release) -> tuple[Verdict | None, bool]:
    """The last verdict on a release against its parent, and whether it was under the gate that it was made with."""
    facts = kept_audit(workspace, found, releases.release(workspace, found.parent)) if found.parent else None
    if facts is None:
        return None, False
    return Verdict(facts["verdict"]), facts["gate"]["hash"] == read_gate(found.file(GATE)).hash


def put_into_use(
    workspace: Workspace, name: str, force: bool = False, because: str | None = None
) -> tuple[Release, str | None]:
    """Put a release into use that was so before or passed its audit; any other by force alone, which is logged.

    Returns:
        The release, and the id of what was in use before.

    Raises:
        ReleaseError: there is no such release, it is damaged, or it never passed and nobody forces it.
    """
    chosen, before = releases.release(workspace, name), releases.in_use(workspace)
    if chosen.id == before:
        return releases.verify(chosen), before
    earned = any(history.WAYS[entry.way].earned for entry in history.entries(workspace, chosen.id))
    if not earned and not _passed(workspace, chosen, force):
        if not force:
            told = f"did not pass an audit ({_told(workspace, chosen)})"
            audit = f"`mmkd audit forgetting --candidate {chosen.id}` asks for a verdict; " if chosen.parent else ""
            forced = f"`mmkd releases rollback {chosen.id} --force --because TEXT` puts it into use, and is recorded"
            raise ReleaseError(f"release {chosen.id} {told}", next=f"{audit}{forced}")
        return releases.promote(workspace, name, "forced", because), before
    return releases.promote(workspace, name, "back", because), before


def _passed(workspace: Workspace, found: Release, force: bool) -> bool:
    """Whether its audit says PASS; a parent that cannot be read proves nothing, and stands in nobody's way."""
    try:
        return verdict_of(workspace, found) is Verdict.PASS
    except ReleaseError:
        return False
    except WorkspaceError:
        if not force:
            raise
        return False


def _told(workspace: Workspace, found: Release) -> str:
    if found.parent is None:
        return "it has no parent to be compared with, and was never in use"
    try:
        verdict, own = _said(workspace, found)
    except ReleaseError as error:
        return error.what
    if verdict is None:
        return "it was never audited"
    return f"{verdict.value} against {found.parent}{'' if own else ', under another gate than its own'}"
