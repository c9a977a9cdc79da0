"""Stage 2 as one call: from a student, sources and samples to a taught student with its heads."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from mmkd_core.distill.bank import Bank
from mmkd_core.distill.config import DistillConfig
from mmkd_core.distill.heads import TeacherHead
from mmkd_core.distill.normalise import PhiS
from mmkd_core.distill.objective import Objective, Samples
from mmkd_core.distill.paper import PaperObjective, fit_alignment
from mmkd_core.distill.sources import Rows, Source
from mmkd_core.progress import Progress
from mmkd_core.student.model import Student
from mmkd_core.student.pretrain import clamp_logit_scale
from mmkd_core.student.training import fit

FIT_ROWS = 20_000


@dataclass(frozen=True)
class Distilled:
    """What stage 2 leaves beside the student, which is trained in place."""

    heads: dict[str, TeacherHead]
    log: list[dict[str, float]]
    fidelity: dict[str, float]
    """Per new head: mean cosine of the ridge fit, before any training."""


def distill(
    student: Student,
    sources: Sequence[Source],
    samples: Samples,
    bank: Bank,
    batches: Callable[[int], Rows],
    config: DistillConfig,
    folder: Path,
    *,
    heads: dict[str, TeacherHead] | None = None,
    freeze_norms: bool = False,
    seed: int,
    identity: str,
    label: str,
    progress: Progress | None = None,
) -> Distilled:
    """Teach ``student`` in place.

    Args:
        heads: heads of earlier teachers (of the parent release); sources without one get a head by ridge regression.
        freeze_norms: keep running statistics of batch norms (an incremental run sees another mix of domains).
        identity: hash of everything that determines the result; see ``training.fit``.
    """
    if config.recipe == "paper":
        return _paper(student, sources, samples, batches, config, folder, seed, identity, label, progress)
    heads = dict(heads or {})
    fidelity = {}
    for source in sources:
        if source.heads and source.name not in heads and source.mask.sum() >= 2:
            heads[source.name], fidelity[source.name] = warm_head(student, source, samples)
    used = {source.name: heads[source.name] for source in sources if source.name in heads}
    modules = nn.ModuleList([student.model, *used.values()])
    active = [source for source in sources if source.mask.any()]
    objective = Objective(student, used, active, samples, bank, batches, config, seed)
    log = fit(
        modules,
        objective,
        config,
        folder,
        identity=identity,
        label=label,
        progress=progress,
        freeze_norms=freeze_norms,
        after_step=lambda: clamp_logit_scale(student),
    )
    return Distilled(heads, log, fidelity)


@torch.no_grad()
def interpolate(student: Student, parent: Student, keep: float) -> None:
    """Move ``student`` in place to ``keep * parent + (1 - keep) * student``.

    Between a model and its fine-tuned child lies one that keeps most of what the child learnt and of what it lost
    (WiSE-FT, Wortsman et al. 2022, arXiv 2109.01903). Both must share their batch norms' statistics.
    """
    old = parent.model.state_dict()
    for name, value in student.model.state_dict().items():
        if value.is_floating_point():
            value.lerp_(old[name], keep)


def warm_head(student: Student, source: Source, samples: Samples) -> tuple[TeacherHead, float]:
    """A head for ``source`` by ridge regression from the frozen student; returns it and its mean fidelity (cosine)."""
    rows = np.flatnonzero(source.mask)[:FIT_ROWS]
    features = {"image": source.images(rows), "text": source.texts(rows)}
    head = TeacherHead(
        student.embed_dim, {tower: PhiS.fit(x.numpy()) for tower, x in features.items()}, source.logit_scale
    )
    embedded = {"image": torch.from_numpy(student.embed_images(samples.pixels[rows]))}
    with torch.inference_mode():
        student.model.eval()
        tokens = samples.tokens[torch.from_numpy(rows)]
        parts: tuple[Tensor, ...] = tokens.split(512)  # type: ignore[no-untyped-call]
        embedded["text"] = torch.cat([nn.functional.normalize(student.texts(part), dim=-1) for part in parts])
    fits = [head.fit_ridge(embedded[tower].clone(), features[tower], tower) for tower in features]
    return head, float(np.mean(fits))


def _paper(
    student: Student,
    sources: Sequence[Source],
    samples: Samples,
    batches: Callable[[int], Rows],
    config: DistillConfig,
    folder: Path,
    seed: int,
    identity: str,
    label: str,
    progress: Progress | None,
) -> Distilled:
    alignment = fit_alignment(sources, student.embed_dim, seed)
    scale = nn.ParameterDict({"cross": nn.Parameter(torch.tensor(float(np.log(1 / 0.07))))})
    objective = PaperObjective(student, scale, alignment, sources, samples, batches, config, seed)
    log = fit(
        nn.ModuleList([student.model, scale]),
        objective,
        config,
        folder,
        identity=identity,
        label=label,
        progress=progress,
        after_step=lambda: clamp_logit_scale(student),
    )
    return Distilled({}, log, {})
