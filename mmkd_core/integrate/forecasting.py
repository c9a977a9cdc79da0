"""What a teacher would bring, disturb and cost, before any training: asked of a sample of the corpus.

The teacher answers for the validation images, for a few training images of every earlier teacher, and for prompts and
the bank; what it answers is stored, so that a later extraction does not ask again. Everything else is in the store.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from feature_store import FeatureStore
from mmkd_core.contract import TeacherSpec
from mmkd_core.data.manifest import Corpus
from mmkd_core.distill.bank import Bank
from mmkd_core.distill.novelty import FOLDS, Interference, Novelty, interference, novelty, only_right
from mmkd_core.distill.reservoir import Reservoir
from mmkd_core.errors import PluginError
from mmkd_core.evaluate.zero_shot import class_texts, zero_shot
from mmkd_core.extract import extract
from mmkd_core.extract.plan import Share, plan
from mmkd_core.integrate import releases
from mmkd_core.integrate.extracting import device, locked_jobs
from mmkd_core.integrate.features import Array, Features, corpus_texts, locked_specs, open_store, whole_store
from mmkd_core.integrate.releases import Release
from mmkd_core.integrate.student_data import pixels_of, predict
from mmkd_core.integrate.workspace import Workspace
from mmkd_core.plugins import PluginHost
from mmkd_core.progress import Progress
from mmkd_core.student.model import Student
from mmkd_core.trust import TeacherTrust, posterior, unit

PROBE, PER_STRATUM = 1000, 48
"""Validation images that a novelty is measured on, and training images per earlier teacher and domain, at most."""


@dataclass(frozen=True)
class Forecast:
    """What is expected of a teacher.

    Attributes:
        novelty: what of its image features the known teachers' do not explain; None if it is the first.
        known: the teachers that it was compared with.
        right: by domain: validation samples, how many it gets right, how many only it does (neither the release in use
            nor any known teacher).
        interference: by earlier teacher and domain, on training samples of that teacher.
        extraction: what it lacks in the store, its size and time.
        training_s: seconds of the integration itself, at the pace of the release in use; None if there is none.
    """

    teacher: str
    novelty: Novelty | None
    known: list[str]
    right: dict[str, tuple[int, int, int]]
    interference: dict[tuple[str, str], Interference]
    extraction: Share
    training_s: float | None


def run_forecast(workspace: Workspace, name: str, progress: Progress | None = None) -> Forecast:
    """Ask a teacher in use for a sample and say what its integration would do.

    Raises:
        PluginError: it is not in use, or the release in use has learnt from it already.
    """
    specs, in_use = locked_specs(workspace, PluginHost.discover()), releases.current(workspace)
    if name not in specs:
        PluginHost.discover().teacher(name)  # an unknown name raises with the nearest ones
        what = f"{name} is not in use here, so it cannot be asked"
        raise PluginError(what, next=f"Run `mmkd teachers add {name}`; `mmkd teachers remove {name}` takes it back")
    known = [other for other in (in_use.teachers if in_use else specs) if other != name and other in specs]
    if in_use and name in in_use.teachers:
        raise PluginError(f"release {in_use.id} has learnt from {name} already", next=f"mmkd releases show {in_use.id}")
    corpus, config = workspace.corpus(), workspace.config
    job = next(job for job in locked_jobs(workspace, device()) if job.spec.name == name)
    with open_store(workspace) as store:
        share = plan(corpus, corpus_texts(corpus), [job], store, config.extract).teachers[0]
    strata = _strata(corpus, in_use, known, config.seed)
    probe = _probe(corpus, config.seed)
    rows = np.unique(np.concatenate([probe, *strata.values()]))
    bank = Bank.build(corpus, config.incremental.bank, config.seed)
    if share.images or share.texts:
        with FeatureStore.open(workspace.store, "w") as store:
            extract(corpus.take(rows), _texts(corpus, bank), [job], store, progress).require()
    student = Student.load(in_use.student) if in_use else None
    with whole_store(workspace) as store:
        view = _View(workspace, corpus, store, specs, bank, student, progress)
        return Forecast(
            name,
            view.novelty(name, known, probe),
            known,
            view.right(name, known, probe),
            view.interference(name, strata),
            share,
            in_use.facts["seconds"] / max(1, in_use.facts["steps"]) * config.incremental.steps if in_use else None,
        )


def _probe(corpus: Corpus, seed: int) -> Array:
    """At most ``PROBE`` validation rows, the same for every teacher."""
    val = corpus.where(split="val")
    kept = set(Reservoir.of((str(corpus.sample_id[row]) for row in val), PROBE, seed).ids)
    return np.array([row for row in val if str(corpus.sample_id[row]) in kept], np.int64)


def _strata(corpus: Corpus, in_use: Release | None, known: list[str], seed: int) -> dict[tuple[str, str], Any]:
    """By earlier teacher and domain a few of the training rows that it was trusted with."""
    strata = {}
    for teacher in known if in_use else []:
        assert in_use
        mask = TeacherTrust.load(in_use.file(f"trust/{teacher}.npz")).mask
        for domain in corpus.domains:
            rows = np.flatnonzero(mask & (corpus.domain == domain)) if len(mask) == len(corpus) else np.empty(0, int)
            if len(rows):
                by_id = {str(corpus.sample_id[row]): row for row in rows}
                chosen = Reservoir.of(by_id, PER_STRATUM, seed).ids
                strata[teacher, domain] = np.array(sorted(by_id[name] for name in chosen), np.int64)
    return strata


def _texts(corpus: Corpus, bank: Bank) -> list[str]:
    return list(dict.fromkeys([*class_texts(corpus), *(text for texts in bank.texts.values() for text in texts)]))


class _View:
    """Features and posteriors of teachers and student on parts of the corpus."""

    def __init__(
        self,
        workspace: Workspace,
        corpus: Corpus,
        store: FeatureStore,
        specs: Mapping[str, TeacherSpec],
        bank: Bank,
        student: Student | None,
        progress: Progress | None,
    ) -> None:
        self.corpus, self.store, self.specs, self.bank, self.student = corpus, store, specs, bank, student
        self.pixels = pixels_of(workspace, corpus, progress, student) if student else None

    def features(self, teacher: str, rows: Array) -> Features:
        """Of a part of the corpus: the new teacher has not been asked for the rest."""
        return Features(self.specs[teacher], self.corpus.take(rows), self.store)

    def novelty(self, name: str, known: list[str], rows: Array) -> Novelty | None:
        if not known or len(rows) < FOLDS:
            return None
        told = np.concatenate([unit(self.features(teacher, rows).images()) for teacher in known], axis=1)
        return novelty(unit(self.features(name, rows).images()), told, self.corpus.domain[rows])

    def right(self, name: str, known: list[str], rows: Array) -> dict[str, tuple[int, int, int]]:
        everyone = {teacher: self._right(teacher, rows) for teacher in (name, *known)}
        if self.student and self.pixels is not None:
            found = predict(self.student, self.corpus.take(rows), self.pixels[rows], "val")
            everyone[""] = {d: part.right for d, part in found.domains.items()}
        told = {}
        for domain, mine in everyone.pop(name).items():
            others = [row[domain] for row in everyone.values() if domain in row]
            alone = only_right(mine, np.array(others, bool).reshape(len(others), len(mine)))
            told[domain] = len(mine), int(mine.sum()), int(alone.sum())
        return told

    def _right(self, teacher: str, rows: Array) -> dict[str, Any]:
        features = self.features(teacher, rows)
        found = zero_shot(features.images(), features.classes(), features.spec.logit_scale, self.corpus.take(rows))
        return {domain: part.right for domain, part in found.domains.items()}

    def interference(self, name: str, strata: Mapping[tuple[str, str], Any]) -> dict[tuple[str, str], Interference]:
        found: dict[tuple[str, str], Interference] = {}
        if self.student is None or self.pixels is None:
            return found
        for (teacher, domain), rows in strata.items():
            texts = self.bank.texts.get(domain)
            if texts is None:
                continue
            ours = posterior(
                self.student.embed_images(self.pixels[rows]), self.student.embed_texts(texts), self.student.logit_scale
            )
            theirs = [self._posterior(who, rows, texts) for who in (teacher, name)]
            found[teacher, domain] = interference(ours, *theirs)
        return found

    def _posterior(self, teacher: str, rows: Array, texts: tuple[str, ...]) -> Array:
        features = self.features(teacher, rows)
        return posterior(unit(features.images()), unit(features.texts(texts)), features.spec.logit_scale)
