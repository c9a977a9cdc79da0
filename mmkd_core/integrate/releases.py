"""Releases: immutable folders, and one pointer to the one in use.

    releases/0001/
      release.json         what it is: parent, teachers, recipe, steps, identity, sha256 of every file
      student/             open_clip folder
      heads.safetensors    per teacher: head and frozen normalisers
      heads.json           their names and dimensions
      trust/NAME.npz       what each teacher was trusted with
      replay.json          sample ids that were replayed, by teacher and domain
      mmkd.yaml mmkd.lock  configuration and teachers at that time
      predictions.parquet  per-sample predictions on the test split
      embeddings.safetensors  the student's images and captions of it: what later audits compare
      gate.yaml            what counted as forgetting when it was made
    releases/CURRENT       "0001"
    releases/withdrawn.json  which releases hold teachers that were withdrawn (``mmkd teachers remove --unlearn``)

A release is written to a temporary folder and renamed when it is whole; the pointer is replaced in one step.
"""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mmkd_core.contract import LicenseInfo
from mmkd_core.data.files import replacing
from mmkd_core.errors import ReleaseError
from mmkd_core.integrate.workspace import Workspace, read_json, write_json
from mmkd_core.plugins.licences import UNKNOWN, most_restrictive

CURRENT = "CURRENT"
WITHDRAWN = "withdrawn.json"


@dataclass(frozen=True)
class Release:
    """One release on disk."""

    id: str
    folder: Path
    facts: dict[str, Any]

    @property
    def parent(self) -> str | None:
        """The release that it grew from."""
        return self.facts["parent"]  # type: ignore[no-any-return]

    @property
    def teachers(self) -> list[str]:
        """Names of the teachers that it has learnt from, in the order of their arrival."""
        return list(self.facts["teachers"])

    @property
    def student(self) -> Path:
        """The open_clip folder."""
        return self.folder / "student"

    @property
    def predictions(self) -> Path:
        """Predictions on the test split."""
        return self.folder / "predictions.parquet"

    @property
    def embeddings(self) -> Path:
        """Embeddings of the test split; releases made before they were kept have none."""
        return self.folder / "embeddings.safetensors"


def licences(
    parent: Release | None, new: Mapping[str, LicenseInfo], start: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """Facts of a release: ``licenses`` of all teachers that taught it, and the ``license`` that binds it.

    What the parent has learnt stays in the weights, so its teachers count even if they are not in use any more, and so
    do the weights that the very first student started from.

    Args:
        start: by tower what the first student started from, with its ``license``; the parent's own if there is one.
    """
    taught = {**(parent.facts["licenses"] if parent else {})}
    taught |= {name: licence.model_dump(mode="json") for name, licence in new.items()}
    began = parent.facts.get("start", {}) if parent else dict(start or {})
    all_terms = {**taught, **starts(began)}
    binding = most_restrictive(LicenseInfo(**licence) for licence in all_terms.values())
    return {"licenses": taught, "license": binding.model_dump(mode="json"), "start": began}


def starts(start: Mapping[str, Any]) -> dict[str, Any]:
    """By what a model card calls it: the licence of each place that the first student's weights came from."""
    places: dict[str, list[str]] = {}
    for tower, facts in sorted(start.items()):
        places.setdefault(facts["path"], []).append(tower)
    unknown = UNKNOWN.model_dump(mode="json")
    return {
        f"start of the {' and the '.join(towers)} tower ({Path(path).name})": start[towers[0]].get("license", unknown)
        for path, towers in places.items()
    }


def all_releases(workspace: Workspace) -> list[Release]:
    """Every release, oldest first."""
    if not workspace.releases.is_dir():
        return []
    names = sorted(p.name for p in workspace.releases.iterdir() if p.is_dir() and p.name.isdigit())
    return [release(workspace, name) for name in names]


def release(workspace: Workspace, name: str) -> Release:
    """One release.

    Raises:
        ReleaseError: there is none of this name.
    """
    folder = workspace.releases / name
    facts = read_json(folder / "release.json") if name.isdigit() else None
    if facts is None:
        known = sorted(p.name for p in workspace.releases.glob("[0-9]*")) if workspace.releases.is_dir() else []
        listed = f"There are {', '.join(known)}" if known else "There are none yet; run `mmkd distill`"
        raise ReleaseError(f"there is no release {name!r}", where=str(workspace.releases), next=listed)
    return Release(name, folder, facts)


def lineage(workspace: Workspace, of: Release) -> list[Release]:
    """A release, its parent, the parent's parent, and so on."""
    found = [of]
    while found[-1].parent:
        found.append(release(workspace, found[-1].parent))
    return found


def withdrawals(workspace: Workspace) -> dict[str, Any]:
    """By teacher that was withdrawn: the releases that hold what it taught, and what replaced them."""
    return dict(read_json(workspace.releases / WITHDRAWN) or {})


def current(workspace: Workspace) -> Release | None:
    """The release in use; None before the first."""
    try:
        name = (workspace.releases / CURRENT).read_text().strip()
    except FileNotFoundError:
        return None
    return release(workspace, name)


def named(workspace: Workspace, model: str) -> Release | None:
    """The release that ``current`` or a number stands for; None for the name of another model.

    Raises:
        ReleaseError: there is no such release.
    """
    if model == "current":
        found = current(workspace)
        if found is None:
            raise ReleaseError("there is no release in use", next="Run `mmkd distill`")
        return found
    return release(workspace, model) if model.isdigit() else None


def promote(workspace: Workspace, name: str) -> Release:
    """Make a release the one in use, in one step. Also how one rolls back."""
    chosen = verify(release(workspace, name))
    with replacing(workspace.releases / CURRENT) as file:
        file.write(f"{name}\n".encode())
    return chosen


def commit(workspace: Workspace, staging: Path, facts: dict[str, Any]) -> Release:
    """Turn a finished staging folder into the next release."""
    number = 1 + max((int(found.id) for found in all_releases(workspace)), default=0)
    name = f"{number:04d}"
    files = {
        path.relative_to(staging).as_posix(): _sha256(path) for path in sorted(staging.rglob("*")) if path.is_file()
    }
    write_json(staging / "release.json", {**facts, "id": name, "files": files})
    target = workspace.releases / name
    shutil.rmtree(target, ignore_errors=True)  # a folder without release.json is a copy that was cut off
    target.parent.mkdir(exist_ok=True)
    os.replace(staging, target)
    return release(workspace, name)


def find(workspace: Workspace, identity: str) -> Release | None:
    """The release that was made from exactly these inputs, if there is one."""
    return next((found for found in all_releases(workspace) if found.facts["identity"] == identity), None)


def verify(found: Release) -> Release:
    """Check every file of a release against its hash.

    Raises:
        ReleaseError: names the first file that is missing or changed.
    """
    for name, digest in found.facts["files"].items():
        path = found.folder / name
        if not path.is_file() or _sha256(path) != digest:
            state = "changed" if path.is_file() else "missing"
            raise ReleaseError(
                f"release {found.id} is damaged: {name} is {state}",
                where=str(path),
                next="Restore it from a copy, or use another release: `mmkd releases list`",
            )
    return found


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
