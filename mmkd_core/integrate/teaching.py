"""The steps that change the student: features, trust, distillation, and the release that comes out."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from mmkd_core.contract import TeacherSpec
from mmkd_core.data.manifest import Corpus
from mmkd_core.distill.replay import MixedBatches
from mmkd_core.errors import PluginError, ReleaseError
from mmkd_core.files import sha256_of
from mmkd_core.integrate import releases
from mmkd_core.integrate.audits import kept_audit
from mmkd_core.integrate.distillation import Distillation, Outcome
from mmkd_core.integrate.features import Features, locked_specs, whole_store
from mmkd_core.integrate.releases import Release
from mmkd_core.integrate.stage_one import stage_one
from mmkd_core.integrate.staging import require_same_student
from mmkd_core.integrate.student_data import pixels_of, probe_scores
from mmkd_core.integrate.workspace import Workspace, identity
from mmkd_core.plugins import PluginHost, read_lock
from mmkd_core.progress import Progress
from mmkd_core.student import parallel
from mmkd_core.student.batches import Batches
from mmkd_core.student.model import Student
from mmkd_core.trust import RULES, PublishedTrust, Status, StudentProbe, TeacherTrust, decide


def earn_trust(domains: Iterable[tuple[str, float | None]]) -> str:
    """Return what to do about teachers that may teach nothing.

    Args:
        domains: status and claim of each teacher in each domain.
    """
    unmeasured = [claim for status, claim in domains if status == Status.UNKNOWN]
    if not unmeasured:
        return "It was measured and earned nothing here: take another one, `mmkd teachers list` names them"
    way = "Give labels of more patients, so that it can be measured"
    if any(claim is not None for claim in unmeasured):
        way += "; or let its authors' claim count there, by `rule: claimed` under trust in mmkd.yaml"
    return way


def run_trust(workspace: Workspace, progress: Progress | None = None) -> dict[str, TeacherTrust]:
    """Apply the workspace's trust rule to every locked teacher.

    Teachers that the release in use has learnt from keep the trust that they were integrated with, as long as corpus,
    teacher and settings are the same. (By gain they would lose it: the student has what they taught.)
    """
    return trust_beside(workspace, releases.current(workspace), progress)


def trust_beside(
    workspace: Workspace, parent: Release | None, progress: Progress | None = None
) -> dict[str, TeacherTrust]:
    """``run_trust`` for a student that comes from ``parent``, or from stage 1."""
    corpus, config = workspace.corpus(), workspace.config.trust
    specs = locked_specs(workspace, PluginHost.discover())
    decided = {}
    probe: StudentProbe | None = None
    published = PublishedTrust.load(workspace.published_trust) if RULES[config.rule].needs_list else None
    with whole_store(workspace) as store:
        for name, spec in specs.items():
            inputs = trust_inputs(workspace, corpus, spec)
            kept = parent.trust(name) if parent else None
            if kept and (found := TeacherTrust.load(kept)).inputs == inputs:
                decided[name] = found
                continue
            if RULES[config.rule].needs_student and probe is None:
                student = Student.load(parent.student if parent else stage_one(workspace))
                probe = StudentProbe(probe_scores(student, corpus, pixels_of(workspace, corpus, progress, student)))
            found = decide(Features(spec, corpus, store).view(), corpus, config, probe, published)
            decided[name] = replace(found, inputs=inputs)
            if parallel.leads():
                decided[name].save(workspace.trust / f"{name}.npz")
    return decided


def trust_inputs(workspace: Workspace, corpus: Corpus, spec: TeacherSpec) -> str:
    """Identity of what the trust in a teacher is decided from: corpus, teacher, settings, and the published list."""
    config = workspace.config.trust
    path = workspace.published_trust
    listed = sha256_of(path) if RULES[config.rule].needs_list and path.exists() else None
    of_teacher = (spec.fingerprint, spec.logit_scale, spec.domains, spec.provenance.images)
    claims = {domain: claim.score for domain, claim in spec.trust.items()}
    return identity(corpus.fingerprint, of_teacher, claims, asdict(config), listed)


def decided_here(workspace: Workspace) -> tuple[dict[str, TeacherTrust], list[str]]:
    """The trust in every locked teacher that was decided last, and the teachers of which it is missing or was decided
    from other data or settings.
    """
    corpus, found, stale = workspace.corpus(), {}, []
    in_use = releases.current(workspace)
    for name, spec in locked_specs(workspace, PluginHost.discover()).items():
        paths = [workspace.trust / f"{name}.npz", in_use.trust(name) if in_use else None]
        known = [TeacherTrust.load(path) for path in paths if path and path.exists()]
        inputs = trust_inputs(workspace, corpus, spec)
        fresh = [trust for trust in known if trust.inputs == inputs]
        if fresh:
            found[name] = fresh[0]
        else:
            stale.append(name)
    return found, stale


def run_distill(
    workspace: Workspace,
    progress: Progress | None = None,
    *,
    teachers: Collection[str] | None = None,
    more: Mapping[str, Any] | None = None,
) -> Outcome:
    """Stage 2 from the stage-1 student with all locked teachers: a first release, or a full re-distillation.

    Args:
        teachers: only these, trusted as if there had been no release yet.
        more: facts of the release beside those that every one has.
    """
    with parallel.leader_first():
        start = stage_one(workspace)
        trust = trust_beside(workspace, None, progress)  # it starts before any teacher
        job = Distillation(workspace, workspace.config.distill, start, None, trust, progress)
    train, new = job.corpus.where(split="train"), [n for n in job.specs if teachers is None or n in teachers]
    require_trust(new, job.trust)
    batches = Batches(train, job.corpus.domain[train], job.config, workspace.config.seed)
    return job.run(new, batches, "distil", more=more)


@dataclass(frozen=True)
class Forgotten:
    """What an earlier candidate of the same parent forgot, and a repair looks after.

    Attributes:
        candidate: its id.
        parts: domains in which it forgot, and teachers to which its heads became unfaithful.
    """

    candidate: str
    parts: tuple[str, ...]


def run_incremental(
    workspace: Workspace,
    progress: Progress | None = None,
    *,
    parent: Release | None = None,
    teachers: Collection[str] | None = None,
    forgotten: Forgotten | None = None,
    more: Mapping[str, Any] | None = None,
) -> Outcome:
    """Teach the release in use what newly locked teachers know, replaying what it has learnt before.

    Args:
        parent: another release to build on.
        teachers: only these of the new ones.
        forgotten: of it more is replayed.
        more: facts of the release beside those that every one has.

    Raises:
        ReleaseError: there is no release yet.
        PluginError: no locked teacher is new, or the new ones are trusted nowhere.
    """
    parent = parent or releases.current(workspace)
    if parent is None:
        raise ReleaseError("there is no release to build on", next="Run `mmkd distill` first")
    require_same_student(workspace, parent)
    config, seed = workspace.config.incremental, workspace.config.seed
    with parallel.leader_first():
        trust = trust_beside(workspace, parent, progress)
        job = Distillation(workspace, config, parent.student, parent, trust, progress)
    new = [name for name in job.specs if name not in parent.teachers and (teachers is None or name in teachers)]
    if not new:
        what = f"release {parent.id} has learnt from every locked teacher already"
        raise PluginError(what, next="Run `mmkd teachers add NAME` with a new one")
    fresh = np.flatnonzero(np.any([job.trust[name].mask for name in new], axis=0))
    require_trust(new, job.trust)
    urgent, share, label = forgotten.parts if forgotten else (), config.replay, "integrate"
    if forgotten:
        share, label = (1 + share) / 2, "repair"
        more = {"repair": {"of": forgotten.candidate, "how": "replay", "parts": list(urgent)}}
    first = found_before(workspace, parent, new, forgotten.candidate if forgotten else None)
    with parallel.leader_first():
        replay = job.replay(config, new, first, urgent)
    batches = MixedBatches(fresh, replay, config.batch_size, share, config.at_once, seed)
    return job.run(new, batches, label, replay, more)


def require_trust(names: Collection[str], trust: Mapping[str, TeacherTrust]) -> None:
    """Refuse to train where none of some teachers may teach a single sample.

    Raises:
        PluginError: says why, domain by domain.
    """
    if any(trust[name].mask.any() for name in names):
        return
    domains = [pair for name in names for pair in trust[name].domains.items()]
    reasons = "; ".join(f"{domain}: {found.reason}" for domain, found in domains)
    raise PluginError(
        f"{', '.join(names)} may teach nothing ({reasons})",
        next=earn_trust((found.status, found.claimed) for _, found in domains),
    )


def found_before(workspace: Workspace, parent: Release, new: Collection[str], repaired: str | None = None) -> list[str]:
    """Sample ids that earlier audits want to be replayed first: near images that got worse.

    Audits of the parent and of what it came from, and of other teachers' candidates beside it. The candidate of this
    very integration has a say only if it is repaired: the same integration, run again, must stay the same.
    """
    told = releases.lineage(workspace, parent)
    for found in releases.all_releases(workspace):
        beside = found.parent == parent.id and set(found.facts["new"]) != set(new)
        if beside or found.id == repaired:
            told.append(found)
    wanted: dict[str, None] = {}
    for found in told:
        if found.parent and (facts := kept_audit(workspace, found, releases.release(workspace, found.parent))):
            wanted |= dict.fromkeys(map(str, facts["replay_first"]))
    return list(wanted)


def locked_names(workspace: Workspace) -> list[str]:
    """Names in ``mmkd.lock``."""
    return sorted(read_lock(workspace.lock_file).teachers)
