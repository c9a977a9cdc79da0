"""The next command: a function of what there is in a workspace, so that following it leads on and never in a circle.

Each command ends with it. A step of ``STEPS`` is left out once what it makes is there; what only looks leaves a file
that says so (the audit of trust, the report).
"""

from __future__ import annotations

import shlex
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mmkd_core.data.manifest import MANIFEST
from mmkd_core.errors import MmkdError
from mmkd_core.integrate import releases
from mmkd_core.integrate.releases import Release
from mmkd_core.integrate.stage_one import has_stage_one
from mmkd_core.integrate.workspace import Workspace, read_facts, trust_audit_file
from mmkd_core.plugins import read_lock

REPORT = "report.html"
NAMES = frozenset[str]


@dataclass(frozen=True)
class State:
    """What there is in a workspace, as far as it decides what to do next."""

    damaged: bool = False
    """Whether a release, or the pointer to the one in use, cannot be read."""
    corpus: bool = False
    teachers: NAMES = frozenset()
    """In use."""
    extracted: NAMES = frozenset()
    """Teachers with features."""
    stage_one: bool = False
    trust: NAMES = frozenset()
    """Teachers that the last audit of trust was about."""
    teaching: NAMES = frozenset()
    """Those among them that may teach some sample."""
    in_use: str | None = None
    learnt: NAMES = frozenset()
    """Teachers of the release in use."""
    candidate: str | None = None
    """The newest release that was distilled from the one in use."""
    candidate_learnt: NAMES = frozenset()
    verdict: str | None = None
    """Of the candidate; None before its audit."""
    repaired: bool = False
    """Whether a repair of the candidate was tried."""
    reported: bool = False
    """Whether the report knows of all releases and audits."""
    exported: bool = False
    """Whether the release in use was exported to where ``export_folder`` says."""
    root: Path = field(default=Path(), compare=False)


@dataclass(frozen=True)
class Step:
    """One step of the way from an empty folder to an exported student.

    Attributes:
        lacking: whether it is what a workspace lacks next, if it lacks nothing of the steps before.
        command: that makes what is lacking, without ``-w``.
    """

    lacking: Callable[[State], bool]
    command: Callable[[State], str]


def _new(state: State) -> NAMES:
    """Teachers from which the release in use could learn."""
    return state.teachers & state.teaching - state.learnt if state.in_use else frozenset()


FURTHER = "mmkd teachers list"
"""Where nothing is lacking, or no teacher may teach: another one."""
STEPS = (
    Step(lambda s: s.damaged, lambda s: "mmkd doctor"),
    Step(lambda s: not s.corpus, lambda s: "mmkd data phantom"),
    Step(lambda s: not s.teachers, lambda s: FURTHER),
    Step(lambda s: not s.teachers <= s.extracted, lambda s: "mmkd extract"),
    Step(lambda s: not s.stage_one and s.in_use is None, lambda s: "mmkd pretrain"),
    Step(lambda s: not s.teachers <= s.trust, lambda s: "mmkd audit trust"),
    Step(lambda s: s.in_use is None and not s.teachers & s.teaching, lambda s: FURTHER),
    Step(lambda s: s.in_use is None, lambda s: "mmkd distill"),
    Step(lambda s: not _new(s) <= s.candidate_learnt, lambda s: "mmkd distill --incremental"),
    Step(
        lambda s: s.candidate is not None and s.verdict is None,
        lambda s: f"mmkd audit forgetting --candidate {s.candidate}",
    ),
    Step(lambda s: s.verdict == "FAIL" and not s.repaired, lambda s: f"mmkd repair {s.candidate}"),
    Step(lambda s: not s.reported, lambda s: "mmkd report"),
    Step(lambda s: not s.exported, lambda s: f"mmkd export open-clip {shlex.quote(str(export_folder(s)))}"),
)


def export_folder(state: State) -> Path:
    """Where the way exports the release in use."""
    return state.root / "exports" / f"open-clip-{state.in_use}"


def next_step(state: State) -> str:
    """The first command whose outcome is lacking, without ``-w``."""
    return next((step.command(state) for step in STEPS if step.lacking(state)), FURTHER)


def following(root: Path) -> str:
    """The next command in the workspace ``root``."""
    return next_step(state_of(Workspace.open(root)))


def _audited_trust(workspace: Workspace) -> list[dict[str, Any]]:
    try:
        return list(read_facts(trust_audit_file(workspace)).get("rows", []))
    except MmkdError:
        return []


def state_of(workspace: Workspace) -> State:
    """Look at the files of a workspace; what is damaged counts as lacking."""
    locked = read_lock(workspace.lock_file).teachers
    audited = _audited_trust(workspace)
    state = {
        "corpus": (workspace.root / workspace.config.data / MANIFEST).is_file(),
        "teachers": frozenset(locked),
        "extracted": _extracted(workspace, {name: teacher.fingerprint for name, teacher in locked.items()}),
        "stage_one": has_stage_one(workspace),
        "trust": frozenset(str(row["teacher"]) for row in audited),
        "teaching": frozenset(str(row["teacher"]) for row in audited if row["admitted"]),
        "root": workspace.root,
    }
    try:
        state |= _of_releases(workspace)
    except MmkdError:
        state["damaged"] = True
    found = State(**state)  # type: ignore[arg-type]
    return State(**{**vars(found), "exported": (export_folder(found) / "mmkd.json").is_file()})


def _of_releases(workspace: Workspace) -> dict[str, object]:
    known, in_use = releases.all_releases(workspace), releases.current(workspace)
    state: dict[str, object] = {"reported": _reported(workspace, known)}
    if in_use is None:
        return state
    state |= {"in_use": in_use.id, "learnt": frozenset(in_use.teachers)}
    made = [found for found in known if found.parent == in_use.id and "repair" not in found.facts]
    if not made:
        return state
    from mmkd_core.integrate.using import verdict_of  # brings the statistics of audits

    verdict = None
    with suppress(MmkdError):  # its audit says what is damaged
        verdict = verdict_of(workspace, made[-1])
    repaired = any(found.facts.get("repair", {}).get("of") == made[-1].id for found in known)
    return state | {
        "candidate": made[-1].id,
        "candidate_learnt": frozenset(made[-1].teachers),
        "verdict": verdict.value if verdict else None,
        "repaired": repaired,
    }


def _extracted(workspace: Workspace, fingerprints: dict[str, str]) -> NAMES:
    """Teachers whose features are in the store."""
    if not fingerprints or not workspace.store.exists():
        return frozenset()
    from feature_store import FeatureStore
    from feature_store.errors import StoreError

    with suppress(StoreError, OSError):
        with FeatureStore.open(workspace.store) as store:
            tables = {table.table for table in store.tables()}
        return frozenset(name for name, fingerprint in fingerprints.items() if fingerprint in tables)
    return frozenset()


def _reported(workspace: Workspace, known: list[Release]) -> bool:
    """Whether the page was written after the last release and the last audit."""
    page = workspace.root / REPORT
    if not page.is_file():
        return False
    files = [*(found.folder / releases.FACTS for found in known), *workspace.audits.glob("*-against-*.json")]
    return all(path.stat().st_mtime <= page.stat().st_mtime for path in files)
