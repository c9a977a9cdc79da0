"""One run of stage 2 over a workspace: from a student, features and trust to a committed release."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np

from feature_store import FeatureStore
from mmkd_core.contract import TeacherSpec
from mmkd_core.distill.averaging import Weights, mix
from mmkd_core.distill.bank import Bank
from mmkd_core.distill.config import DistillConfig, IncrementalConfig
from mmkd_core.distill.heads import load_heads
from mmkd_core.distill.objective import Samples
from mmkd_core.distill.replay import (
    UNTAUGHT,
    Coreset,
    Mask,
    MixedBatches,
    Replay,
    Stratum,
    replay_list,
    with_untaught,
)
from mmkd_core.distill.run import Earlier, distill
from mmkd_core.distill.sources import Source
from mmkd_core.errors import PluginError
from mmkd_core.extract import Job, extract
from mmkd_core.integrate import releases
from mmkd_core.integrate.features import (
    Array,
    Features,
    corpus_texts,
    locked_specs,
    release_spec,
    weights_digest,
    whole_store,
)
from mmkd_core.integrate.inputs import digest
from mmkd_core.integrate.interpolating import STEPS, Step, largest_step
from mmkd_core.integrate.releases import Release
from mmkd_core.integrate.staging import Background, commit_student
from mmkd_core.integrate.student_data import pixels_of, shape_of, started_from
from mmkd_core.integrate.workspace import Workspace, identity
from mmkd_core.plugins import PluginHost
from mmkd_core.plugins.loaders import open_clip
from mmkd_core.plugins.weights import resolve
from mmkd_core.progress import Progress
from mmkd_core.student import parallel
from mmkd_core.student.batches import Rows
from mmkd_core.student.model import Student
from mmkd_core.trust import TeacherTrust

URGENT = 4.0
"""How much more a stratum weighs in the replay list that a repair is made for."""


@dataclass(frozen=True)
class Outcome:
    """What a distillation gave: the release, whether it was made now, and facts for people."""

    release: Release
    made: bool
    fidelity: dict[str, float]


class Distillation:
    """One run of stage 2 over a workspace, from whichever student to the release that it becomes."""

    def __init__(
        self,
        workspace: Workspace,
        config: DistillConfig,
        start: Path,
        parent: Release | None,
        trust: Mapping[str, TeacherTrust],
        progress: Progress | None,
    ) -> None:
        self.workspace, self.config, self.start = workspace, config, start
        self.parent, self.trust, self.progress = parent, trust, progress
        self.corpus, self.gate = workspace.corpus(), workspace.gate()
        self.specs = locked_specs(workspace, PluginHost.discover())
        if not self.specs:
            raise PluginError("no teacher is in use", next="Run `mmkd teachers add NAME`")
        self.pixels = pixels_of(workspace, self.corpus, progress)
        self.bank = Bank.build(self.corpus, config.bank, workspace.config.seed)

    @property
    def earlier(self) -> list[str]:
        """Teachers in use that the parent has learnt from."""
        return [name for name in self.parent.teachers if name in self.specs] if self.parent else []

    @cached_property
    def parent_spec(self) -> TeacherSpec:
        """An old student is just another teacher."""
        assert self.parent
        scale = Student.load(self.parent.student).logit_scale
        return release_spec(self.parent, scale, tuple(self.corpus.domains))

    def replay(
        self, config: IncrementalConfig, new: Sequence[str], first: Collection[str] = (), urgent: Collection[str] = ()
    ) -> Replay:
        """Rows that keep alive what the parent learnt, from the earlier teachers and from captions alone.

        Args:
            first: sample ids that come first.
            urgent: domains and teachers that get more of the list than others.
        """
        self._extract_parent()
        old, fresh = ({name: self.trust[name].mask for name in names} for names in (self.earlier, new))
        masks = with_untaught(self.corpus, old, fresh)
        with whole_store(self.workspace) as store, FeatureStore.open(self.workspace.own_store) as own:

            def features(teacher: str, rows: Rows) -> Array:
                if teacher == UNTAUGHT:
                    return Features(self.parent_spec, self.corpus, own).images(rows)
                return Features(self.specs[teacher], self.corpus, store).images(rows)

            coreset = Coreset(config.coreset, config.coreset_method, features)
            seed, watch = self.workspace.config.seed, config.budget.rows
            return replay_list(
                self.corpus,
                masks,
                config.replay_rows,
                seed,
                first=first,
                coreset=coreset,
                watch=watch,
                weight=lambda stratum: URGENT if set(stratum) & set(urgent) else 1.0,
            )

    def run(
        self,
        new: list[str],
        batches: Callable[[int], Rows],
        label: str,
        replay: Replay | None = None,
        more: Mapping[str, Any] | None = None,
    ) -> Outcome:
        """Train, evaluate and commit; a release of the same inputs is returned as it is.

        Args:
            more: facts of the release beside those that every one has.
        """
        inputs = self._inputs(new, replay, more)
        key = identity(inputs)
        made = parallel.by_leader(lambda: releases.find(self.workspace, key) is None)
        if made:
            self._make(inputs, new, batches, label, replay, more)
        release = releases.release(self.workspace, parallel.by_leader(lambda: self._in_use(key)))
        return Outcome(release, made, release.facts["fidelity"])

    def _in_use(self, key: str) -> str:
        """The id of a release; it is put into use where there was none before."""
        found = releases.find(self.workspace, key)
        assert found
        # Also for a release that was made before: a kill may have come between its commit and the pointer to it.
        if releases.current(self.workspace) is None:
            releases.promote(self.workspace, found.id, "first")
        return found.id

    def _make(
        self,
        inputs: dict[str, Any],
        new: list[str],
        batches: Callable[[int], Rows],
        label: str,
        replay: Replay | None,
        more: Mapping[str, Any] | None,
    ) -> None:
        """Train, all processes together; the leader alone goes on from there to the release."""
        key = identity(inputs)
        run = self.workspace.runs / f"{label}-{key[:12]}"
        student, began = Student.load(self.start), time.monotonic()
        before = {name: value.clone() for name, value in student.model.state_dict().items()}
        samples = Samples.of(student, self.pixels, self.corpus, self.bank)
        with whole_store(self.workspace) as store, self._own_store() as own:
            taught = distill(
                student,
                self._sources(store, own, new, batches),
                samples,
                self.bank,
                batches,
                self.config,
                run,
                earlier=self._earlier(replay),
                seed=self.workspace.config.seed,
                identity=key,
                label=label,
                progress=self.progress,
                trackers=self.workspace.config.log,
            )
        if not parallel.leads():
            return
        step, replayed = self._toward(student, before), self._replayed(replay, new, taught.lessons.drawn)
        facts = {
            "identity": key,
            "inputs": inputs,
            "parent": self.parent.id if self.parent else None,
            "teachers": [*(self.parent.teachers if self.parent else []), *new],
            "new": new,
            "recipe": self.config.recipe,
            "steps": taught.steps,
            "batch_size": self.config.batch_size,
            "seconds": round(time.monotonic() - began, 1),
            "fidelity": taught.fidelity,
            **({"step": step.size, "tried": step.tried, "budget": taught.budget} if step else {}),
            "lessons": dict(taught.lessons.taught),
            "replayed": len({sample for samples in replayed.values() for sample in samples}),
            **releases.licences(
                self.parent,
                {name: self.specs[name].license for name in new},
                None if self.parent else started_from(self.workspace),
            ),
            "student": shape_of(student),
            "claimed": self._on_claim(new),
            **(more or {}),
        }
        commit_student(self.background, student, taught.heads, replayed, run / "log.jsonl", facts)

    def _on_claim(self, new: Sequence[str]) -> dict[str, dict[str, float]]:
        """Claims by teacher and domain on which a person let it teach, for this release or those that it grew from."""
        claimed = dict(self.parent.facts.get("claimed", {})) if self.parent else {}
        for name in new:
            domains = self.trust[name].domains.items()
            if on_claim := {domain: found.claimed for domain, found in domains if found.on_claim}:
                claimed[name] = on_claim
        return claimed

    def _earlier(self, replay: Replay | None) -> Earlier | None:
        if self.parent is None or replay is None:
            return None
        watched = {
            (teacher, domain): rows
            for (teacher, domain), rows in replay.watched.items()
            if teacher != UNTAUGHT and self._teaches(teacher, domain)
        }
        return Earlier(load_heads(self.parent.heads), watched)

    def _toward(self, student: Student, parent: Weights) -> Step | None:
        """Put the student where the configuration wants it between the parent and what it was taught."""
        if not isinstance(self.config, IncrementalConfig):
            return None
        candidate = {name: value.clone() for name, value in student.model.state_dict().items()}
        if self.config.keep != "search":
            mix(student, parent, candidate, 1 - self.config.keep)
            return Step(1 - self.config.keep, {})
        gate, loss = self.gate, self.config.loss
        taught = self.taught(self.earlier)
        found = largest_step(
            student, parent, candidate, self.corpus, self.pixels, gate, loss, self.progress, domains=taught
        )
        if found.size:
            return found
        mix(student, parent, candidate, STEPS[-1])  # the parent itself is no candidate; the audit has the say
        return Step(STEPS[-1], found.tried)

    def _sources(
        self, store: FeatureStore, own: FeatureStore | None, new: list[str], batches: Callable[[int], Rows]
    ) -> list[Source]:
        taught = [
            Features(self.specs[name], self.corpus, store).source(self.bank, self.trust[name].mask) for name in new
        ]
        if own is None or not isinstance(batches, MixedBatches):
            return taught
        for name in self.earlier:
            # On rows that are fresh as well: where domains overlap, the newcomer is not left alone with them.
            source = Features(self.specs[name], self.corpus, store).source(self.bank, self.trust[name].mask)
            taught.append(replace(source, turn=partial(batches.has_turn, name)))
        if factor := getattr(self.config, "parent", 0.0):
            unclaimed = ~np.any([self.trust[name].mask for name in new], axis=0) & (self.corpus.split == "train")
            old = Features(self.parent_spec, self.corpus, own)
            kept = unclaimed & ~self._given_up(new)
            taught.append(old.source(self.bank, kept, heads=False, factor=factor))
        return taught

    def taught(self, teachers: Sequence[str]) -> list[str]:
        """Domains of the teachers: trusted with the whole of them, or declared and admitted for a part.

        A lucky sample here and there, which the 90 % rule admits in domains that a teacher knows nothing of, is not
        enough.
        """
        return [domain for domain in self.corpus.domains if any(self._teaches(name, domain) for name in teachers)]

    def _teaches(self, teacher: str, domain: str) -> bool:
        found = self.trust[teacher].domains.get(domain)
        return found is not None and (found.trusted or (domain in self.specs[teacher].domains and found.admitted > 0))

    def _given_up(self, new: Sequence[str]) -> Mask:
        """(N,) samples that nobody taught in domains that a newcomer teaches: what the parent guessed there may go."""
        masks = {name: self.trust[name].mask for name in (*self.earlier, *new)}
        untaught = with_untaught(self.corpus, masks, {})[UNTAUGHT]
        return untaught & np.isin(self.corpus.domain, self.taught(new))

    def _extract_parent(self) -> None:
        """The parent's own features; what is in the store already is not asked for again."""
        if not parallel.leads():
            return
        spec = self.parent_spec
        job = Job(spec, lambda: open_clip.load(spec, resolve(spec), "cpu"))
        with FeatureStore.open(self.workspace.own_store, "w") as store:
            extract(self.corpus, corpus_texts(self.corpus), [job], store, self.progress).require()

    def _own_store(self) -> AbstractContextManager[FeatureStore | None]:
        """Where the parent's features are: never in a sealed generation. None if there is no parent."""
        return FeatureStore.open(self.workspace.own_store) if self.parent else nullcontext()

    def _inputs(self, new: list[str], replay: Replay | None, more: Mapping[str, Any] | None) -> dict[str, Any]:
        """All that decides what comes out."""
        used = [*new, *(self.earlier if replay else ())]
        return {
            "corpus": self.corpus.fingerprint,
            "seed": self.workspace.config.seed,
            "settings": self.config.model_dump(mode="json"),
            "start": weights_digest(self.start),
            "parent": self.parent.digest if self.parent else None,
            "gate": self.gate.hash if self.parent else None,  # what a candidate has to hold is a part of it
            "teachers": {name: self.specs[name].fingerprint for name in used},
            "trust": {name: self.trust[name].digest for name in used},
            "replay": None if replay is None else digest(self._named(replay.strata)),
            "more": dict(more or {}),
        }

    @property
    def background(self) -> Background:
        """What ``commit_student`` needs beside the student."""
        return Background(self.workspace, self.corpus, self.pixels, self.gate, self.trust, self.parent)

    def _replayed(self, replay: Replay | None, new: Sequence[str], drawn: Mask) -> dict[str, list[str]]:
        """The part of the replay list that was really replayed: drawn, and not because a newcomer teaches it."""
        if replay is None:
            return {}
        old = drawn & ~np.any([self.trust[name].mask for name in new], axis=0)
        return self._named({key: rows[old[rows]] for key, rows in replay.strata.items() if old[rows].any()})

    def _named(self, strata: Mapping[Stratum, Rows]) -> dict[str, list[str]]:
        """Sample ids by ``teacher/domain``; samples that nobody taught stand under ``/domain``."""
        return {"/".join(key): [str(name) for name in self.corpus.sample_id[rows]] for key, rows in strata.items()}
