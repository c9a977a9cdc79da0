"""The steps that change the student: features, trust, distillation, and the release that comes out."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from feature_store import FeatureStore
from mmkd_core.contract import TeacherSpec
from mmkd_core.distill.bank import Bank
from mmkd_core.distill.config import DistillConfig, IncrementalConfig
from mmkd_core.distill.heads import TeacherHead, load_heads, save_heads
from mmkd_core.distill.objective import Samples
from mmkd_core.distill.replay import mixed_batch, replay_list, with_untaught
from mmkd_core.distill.run import distill, interpolate
from mmkd_core.distill.sources import Rows, Source
from mmkd_core.errors import PluginError, ReleaseError
from mmkd_core.extract import Job, extract
from mmkd_core.integrate import releases
from mmkd_core.integrate.features import Features, corpus_texts, locked_specs, open_store, release_spec, weights_digest
from mmkd_core.integrate.releases import Release
from mmkd_core.integrate.student_data import pixels_of, predict, probe_scores, stage_one
from mmkd_core.integrate.workspace import CONFIG, LOCK, Workspace, identity, write_json
from mmkd_core.plugins import PluginHost, read_lock
from mmkd_core.plugins.loaders import open_clip
from mmkd_core.plugins.weights import resolve
from mmkd_core.progress import Progress
from mmkd_core.student.model import Student
from mmkd_core.student.training import Batches, forget_checkpoint
from mmkd_core.trust import StudentProbe, TeacherTrust, decide


def run_trust(workspace: Workspace, progress: Progress | None = None) -> dict[str, TeacherTrust]:
    """Apply the workspace's trust rule to every locked teacher; earlier decisions of the same inputs are kept.

    Teachers that the release in use has learnt from keep the trust that they were integrated with.
    """
    corpus, config = workspace.corpus(), workspace.config.trust
    specs = locked_specs(workspace, PluginHost.discover())
    parent = releases.current(workspace)
    decided = {}
    probe: StudentProbe | None = None
    with open_store(workspace) as store:
        for name, spec in specs.items():
            kept = parent.folder / "trust" / f"{name}.npz" if parent else None
            if kept and kept.exists() and (found := TeacherTrust.load(kept)).corpus == corpus.fingerprint:
                decided[name] = found
                continue
            if config.rule == "gain" and probe is None:
                student = Student.load(parent.student if parent else stage_one(workspace))
                probe = StudentProbe(probe_scores(student, corpus, pixels_of(workspace, corpus, progress)))
            decided[name] = decide(Features(spec, corpus, store).view(), corpus, config, probe)
            decided[name].save(workspace.trust / f"{name}.npz")
    return decided


@dataclass(frozen=True)
class Outcome:
    """What a distillation gave: the release, whether it was made now, and facts for people."""

    release: Release
    made: bool
    fidelity: dict[str, float]


def run_distill(workspace: Workspace, progress: Progress | None = None) -> Outcome:
    """Stage 2 from the stage-1 student with all locked teachers: a first release, or a full re-distillation."""
    job = _Distillation(workspace, workspace.config.distill, stage_one(workspace), None, progress)
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
    config = workspace.config.incremental
    job = _Distillation(workspace, config, parent.student, parent, progress)
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
    replayed = job.replay(config, [name for name in parent.teachers if name in job.specs], new)
    batches = partial(mixed_batch, fresh, replayed, config.batch_size, config.replay, workspace.config.seed)
    return job.run(new, batches, "integrate", replayed=replayed)


class _Distillation:
    """One run of stage 2 over a workspace, from whichever student to the release that it becomes."""

    def __init__(
        self,
        workspace: Workspace,
        config: DistillConfig,
        start: Path,
        parent: Release | None,
        progress: Progress | None,
    ) -> None:
        self.workspace, self.config, self.start = workspace, config, start
        self.parent, self.progress = parent, progress
        self.corpus = workspace.corpus()
        self.specs = locked_specs(workspace, PluginHost.discover())
        if not self.specs:
            raise PluginError("no teacher is in use", next="Run `mmkd teachers add NAME`")
        self.trust = run_trust(workspace, progress)
        self.pixels = pixels_of(workspace, self.corpus, progress)
        self.bank = Bank.build(self.corpus, config.bank, workspace.config.seed)

    def replay(self, config: IncrementalConfig, earlier: Sequence[str], new: Sequence[str]) -> Rows:
        """Rows that keep alive what the parent learnt, from the earlier teachers and from captions alone."""
        old, fresh = ({name: self.trust[name].mask for name in names} for names in (earlier, new))
        masks = with_untaught(self.corpus, old, fresh)
        return replay_list(self.corpus, masks, config.replay_rows, self.workspace.config.seed)

    def run(self, new: list[str], batches: Callable[[int], Rows], label: str, replayed: Rows | None = None) -> Outcome:
        """Train, evaluate and commit; a release of the same inputs is returned as it is."""
        key = self._identity(new, replayed)
        found = releases.find(self.workspace, key)
        release = found or self._make(key, new, batches, label, replayed)
        # Also for a release that is found: a kill may have come between its commit and the pointer to it.
        if releases.current(self.workspace) is None:
            releases.promote(self.workspace, release.id)
        return Outcome(release, found is None, release.facts["fidelity"])

    def _make(
        self, key: str, new: list[str], batches: Callable[[int], Rows], label: str, replayed: Rows | None
    ) -> Release:
        run = self.workspace.runs / f"{label}-{key[:12]}"
        student = Student.load(self.start)
        if self.parent:
            self._extract_parent(self.parent, student)
        samples = Samples.of(student, self.pixels, list(self.corpus.caption), list(self.corpus.domain), self.bank)
        began = time.monotonic()
        with open_store(self.workspace) as store:
            taught = distill(
                student,
                self._sources(store, new, replayed, student),
                samples,
                self.bank,
                batches,
                self.config,
                run,
                heads=load_heads(self.parent.folder) if self.parent else None,
                freeze_norms=self.parent is not None,
                seed=self.workspace.config.seed,
                identity=key,
                label=label,
                progress=self.progress,
            )
        if self.parent and isinstance(self.config, IncrementalConfig) and self.config.keep:
            interpolate(student, Student.load(self.parent.student), self.config.keep)
        facts = {
            "identity": key,
            "parent": self.parent.id if self.parent else None,
            "teachers": [*(self.parent.teachers if self.parent else []), *new],
            "new": new,
            "recipe": self.config.recipe,
            "steps": self.config.steps,
            "seconds": round(time.monotonic() - began, 1),
            "fidelity": taught.fidelity,
            "replayed": 0 if replayed is None else len(replayed),
            **releases.licences(self.parent, {name: self.specs[name].license for name in new}),
            "student": _shape(student),
        }
        return self._commit(student, taught.heads, run, facts)

    def _sources(self, store: FeatureStore, new: list[str], replayed: Rows | None, student: Student) -> list[Source]:
        taught = [
            Features(self.specs[name], self.corpus, store).source(self.bank, self.trust[name].mask) for name in new
        ]
        if self.parent is None or replayed is None:
            return taught
        listed = np.zeros(len(self.corpus), bool)
        listed[replayed] = True
        for name in self.parent.teachers:
            if name in self.specs:
                mask = self.trust[name].mask & listed
                taught.append(Features(self.specs[name], self.corpus, store).source(self.bank, mask))
        unclaimed = ~np.any([self.trust[name].mask for name in new], axis=0) & (self.corpus.split == "train")
        spec = self._parent_spec(self.parent, student)
        factor = getattr(self.config, "parent", 0.0)
        if factor:
            old = Features(spec, self.corpus, store).source(self.bank, unclaimed, heads=False, factor=factor)
            taught.append(old)
        return taught

    def _parent_spec(self, parent: Release, student: Student) -> TeacherSpec:
        """``student`` is still the parent: it is asked for before training."""
        return release_spec(parent, student.logit_scale, tuple(self.corpus.domains))

    def _extract_parent(self, parent: Release, student: Student) -> None:
        """The parent's own features: an old student is just another teacher."""
        spec = self._parent_spec(parent, student)
        job = Job(spec, lambda: open_clip.load(spec, resolve(spec), "cpu"))
        with FeatureStore.open(self.workspace.store, "w") as store:
            extract(self.corpus, corpus_texts(self.corpus), [job], store, self.progress).require()

    def _identity(self, new: list[str], replayed: Rows | None) -> str:
        return identity(
            self.corpus.fingerprint,
            self.workspace.config.seed,
            self.config.model_dump(),
            weights_digest(self.start),
            self.parent.id if self.parent else None,
            {name: (self.specs[name].fingerprint, self.trust[name].to_json()) for name in new},
            None if replayed is None else replayed.tolist(),
        )

    def _commit(self, student: Student, heads: dict[str, TeacherHead], run: Path, facts: dict[str, Any]) -> Release:
        staging = run / "staging"
        shutil.rmtree(staging, ignore_errors=True)
        student.save(staging / "student")
        save_heads(heads, staging)
        for name in facts["teachers"]:
            if name in self.trust:
                (staging / "trust").mkdir(exist_ok=True)
                self.trust[name].save(staging / "trust" / f"{name}.npz")
        masks = {name: self.trust[name].mask for name in facts["teachers"] if name in self.trust}
        budget = self.workspace.config.incremental.replay_rows
        rows = replay_list(self.corpus, with_untaught(self.corpus, masks, {}), budget, self.workspace.config.seed)
        write_json(staging / "replay.json", [str(name) for name in self.corpus.sample_id[rows]])
        predictions = predict(student, self.corpus, self.pixels)
        predictions.save(staging / "predictions.parquet")
        (staging / CONFIG).write_text(self.workspace.config.dump())  # with the overrides of this run
        shutil.copyfile(self.workspace.lock_file, staging / LOCK)
        shutil.copyfile(run / "log.jsonl", staging / "log.jsonl")
        made = releases.commit(self.workspace, staging, facts)
        forget_checkpoint(run)
        return made


def _shape(student: Student) -> dict[str, Any]:
    return {
        "size": student.pixels,
        "resize": student.preprocess["resize_mode"],
        "mean": student.preprocess["mean"],
        "std": student.preprocess["std"],
        "context_length": student.context_length,
        "embed_dim": student.embed_dim,
    }


def locked_names(workspace: Workspace) -> list[str]:
    """Names in ``mmkd.lock``."""
    return sorted(read_lock(workspace.lock_file).teachers)
