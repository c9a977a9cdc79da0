"""Audits on disk: kept with the releases and the data that they are of, and read back only for these."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mmkd_core.audit.forgetting import SCHEMA
from mmkd_core.integrate.inputs import read_record, write_record
from mmkd_core.integrate.releases import Release
from mmkd_core.integrate.workspace import Workspace


def audit_file(workspace: Workspace, candidate: str, parent: str) -> Path:
    """The JSON file of an audit; the others lie beside it."""
    return workspace.audits / f"{candidate}-against-{parent}.json"


def keep_audit(workspace: Workspace, new: Release, old: Release, corpus: str, facts: Mapping[str, Any]) -> Path:
    """Write the facts of an audit; return the file.

    Args:
        corpus: fingerprint of the data.
    """
    path = audit_file(workspace, new.id, old.id)
    write_record(path, {**facts, "inputs": {**_releases(new, old), "corpus": corpus}})
    return path


def kept_audit(workspace: Workspace, new: Release, old: Release) -> dict[str, Any] | None:
    """The facts of the last audit of these two releases; None if there is none, or other releases had their numbers.

    Raises:
        WorkspaceError: the file is damaged.
    """
    again = f"Run `mmkd audit forgetting --candidate {new.id} --against {old.id}` to make it again"
    path = audit_file(workspace, new.id, old.id)
    facts = read_record(path, f"the audit of {new.id} against {old.id}", again)
    if facts is None or facts["schema"] != SCHEMA:
        return None
    return facts if {**facts["inputs"], **_releases(new, old)} == facts["inputs"] else None


def _releases(new: Release, old: Release) -> dict[str, str]:
    return {"candidate": new.digest, "parent": old.digest}
