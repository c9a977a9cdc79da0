"""The steps that change the student: features, trust, distillation, and the release that comes out."""

from __future__ import annotations

import numpy as np

from mmkd_core.distill.replay import MixedBatches
from mmkd_core.errors import PluginError, ReleaseError
from mmkd_core.integrate import releases
from mmkd_core.integrate.distillation import Distillation, Outcome
from mmkd_core.integrate.features import Features, locked_specs, open_store
from mmkd_core.integrate.releases import Release
from mmkd_core.integrate.student_data import pixels_of, probe_scores, stage_one
from mmkd_core.integrate.workspace import Workspace, read_json
from mmkd_core.plugins import PluginHost, read_lock
from mmkd_core.progress import Progress
from mmkd_core.student import parallel
from mmkd_core.student.model import Student
from mmkd_core.student.training import Batches
from mmkd_core.trust import PublishedTrust, StudentProbe, TeacherTrust, decide


def run_trust(
    workspace: Workspace, progress: Progress | None = None, parent: Release | None = None
) -> dict[str, TeacherTrust]:
    """Apply the workspace's trust rule to every locked teacher; earlier decisions of the same inputs are kept.

    Args:
        parent: the student to compare with; by default the release in use. Teachers that it has learnt from keep the
            trust that they were integrated with.
    """
    corpus, config = workspace.corpus(), workspace.config.trust
    specs = locked_specs(workspace, PluginHost.discover())
    parent = parent or releases.current(workspace)
    decided = {}
    probe: StudentProbe | None = None
    published = PublishedTrust.load(workspace.published_trust) if config.rule == "published" else None
    with open_store(workspace) as store:
        for name, spec in specs.items():
            kept = parent.folder / "trust" / f"{name}.npz" if parent else None
            if kept and kept.exists() and (found := TeacherTrust.load(kept)).corpus == corpus.fingerprint:
                decided[name] = found
                continue
            if config.rule == "gain" and probe is None:
                student = Student.load(parent.student if parent else stage_one(workspace))
                probe = StudentProbe(probe_scores(student, corpus, pixels_of(workspace, corpus, progress)))
            decided[name] = decide(Features(spec, corpus, store).view(), corpus, config, probe, published)
            if parallel.leads():
                decided[name].save(workspace.trust / f"{name}.npz")
    return decided


def run_distill(workspace: Workspace, progress: Progress | None = None) -> Outcome:
    """Stage 2 from the stage-1 student with all locked teachers: a first release, or a full re-distillation."""
    with parallel.leader_first():
        trust = run_trust(workspace, progress)
        job = Distillation(workspace, workspace.config.distill, stage_one(workspace), None, trust, progress)
    train = job.corpus.where(split="train")
    batches = Batches(train, job.corpus.domain[train], job.config, workspace.config.seed)
    return job.run(list(job.specs), batches, "distil")


def run_incremental(workspace: Workspace, progress: Progress | None = None) -> Outcome:
    """Teach the release in use what newly locked teachers know, replaying what it has learnt before.

    Raises:
        ReleaseError: there is no release yet.
        PluginError: no locked teacher is new, or the new ones are trusted nowhere.
    """
    parent = releases.current(workspace)
    if parent is None:
        raise ReleaseError("there is no release to build on", next="Run `mmkd distill` first")
    config, seed = workspace.config.incremental, workspace.config.seed
    with parallel.leader_first():
        job = Distillation(workspace, config, parent.student, parent, run_trust(workspace, progress), progress)
    new = [name for name in job.specs if name not in parent.teachers]
    if not new:
        what = f"release {parent.id} has learnt from every locked teacher already"
        raise PluginError(what, next="Run `mmkd teachers add NAME` with a new one")
    fresh = np.flatnonzero(np.any([job.trust[name].mask for name in new], axis=0))
    if not len(fresh):
        reasons = "; ".join(f"{d}: {t.reason}" for name in new for d, t in job.trust[name].domains.items())
        raise PluginError(
            f"{', '.join(new)} is trusted nowhere ({reasons})", next="Try `rule: gain` under trust in mmkd.yaml"
        )
    with parallel.leader_first():
        replay = job.replay(config, new, found_before(workspace, parent))
    batches = MixedBatches(fresh, replay, config.batch_size, config.replay, config.at_once, seed)
    return job.run(new, batches, "integrate", replay)


def found_before(workspace: Workspace, parent: Release) -> list[str]:
    """Sample ids that audits of earlier candidates of ``parent`` want to be replayed first."""
    wanted: dict[str, None] = {}
    for path in sorted(workspace.audits.glob(f"*-against-{parent.id}.json")):
        wanted |= dict.fromkeys(map(str, (read_json(path) or {}).get("replay_first", [])))
    return list(wanted)


def locked_names(workspace: Workspace) -> list[str]:
    """Names in ``mmkd.lock``."""
    return sorted(read_lock(workspace.lock_file).teachers)
