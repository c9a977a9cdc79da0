"""What to do with a candidate that forgot: go back part of the way, replay what was forgotten, or keep the parent.

Each attempt becomes a release of its own with the same parent, found again by its identity, and is audited like any
other; the first that passes is put into use. Three looks at the test split pass a candidate that lost as much as is
tolerated more often than one look; the facts of the release say which attempt it was.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

from mmkd_core.audit.comparison import MEAN, Verdict
from mmkd_core.audit.forgetting import ForgettingAudit
from mmkd_core.distill.heads import load_heads
from mmkd_core.errors import ReleaseError
from mmkd_core.integrate import releases
from mmkd_core.integrate.auditing import gate_for
from mmkd_core.integrate.audits import kept_audit
from mmkd_core.integrate.distillation import Distillation
from mmkd_core.integrate.features import weights_digest
from mmkd_core.integrate.interpolating import STEPS, largest_step
from mmkd_core.integrate.measuring import run_audit
from mmkd_core.integrate.releases import Release
from mmkd_core.integrate.staging import commit_student
from mmkd_core.integrate.teaching import Forgotten, run_incremental, run_trust
from mmkd_core.integrate.workspace import Workspace, identity, read_json
from mmkd_core.progress import Progress, Silent
from mmkd_core.student import parallel
from mmkd_core.student.model import Student

How = Literal["interpolation", "replay", "parent"]
HOW: dict[How, str] = {
    "interpolation": "repaired by going back part of the way to the parent",
    "replay": "repaired by replaying more of what was forgotten",
    "parent": "nothing helped; the parent stays in use",
}
"""What helped, for people."""
BACK = tuple(step for step in STEPS if step <= 0.65)
"""Shares of the way to the candidate that are tried; more of it would be the candidate again."""


@dataclass(frozen=True)
class Attempt:
    """One way of repairing and its verdict; no release if there was nothing to audit."""

    how: How
    release: Release | None
    verdict: Verdict | None
    why: str


@dataclass(frozen=True)
class Repair:
    """How a repair ended.

    Attributes:
        how: what helped; ``parent`` is that nothing did, and the parent stays in use.
        release: what is in use now.
        attempts: in their order.
    """

    how: How
    release: Release
    attempts: tuple[Attempt, ...]

    @property
    def passed(self) -> bool:
        """Whether a repaired candidate was put into use."""
        return self.how != "parent"


def run_repair(workspace: Workspace, candidate: str | None = None, progress: Progress | None = None) -> Repair:
    """Make of a candidate that failed its audit one that passes, if that can be done.

    Args:
        candidate: by default the newest one of the release in use.

    Raises:
        ReleaseError: there is no such candidate, or it has no audit, or it passed.
        GateError: the gate was changed since the candidate was made.
    """
    progress = progress or Silent()
    parent = releases.current(workspace)
    if parent is None:
        raise ReleaseError("there is no release in use", next="Run `mmkd distill`")
    broken = _candidate(workspace, parent, candidate)
    gate_for(workspace, broken)
    parts = _forgotten(workspace, broken, parent)
    ways: tuple[Callable[[], Attempt], ...] = (
        lambda: _interpolated(workspace, broken, parent, progress),
        lambda: _replayed(workspace, broken, parts, progress),
    )
    attempts = []
    for way in ways:
        attempt = way()
        attempts.append(attempt)
        progress.say(f"repair by {attempt.how}: {attempt.why}")
        if attempt.release and attempt.verdict is Verdict.PASS:
            return Repair(attempt.how, attempt.release, tuple(attempts))
    return Repair("parent", parent, tuple(attempts))


def candidates(workspace: Workspace, parent: Release) -> list[Release]:
    """Children of a release that were made by distillation, not by a repair; oldest first."""
    return [r for r in releases.all_releases(workspace) if r.parent == parent.id and "repair" not in r.facts]


def _candidate(workspace: Workspace, parent: Release, name: str | None) -> Release:
    if name is not None:
        found = releases.release(workspace, name)
        if found.parent != parent.id:
            what = (
                f"release {name} is no candidate: it comes from {found.parent or 'no release'}, in use is {parent.id}"
            )
            raise ReleaseError(what, next="Repair a child of the release in use: `mmkd releases list`")
        return found
    known = candidates(workspace, parent)
    if not known:
        raise ReleaseError(
            f"release {parent.id} has no candidate that could be repaired", next="Run `mmkd distill --incremental`"
        )
    return known[-1]


def _forgotten(workspace: Workspace, broken: Release, parent: Release) -> tuple[str, ...]:
    """Domains and teachers in which the audit of the candidate failed; if it is open, in which it did not pass."""
    facts = parallel.by_leader(lambda: kept_audit(workspace, broken, parent))
    audit = run_audit(workspace, broken.id)[0] if facts is None else ForgettingAudit.from_json(facts)
    if audit.verdict is Verdict.PASS:
        what = f"release {broken.id} passed its audit, there is nothing to repair"
        raise ReleaseError(what, next="Run `mmkd releases list`")
    if not audit.open:
        gap = audit.blocking[0]
        raise ReleaseError(f"{' '.join(gap.key)} could not be compared: {gap.reason}", next=gap.next)
    failed = [row for row in audit.open if row.verdict is Verdict.FAIL] or audit.open
    return tuple(dict.fromkeys(row.part for row in failed if row.part != MEAN))


def _interpolated(workspace: Workspace, broken: Release, parent: Release, progress: Progress) -> Attempt:
    """The largest step toward the candidate with which no domain loses anything on the validation split."""
    made = parallel.by_leader(lambda: _interpolation(workspace, broken, parent, progress))
    if made is None:
        return Attempt("interpolation", None, None, "on the validation split every step loses something")
    release = releases.release(workspace, made)
    audit, *_ = run_audit(workspace, release.id)
    share = release.facts["repair"]["step"]
    return Attempt("interpolation", release, audit.verdict, _told(release, audit, f"{100 * share:.0f} % of the way"))


def _interpolation(workspace: Workspace, broken: Release, parent: Release, progress: Progress) -> str | None:
    """The id of the release of that step, found or made; None if no step is good enough."""
    config = workspace.config.incremental
    gate = workspace.gate()
    key = identity("interpolation", parent.id, broken.id, weights_digest(broken.student), gate.hash)
    if known := releases.find(workspace, key):
        return known.id
    trust = run_trust(workspace, progress)
    job = Distillation(workspace, config, broken.student, parent, trust, progress)
    student, began = Student.load(broken.student), time.monotonic()
    old, new = (Student.load(found.student).model.state_dict() for found in (parent, broken))
    step = largest_step(student, old, new, job.corpus, job.pixels, gate, 0.0, progress, BACK, job.taught(job.earlier))
    if not step.size:
        return None
    facts: dict[str, Any] = {name: value for name, value in broken.facts.items() if name not in ("id", "files")}
    repair = {"of": broken.id, "how": "interpolation", "step": step.size}
    seconds = round(time.monotonic() - began, 1)
    facts |= {"identity": key, "steps": 0, "seconds": seconds, "tried": step.tried, "repair": repair}
    log = workspace.runs / f"repair-{key[:12]}" / "log.jsonl"
    log.parent.mkdir(parents=True, exist_ok=True)
    log.write_bytes(broken.file("log.jsonl").read_bytes())
    replayed = read_json(broken.file("replay.json"))
    return commit_student(job.background, student, load_heads(broken.heads), replayed, log, facts).id


def _replayed(workspace: Workspace, broken: Release, parts: tuple[str, ...], progress: Progress) -> Attempt:
    """The integration once more, with more of what was forgotten."""
    made = run_incremental(
        workspace, progress, teachers=broken.facts["new"], forgotten=Forgotten(broken.id, parts)
    ).release
    audit, *_ = run_audit(workspace, made.id)
    return Attempt("replay", made, audit.verdict, _told(made, audit, f"more of {', '.join(parts)}"))


def _told(release: Release, audit: ForgettingAudit, what: str) -> str:
    return f"{what}: release {release.id}, {audit.verdict.value}"
