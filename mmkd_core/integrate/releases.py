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
    releases/LOG.jsonl     how each came into use, by whom and when (history)
    releases/withdrawn.json  which releases hold teachers that were withdrawn (``mmkd teachers remove --unlearn``)

A release is written to a temporary folder and renamed when it is whole; the pointer is replaced in one step. Files of a
release are reached through ``Release`` only, which compares each with its sha256 before it is used; ``release.json``
has one over itself. A folder without ``release.json`` is a copy that was cut off, and is passed over.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mmkd_core.contract import LicenseInfo
from mmkd_core.errors import ReleaseError
from mmkd_core.files import hashes_of, replacing, require
from mmkd_core.integrate import history
from mmkd_core.integrate.inputs import digest, read_record, write_record
from mmkd_core.integrate.workspace import Workspace, read_facts
from mmkd_core.plugins.licences import UNKNOWN, most_restrictive

CURRENT = "CURRENT"
WITHDRAWN = "withdrawn.json"
FACTS, SCHEMA = "release.json", "mmkd.release/v2"
MEND = "Restore it from a copy, or use another release: `mmkd releases list`"
TAKE_AWAY = "Restore it from a copy, or take its folder out of releases"


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
    def digest(self) -> str:
        """Hash of all that the release is: its facts, and through them its files."""
        return digest(self.facts)

    @property
    def teachers(self) -> list[str]:
        """Names of the teachers that it has learnt from, in the order of their arrival."""
        return list(self.facts["teachers"])

    def has(self, name: str) -> bool:
        """Whether a file belongs to the release."""
        return name in self.facts["files"]

    def file(self, name: str) -> Path:
        """A file of the release, whole.

        Raises:
            ReleaseError: it does not belong to the release, or is missing or changed.
        """
        return require(self.folder, self.facts["files"], name, f"release {self.id}", MEND, ReleaseError)

    @property
    def student(self) -> Path:
        """The open_clip folder, whole."""
        for name in self.facts["files"]:
            if name.startswith("student/"):
                self.file(name)
        return self.file("student/open_clip_model.safetensors").parent

    @property
    def heads(self) -> Path:
        """The folder of the heads, which are whole."""
        self.file("heads.safetensors")
        return self.file("heads.json").parent

    @property
    def predictions(self) -> Path:
        """Predictions on the test split."""
        return self.file("predictions.parquet")

    @property
    def embeddings(self) -> Path:
        """Embeddings of the test split."""
        return self.file("embeddings.safetensors")

    def trust(self, teacher: str) -> Path | None:
        """What a teacher was trusted with; None if the release has no trust of it."""
        name = f"trust/{teacher}.npz"
        return self.file(name) if self.has(name) else None


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
    return [release(workspace, name) for name in _names(workspace)]


def sorted_out(workspace: Workspace) -> tuple[list[Release], dict[str, ReleaseError]]:
    """Return the releases that can be read, oldest first, and by id what is wrong with each other one."""
    found: list[Release] = []
    damaged: dict[str, ReleaseError] = {}
    for name in _names(workspace):
        try:
            found.append(release(workspace, name))
        except ReleaseError as error:
            damaged[name] = error
    return found, damaged


def _names(workspace: Workspace) -> list[str]:
    found = workspace.releases.glob(f"*/{FACTS}")
    return sorted(path.parent.name for path in found if _is_name(path.parent.name))


def cut_off(workspace: Workspace) -> list[Path]:
    """Folders of releases that were not copied whole: they have no ``release.json``."""
    found = (path for path in sorted(workspace.releases.glob("*")) if path.is_dir() and _is_name(path.name))
    return [path for path in found if not (path / FACTS).is_file()]


def _is_name(name: str) -> bool:
    return name.isascii() and name.isdigit()


def release(workspace: Workspace, name: str) -> Release:
    """One release; its files are checked when they are asked for.

    Raises:
        ReleaseError: there is none of this name, or its ``release.json`` is damaged or of another version of mmkd.
    """
    folder = workspace.releases / name
    if not _is_name(name) or not (folder / FACTS).is_file():
        known = _names(workspace)
        listed = f"There are {', '.join(known)}" if known else "There are none yet; run `mmkd distill`"
        raise ReleaseError(f"there is no release {name!r}", where=str(workspace.releases), next=listed)
    return Release(name, folder, _read(folder))


def _read(folder: Path) -> dict[str, Any]:
    path = folder / FACTS
    facts = read_record(path, f"release {folder.name}", TAKE_AWAY, ReleaseError) or {}
    if facts.get("schema") != SCHEMA:
        what = f"release {folder.name} is of version {facts.get('schema')!r:.40}, this mmkd reads {SCHEMA!r}"
        raise ReleaseError(what, where=str(path), next="Use the mmkd that made it, or `mmkd distill` a new one")
    if facts["id"] != folder.name:
        what = f"the folder of release {facts['id']} was renamed to {folder.name}"
        raise ReleaseError(what, where=str(folder), next="Give it its own name again")
    return facts


def lineage(workspace: Workspace, of: Release) -> list[Release]:
    """A release, its parent, the parent's parent, and so on."""
    found = [of]
    while found[-1].parent:
        found.append(release(workspace, found[-1].parent))
    return found


def withdrawals(workspace: Workspace) -> dict[str, Any]:
    """By teacher that was withdrawn: the releases that hold what it taught, and what replaced them."""
    return read_facts(workspace.releases / WITHDRAWN)


def current(workspace: Workspace) -> Release | None:
    """The release in use; None before the first.

    Raises:
        ReleaseError: ``releases/CURRENT`` is damaged, or names a release that is not there.
    """
    name = pointed_at(workspace)
    return release(workspace, name) if name else None


def pointed_at(workspace: Workspace) -> str | None:
    """The id that ``releases/CURRENT`` holds, whatever became of that release; None before the first.

    Raises:
        ReleaseError: the file is damaged.
    """
    path = workspace.releases / CURRENT
    try:
        raw = path.read_bytes()
    except FileNotFoundError:
        return None
    name = raw.decode("ascii", "replace").strip()
    if not _is_name(name) or len(raw) > 64:
        listed = ", ".join(_names(workspace)) or "none"
        next = f"Name the one to use: `mmkd releases rollback ID`; there are {listed}"
        raise ReleaseError(f"{CURRENT} does not name a release", where=str(path), next=next)
    return name


def in_use(workspace: Workspace) -> str | None:
    """The id of the release in use; None where there is none or ``CURRENT`` cannot be read."""
    try:
        found = current(workspace)
    except ReleaseError:
        return None
    return found.id if found else None


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


def promote(
    workspace: Workspace, name: str, way: str, because: str | None = None, gate: Mapping[str, Any] | None = None
) -> Release:
    """Make a release the one in use, in one step, and log how it came to that.

    Args:
        way: a key of ``history.WAYS``.
        because: why it was forced.
        gate: settings of the gate that were changed since the release was made (``Gate.changes``).
    """
    chosen = verify(release(workspace, name))
    history.note(workspace, name, way, in_use(workspace), because, gate)
    with replacing(workspace.releases / CURRENT) as file:
        file.write(f"{name}\n".encode())
    return chosen


def commit(workspace: Workspace, staging: Path, facts: dict[str, Any]) -> Release:
    """Turn a finished staging folder into the next release."""
    name = f"{1 + max(map(int, _names(workspace)), default=0):04d}"
    write_record(staging / FACTS, {**facts, "schema": SCHEMA, "id": name, "files": hashes_of(staging)})
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
    for name in found.facts["files"]:
        found.file(name)
    return found
