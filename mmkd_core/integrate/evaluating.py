"""`mmkd eval` on evaluation sets: any model of the workspace, frozen, in any of the six tasks.

A model is a locked teacher, a release, ``stage-1``, or ``ensemble``: all locked teachers at once, whose cosine is the
mean of their cosines by logit scale, so that its zero-shot choice is that of the mean of their logits.

Teachers' features go through the store like all others: a second evaluation asks no teacher again.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from feature_store import FeatureStore
from mmkd_core.contract import TeacherSpec
from mmkd_core.data.eval_sets import EvalSet, check_pixels
from mmkd_core.data.images import load_pixels
from mmkd_core.data.manifest import MANIFEST, Corpus, image_id
from mmkd_core.errors import DataError
from mmkd_core.evaluate import survival
from mmkd_core.evaluate.outcomes import Outcomes
from mmkd_core.evaluate.risk_groups import risk_groups
from mmkd_core.extract import extract
from mmkd_core.integrate import releases
from mmkd_core.integrate.eval_tasks import Array, Frozen, outcomes_of, texts_of
from mmkd_core.integrate.evaluations import ENSEMBLE, keep_outcomes
from mmkd_core.integrate.extracting import device, locked_jobs
from mmkd_core.integrate.features import Features
from mmkd_core.integrate.measuring import STAGE_ONE
from mmkd_core.integrate.stage_one import stage_one
from mmkd_core.integrate.workspace import Workspace
from mmkd_core.progress import Progress, Silent
from mmkd_core.report.survival_plot import survival_plot
from mmkd_core.report.svg import standalone
from mmkd_core.student.model import Student
from mmkd_core.trust import unit


def evaluate_set(
    workspace: Workspace, found: EvalSet, model: str, task: str, progress: Progress | None = None
) -> tuple[list[Outcomes], list[Path]]:
    """Outcomes of a model in one task of a set, and the files that hold them; survival comes with a figure.

    Raises:
        DataError: the set does not have the task, or shares an image with what the student was trained on.
    """
    if task not in found.task.tasks:
        what = f"{found.task.name} has no task {task}"
        raise DataError(what, where=str(found.folder), next=f"It has {', '.join(found.task.tasks)}.")
    corpus = as_corpus(found, progress)
    check_pixels(corpus.image_id, corpus.split, str(found.folder))
    _check_unseen(workspace, corpus, found)
    frozen = freeze(workspace, model, corpus, texts_of(found, task), progress)
    outcomes, paths = outcomes_of(found, corpus, frozen, task, workspace.config.seed), []
    for one in outcomes:
        paths.append(keep_outcomes(workspace, found, model, corpus, one))
        if one.protocol == survival.PROTOCOL and (groups := risk_groups(one)):
            drawn = survival_plot(groups, f"{model} on {found.task.name}", "survival")
            paths.append(paths[-1].with_suffix(".svg"))
            paths[-1].write_text(standalone(drawn), encoding="utf-8")
    return outcomes, paths


def as_corpus(found: EvalSet, progress: Progress | None = None) -> Corpus:
    """The set's rows as samples: each image is decoded once to know it by its pixels."""
    from mmkd_core.data.decode import decode

    known: dict[str, str] = {}
    with (progress or Silent()).task("read images", len(set(found["image"])), "images") as advance:
        for row, name in enumerate(found["image"]):
            if name not in known:
                known[name] = image_id(decode(found.path(row)))
                advance(1)
    words = [found.columns[name] for name in ("caption", "question") if name in found.columns]
    split = found.columns.get("split")
    rows = [
        {
            "image": str(found.path(row).absolute()),
            "image_id": known[found["image"][row]],
            "caption": next((str(column[row]) for column in words if column[row]), found.task.domain),
            "domain": found.task.domain,
            "label": found.columns["label"][row] if "label" in found.columns else None,
            "group_id": found["group_id"][row],
            "split": split[row] if split is not None else "test",
        }
        for row in range(len(found))
    ]
    return Corpus.build(found.folder, rows, {})


def freeze(
    workspace: Workspace, model: str, corpus: Corpus, texts: list[str], progress: Progress | None = None
) -> Frozen:
    """Features of a model for the rows of ``corpus`` and for ``texts``.

    Raises:
        ReleaseError: no such model.
        PluginError: a teacher failed.
    """
    release = releases.named(workspace, model)
    if release or model == STAGE_ONE:
        student = Student.load(release.student if release else stage_one(workspace))
        _, first, row = np.unique(corpus.image_id.astype(str), return_index=True, return_inverse=True)
        cache = workspace.state / "pixels"
        resize = student.preprocess["resize_mode"]
        pixels = load_pixels(corpus.take(first), None, student.pixels, resize, cache, progress)
        images = student.embed_images(pixels, progress)[row]
        return Frozen(images, _table(texts, student.embed_texts(texts)), student.logit_scale)
    jobs = [job for job in locked_jobs(workspace, device()) if model in (ENSEMBLE, job.spec.name)]
    if not jobs:
        raise DataError(
            f"no model is called {model!r} here", next=f"Name a teacher, a release, {STAGE_ONE} or {ENSEMBLE}."
        )
    # Also where mmkd.yaml reads a sealed generation: what a set needs is of this workspace's own.
    with workspace.writing(), FeatureStore.open(workspace.own_store, "w") as store:
        extract(corpus, texts, jobs, store, progress, workspace.config.extract).require()
    with FeatureStore.open(workspace.own_store) as store:
        members = [_stored(Features(job.spec, corpus, store), job.spec, texts) for job in jobs]
    return members[0] if len(members) == 1 else together(members, texts)


def together(members: Sequence[Frozen], texts: Sequence[str]) -> Frozen:
    """All of them as one model: features side by side, each scaled so that logits add up.

    With ``s`` a member's logit scale and ``z`` its unit-norm feature, ``[sqrt(s_1) z_1, sqrt(s_2) z_2, ...]`` of image
    and text have the product ``s_1 cos_1 + s_2 cos_2 + ...``.
    """
    scales = np.sqrt([member.logit_scale for member in members], dtype=np.float32)

    def joined(parts: Sequence[Array]) -> Array:
        return unit(np.concatenate([scale * part for scale, part in zip(scales, parts, strict=True)], axis=1))

    words = joined([member.texts(texts) for member in members]) if texts else np.empty((0, 1), np.float32)
    mean = float((scales**2).sum() / len(members))
    return Frozen(joined([member.images for member in members]), _table(texts, words), mean)


def _stored(features: Features, spec: TeacherSpec, texts: list[str]) -> Frozen:
    words = unit(features.texts(tuple(texts))) if texts else np.empty((0, spec.embed_dim), np.float32)
    return Frozen(unit(features.images()), _table(texts, words), spec.logit_scale)


def _table(texts: Sequence[str], features: Array) -> Callable[[Sequence[str]], Array]:
    place = {text: row for row, text in enumerate(texts)}
    return lambda asked: features[[place[text] for text in asked]]


def _check_unseen(workspace: Workspace, corpus: Corpus, found: EvalSet) -> None:
    """Refuse to test on what the student was trained on."""
    if not (workspace.root / workspace.config.data / MANIFEST).exists():
        return  # no corpus, no training
    own = workspace.corpus()
    trained: Any = set(own.image_id[own.split == "train"])
    seen = [row for row in found.where("test") if corpus.image_id[row] in trained]
    if seen:
        first = found["image"][seen[0]]
        what = f"{len(seen)} test images are in the training split of this workspace, the first is {first}"
        raise DataError(what, where=str(found.folder), next="Leave them out, or put them into the set's train split.")
