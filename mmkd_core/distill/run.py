"""Stage 2 as one call: from a student, sources and samples to a taught student with its heads."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from mmkd_core.distill.align import fit_alignment
from mmkd_core.distill.averaging import measure_norms
from mmkd_core.distill.balance import dispersion, shares
from mmkd_core.distill.bank import Bank
from mmkd_core.distill.budget import Watch
from mmkd_core.distill.config import RECIPES, BudgetConfig, DistillConfig, IncrementalConfig, Parts
from mmkd_core.distill.course import Course, urgent
from mmkd_core.distill.heads import TeacherHead
from mmkd_core.distill.lessons import Lessons, lessons
from mmkd_core.distill.normalise import PhiS
from mmkd_core.distill.objective import Objective, Samples
from mmkd_core.distill.paper import PaperObjective
from mmkd_core.distill.replay import Stratum
from mmkd_core.distill.sources import Source
from mmkd_core.progress import Progress
from mmkd_core.student import parallel
from mmkd_core.student.batches import Rows
from mmkd_core.student.model import Student
from mmkd_core.student.pretrain import clamp_logit_scale
from mmkd_core.student.training import fit
from mmkd_core.student.tuning import tuned

FIT_ROWS = 20_000
DISPERSION_ROWS = 2_000
NORM_BATCHES = 32
"""Batches from which the batch norms of averaged weights are measured."""


@dataclass(frozen=True)
class Distilled:
    """What stage 2 leaves beside the student, which is trained in place."""

    heads: dict[str, TeacherHead]
    log: list[dict[str, float]]
    lessons: Lessons
    """Rows of the steps that were taken, and their teachers."""
    fidelity: dict[str, float]
    """Per new head: mean cosine of the ridge fit, before any training."""
    budget: dict[str, dict[str, float]] = field(default_factory=dict)
    """By ``teacher/domain``: bound, loss and multiplier at the end (``budget.Budget.facts``)."""

    @property
    def steps(self) -> int:
        """Steps that were taken: fewer than were asked for where the run stopped early."""
        return int(self.log[-1]["step"])


@dataclass(frozen=True)
class Earlier:
    """What an incremental run must not lose.

    Attributes:
        heads: of earlier teachers, from the parent release.
        watched: rows by teacher and domain on which forgetting is watched.
    """

    heads: dict[str, TeacherHead]
    watched: Mapping[Stratum, Rows]

    def watch(
        self, student: Student, sources: Sequence[Source], samples: Samples, bank: Bank, config: BudgetConfig
    ) -> Watch:
        """Made while ``student`` is still the parent."""
        named = {source.name: source for source in sources}
        return Watch(student, samples, bank, named, self.watched, config.rows_per_check)


def distill(
    student: Student,
    sources: Sequence[Source],
    samples: Samples,
    bank: Bank,
    batches: Callable[[int], Rows],
    config: DistillConfig,
    folder: Path,
    *,
    earlier: Earlier | None = None,
    seed: int,
    identity: str,
    label: str,
    progress: Progress | None = None,
    trackers: Sequence[str] = (),
) -> Distilled:
    """Teach ``student`` in place.

    Args:
        earlier: what was learnt before and is not to be lost. Sources without a head get one by ridge regression.
        identity: hash of everything that determines the result; see ``training.fit``.
        trackers: see ``training.fit``.
    """
    student.model.to(parallel.device())  # heads are fitted from embeddings of many images
    kept = isinstance(config, IncrementalConfig) and config.norms == "keep"
    frozen_norms = kept or config.train != "full"  # frozen layers keep their statistics too
    train = partial(
        fit,
        config=config,
        folder=folder,
        identity=identity,
        label=label,
        progress=progress,
        freeze_norms=frozen_norms,
        trackers=trackers,
    )
    parts = config.parts  # of the recipe
    if parts.heads == "none":
        return _paper(student, sources, samples, batches, config, seed, train)
    heads = dict(earlier.heads if earlier else {})
    fidelity = {}
    for source in sources:
        if source.heads and source.name not in heads and source.mask.sum() >= 2:
            heads[source.name], fidelity[source.name] = warm_head(student, source, samples, parts, seed)
            if progress:
                progress.say(f"{source.name}: a new head, fidelity {fidelity[source.name]:.3f} before any training")
    used = {source.name: heads[source.name] for source in sources if source.name in heads}
    if parts.weights.afd:
        for head in used.values():
            head.fuse(seed)  # a head of an earlier release may have learnt without
    active = [source for source in sources if source.mask.any()]
    with tuned(student, config.train, seed):
        trained = nn.ModuleList([student.model, *used.values()])
        averaged = nn.ModuleList([student.model, *(head for name, head in used.items() if name in fidelity)])
        course, frozen = Course(student, averaged, config.average, config.steps), 0
        if earlier and isinstance(config, IncrementalConfig):
            frozen = round(config.heads_first * config.steps)
            watch = earlier.watch(student, active, samples, bank, config.budget)
            course = Course(student, averaged, config.average, config.steps, watch, config.budget)
            active = urgent(active, course.budget, samples, bank)
        balance = _shares(active, used, parts)
        objective = Objective(student, used, active, samples, bank, batches, config, seed, frozen, balance)
        log = train(nn.ModuleList([trained, course]), objective, after_step=course)
        course.finish()
    if course.average is not None and not frozen_norms:
        rows = (batches(step) for step in range(min(config.steps, NORM_BATCHES)))
        measure_norms(student, (student.prepare(samples.pixels[index]) for index in rows))
    verdict = course.verdict()
    if verdict and progress:
        progress.say(f"{label}: {verdict}")
    taken = lessons(objective, active, batches, int(log[-1]["step"]))
    return Distilled(heads, log, taken, fidelity, course.budget.facts())


def _shares(sources: Sequence[Source], heads: Mapping[str, TeacherHead], parts: Parts) -> dict[str, float]:
    """Factor of each teacher's FD, where they are balanced by dispersion."""
    if parts.teacher_balance != "dispersion":
        return {}
    found = {}
    for source in sources:
        rows = np.flatnonzero(source.mask)[:DISPERSION_ROWS]
        if source.name in heads and len(rows) >= 2:
            phi = heads[source.name].normalisers
            towers = (phi["image"].forward(source.images(rows)), phi["text"].forward(source.texts(rows)))
            found[source.name] = float(np.mean([dispersion(targets) for targets in towers]))
    return shares(found)


def warm_head(
    student: Student, source: Source, samples: Samples, parts: Parts = RECIPES["mmkd"], seed: int = 0
) -> tuple[TeacherHead, float]:
    """A head for ``source`` by ridge regression from the frozen student; returns it and its mean fidelity (cosine)."""
    rows = np.flatnonzero(source.mask)[:FIT_ROWS]
    features = {"image": source.images(rows), "text": source.texts(rows)}
    plain = parts.aligner == "none"
    phis = {t: PhiS.identity(x.shape[1]) if plain else PhiS.fit(x.numpy()) for t, x in features.items()}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        head = TeacherHead(student.embed_dim, phis, source.logit_scale, mlp=parts.heads == "mlp")
    embedded = {"image": torch.from_numpy(student.embed_images(samples.pixels[rows]))}
    with torch.inference_mode():
        student.model.eval()
        tokens = samples.tokens[torch.from_numpy(rows)]
        pieces: tuple[Tensor, ...] = tokens.split(512)  # type: ignore[no-untyped-call]
        embedded["text"] = torch.cat([nn.functional.normalize(student.texts(piece), dim=-1) for piece in pieces]).cpu()
    fits = [head.fit_ridge(embedded[tower].clone(), features[tower], tower) for tower in features]
    return head, float(np.mean(fits))


def _paper(
    student: Student,
    sources: Sequence[Source],
    samples: Samples,
    batches: Callable[[int], Rows],
    config: DistillConfig,
    seed: int,
    train: Callable[..., list[dict[str, float]]],
) -> Distilled:
    alignment = fit_alignment(config.parts.aligner, sources, student.embed_dim, seed)
    scale = nn.ParameterDict({"cross": nn.Parameter(torch.tensor(float(np.log(1 / 0.07))))})
    objective = PaperObjective(student, scale, alignment, sources, samples, batches, config, seed)
    with tuned(student, config.train, seed):
        modules = nn.ModuleList([student.model, scale])
        log = train(modules, objective, after_step=lambda done: clamp_logit_scale(student))
    return Distilled({}, log, lessons(objective, sources, batches, int(log[-1]["step"])), {})
