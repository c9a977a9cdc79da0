"""One teacher from its name to a student in use: add, extract, trust, distil, audit, and repair if it must be.

Nothing keeps a record of how far it came: every step finds out by itself whether its result is there, made from the
same inputs. So an integration that was killed goes on where it was when it is run again, and one that is over says what
it came to. ``releases/CURRENT`` moves once, at the end, and only on PASS.

Of processes that were launched together all train, and the leader alone does the rest; all take the same way.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from typing import Any, TypeVar

from mmkd_core.audit.comparison import Verdict
from mmkd_core.audit.forgetting import ForgettingAudit
from mmkd_core.audit.trust import FINDINGS
from mmkd_core.errors import ReleaseError
from mmkd_core.integrate import releases
from mmkd_core.integrate.extracting import run_extract
from mmkd_core.integrate.measuring import run_audit
from mmkd_core.integrate.releases import Release
from mmkd_core.integrate.repairing import Repair, run_repair
from mmkd_core.integrate.stage_one import DONE, stage_one
from mmkd_core.integrate.student_data import run_pretrain
from mmkd_core.integrate.teaching import locked_names, run_distill, run_incremental, run_trust
from mmkd_core.integrate.trusting import trust_rows
from mmkd_core.integrate.using import standing
from mmkd_core.integrate.workspace import Workspace
from mmkd_core.plugins.lifecycle import Choices, add
from mmkd_core.progress import Progress, Silent
from mmkd_core.student import parallel
from mmkd_core.trust import RULES, Status

T = TypeVar("T")


@dataclass(frozen=True)
class Integration:
    """How an integration ended.

    Attributes:
        teachers: what was integrated.
        steps: by step what it came to, in order; for people.
        release: what is in use now.
        candidate: what was distilled for it; None where nothing was.
        audit: of the candidate against its parent; None where nothing was compared: the first release has nothing to be
            compared with, and of a teacher that the release in use has learnt from already there is no candidate.
        repair: what came of the candidate's failure; None if it did not fail.
        trust: what was found of each teacher in each domain, before anything was trained; as JSON.
        seconds: by step, of this run.
    """

    teachers: list[str]
    release: Release | None
    candidate: Release | None = None
    audit: ForgettingAudit | None = None
    repair: Repair | None = None
    steps: dict[str, str] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)
    trust: list[dict[str, Any]] = field(default_factory=list)

    @property
    def nowhere(self) -> bool:
        """Nothing was distilled, because the teachers may teach no sample at all."""
        return bool(self.trust) and not any(row["admitted"] for row in self.trust)

    @property
    def verdict(self) -> Verdict | None:
        """Of what is in use now, or of what could not be put into use; None where nothing was compared."""
        if self.audit is None:
            return None
        return Verdict.PASS if self.repair and self.repair.passed else self.audit.verdict


def run_integrate(
    workspace: Workspace, target: str, choices: Choices | None = None, progress: Progress | None = None
) -> Integration:
    """Integrate a teacher; what is done already is skipped.

    Args:
        target: a teacher in use, or what ``mmkd teachers add`` takes.

    Raises:
        MmkdError: of whichever step cannot be done; what was done stays.
    """
    journal = _Journal(progress or Silent())
    names = journal.step("add", lambda: _added(workspace, target, choices, journal.progress))
    journal.step("extract", lambda: _extracted(workspace, journal.progress))
    parent = releases.current(workspace)
    if parent and set(names) <= set(parent.teachers):
        return _over(workspace, names, parent, journal)
    compared = RULES[workspace.config.trust.rule].needs_student
    if parent is None and compared:
        journal.step("pretrain", lambda: _pretrained(workspace, journal.progress))
    trust = journal.step("trust", lambda: _trusted(workspace, names, journal.progress))
    done = Integration(names, parent, trust=trust, steps=journal.told, seconds=journal.seconds)
    if done.nowhere:
        return done
    if parent is None:
        if not compared:
            journal.step("pretrain", lambda: _pretrained(workspace, journal.progress))
        return replace(done, release=journal.step("distil", lambda: _first(workspace, journal.progress)))
    made = journal.step("distil", lambda: _candidate(workspace, names, journal.progress))
    audit = journal.step("audit", lambda: _audited(workspace, made))
    repair = None
    if audit.verdict is Verdict.FAIL:
        repair = journal.step("repair", lambda: _repaired(workspace, made, journal.progress))
    in_use = releases.current(workspace)
    assert in_use
    return replace(done, release=in_use, candidate=made, audit=audit, repair=repair)


class _Journal:
    """What each step came to, and how long it took."""

    def __init__(self, progress: Progress) -> None:
        self.progress = progress
        self.told: dict[str, str] = {}
        self.seconds: dict[str, float] = {}

    def step(self, name: str, work: Callable[[], tuple[T, str]]) -> T:
        began = time.monotonic()
        result, self.told[name] = work()
        self.seconds[name] = round(time.monotonic() - began, 1)
        self.progress.say(f"{name}: {self.told[name]}")
        return result


def _added(workspace: Workspace, target: str, choices: Choices | None, progress: Progress) -> tuple[list[str], str]:
    def work() -> tuple[list[str], str]:
        if target in locked_names(workspace):
            return [target], f"{target} is in use already"
        locked = [teacher.name for teacher in add(target, workspace.lock_file, choices=choices, progress=progress)]
        return locked, f"{', '.join(locked)} in use now"

    names, told = parallel.by_leader(work)
    return names, told


def _extracted(workspace: Workspace, progress: Progress) -> tuple[None, str]:
    def work() -> str:
        done = run_extract(workspace, progress)
        done.require()
        images, texts = sum(done.images.values()), sum(done.texts.values())
        return f"{images:,} new images, {texts:,} new texts" if images or texts else "nothing was missing"

    return None, parallel.by_leader(work)


def _trusted(workspace: Workspace, names: list[str], progress: Progress) -> tuple[list[dict[str, Any]], str]:
    def work() -> list[dict[str, Any]]:
        trust = run_trust(workspace, progress)
        return [asdict(row) for row in trust_rows(workspace, {name: trust[name] for name in names})]

    rows = parallel.by_leader(work)
    return rows, "; ".join(_in_words(name, [row for row in rows if row["teacher"] == name]) for name in names)


def _in_words(name: str, rows: list[dict[str, Any]]) -> str:
    """How much a teacher may teach, what was found of its claims, and where nothing could be measured."""
    admitted, of = sum(row["admitted"] for row in rows), sum(row["of"] for row in rows)
    said = [f"{name} may teach {admitted:,} of {of:,} samples" if admitted else f"{name} may teach nothing"]
    for finding in FINDINGS.values():
        if finding.verdict not in (None, Verdict.PASS):
            said += [f"{finding.name} in {_figures(row)}" for row in rows if row["finding"] == finding.name]
    if on_claim := [row["domain"] for row in rows if row["on_claim"]]:
        said.append(f"on its claim alone, unverified, in {', '.join(on_claim)}")
    for status in (Status.MEASURED, Status.CHANCE, Status.UNKNOWN):
        if domains := [row["domain"] for row in rows if row["status"] == status.value]:
            said.append(f"{status.value} in {', '.join(domains)}")
    return "; ".join(said)


def _figures(row: dict[str, Any]) -> str:
    claimed, measured, gap = row["claimed"], row["measured"], row["gap"]
    claims = f"claims {100 * claimed:.1f} %" if claimed is not None else ""
    found = f"measured {100 * measured:.1f} %" if measured is not None else "not measured"
    held = f"{100 * gap['test']:.1f} % on the test split" if gap and gap["unexplained"] else ""
    return f"{row['domain']} ({', '.join(part for part in (claims, found, held) if part)})"


def _pretrained(workspace: Workspace, progress: Progress) -> tuple[None, str]:
    """Stage 1 by the workspace's settings, unless there is one of them and of the present data."""
    try:
        stage_one(workspace)
    except ReleaseError as error:
        if (workspace.runs / "pretrain" / DONE).exists():
            progress.say(f"{error.what}; it is made again")
        _, facts = run_pretrain(workspace, workspace.config.pretrain, progress=progress)
        return None, f"stage 1 on {facts['pairs']:,} images and captions"
    return None, "stage 1 was there already"


def _first(workspace: Workspace, progress: Progress) -> tuple[Release, str]:
    made = run_distill(workspace, progress)
    return made.release, f"release {made.release.id}, the first one"


def _candidate(workspace: Workspace, names: list[str], progress: Progress) -> tuple[Release, str]:
    made = run_incremental(workspace, progress, teachers=names)
    return made.release, f"release {made.release.id} {'was made' if made.made else 'was there already'}"


def _audited(workspace: Workspace, made: Release) -> tuple[ForgettingAudit, str]:
    audit, _, old = run_audit(workspace, made.id)
    return audit, f"{made.id} against {old.id}: {audit.verdict.value}"


def _repaired(workspace: Workspace, made: Release, progress: Progress) -> tuple[Repair, str]:
    repair = run_repair(workspace, made.id, progress)
    kept = f"release {repair.release.id} stays in use" if not repair.passed else f"release {repair.release.id} passed"
    return repair, f"{repair.how}: {kept}"


def _over(workspace: Workspace, names: list[str], in_use: Release, journal: _Journal) -> Integration:
    """The release in use has learnt from them: say when, and what its audit said then."""
    learnt = next(r for r in reversed(releases.lineage(workspace, in_use)) if set(names) <= set(r.teachers))
    journal.told["distil"] = f"release {learnt.id} has learnt from {', '.join(names)} already"
    journal.told["audit"] = f"of {learnt.id} then: {standing(workspace, learnt)}"
    return Integration(names, in_use, steps=journal.told, seconds=journal.seconds)
