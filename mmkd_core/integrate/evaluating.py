"""`mmkd eval` on evaluation sets: any model of the workspace, frozen, in any of the six tasks.

A model is a locked teacher, a release, ``stage-1``, or ``ensemble``: all locked teachers at once, whose cosine is the
mean of their cosines by logit scale, so that its zero-shot choice is that of the mean of their logits.

Teachers' features go through the store like all others: a second evaluation asks no teacher again.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from feature_store import FeatureStore
from mmkd_core.contract import TeacherSpec
from mmkd_core.data.eval_sets import EvalSet, check_pixels, times
from mmkd_core.data.images import load_pixels
from mmkd_core.data.manifest import Corpus, image_id, text_id
from mmkd_core.errors import DataError
from mmkd_core.evaluate import diagnosis, probe, retrieval, survival, vqa, zero_shot
from mmkd_core.evaluate.outcomes import Outcomes
from mmkd_core.extract import extract
from mmkd_core.integrate import releases
from mmkd_core.integrate.extracting import device, locked_jobs
from mmkd_core.integrate.features import Features
from mmkd_core.integrate.measuring import STAGE_ONE
from mmkd_core.integrate.student_data import stage_one
from mmkd_core.integrate.workspace import Workspace
from mmkd_core.progress import Progress, Silent
from mmkd_core.student.model import Student
from mmkd_core.trust import unit

Array = NDArray[np.float32]
ENSEMBLE = "ensemble"
TASKS = ("zero-shot", "linear-probe", "retrieval", "vqa", "survival", "diagnosis")


@dataclass(frozen=True, eq=False)
class Frozen:
    """What a task sees of a model: unit-norm features of the set's N rows and of its texts, and a logit scale."""

    images: Array
    texts: Callable[[Sequence[str]], Array]
    logit_scale: float


def evaluate_set(
    workspace: Workspace, found: EvalSet, model: str, task: str, progress: Progress | None = None
) -> tuple[list[Outcomes], list[Path]]:
    """Outcomes of a model in one task of a set, and the parquet files that hold them.

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
    folder = _folder(workspace, found, model)
    outcomes, paths = outcomes_of(found, corpus, frozen, task, workspace.config.seed), []
    for one in outcomes:
        paths.append(folder / f"{one.protocol.removeprefix('mmkd/').replace('@', '-')}.parquet")
        one.save(paths[-1])
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


def texts_of(found: EvalSet, task: str) -> list[str]:
    """Every distinct text that a task needs features of."""
    texts: list[str] = []
    if task == "zero-shot":
        texts = [text for sentences in found.prompts.values() for text in sentences]
    if task == "retrieval":
        texts = [str(text) for text in found["caption"]]
    if task == "vqa":
        for row, question in enumerate(found["question"]):
            texts += [str(question), *(vqa.sentence(str(question), choice) for choice in choices(found, row))]
    return list(dict.fromkeys(texts))


def choices(found: EvalSet, row: int) -> list[str]:
    """What a closed question may be answered with: its own list, or yes and no; an open one has none."""
    given = found.columns["choices"][row] if "choices" in found.columns else None
    if given:
        return [str(choice) for choice in json.loads(given)]
    answer = vqa.normal(str(found["answer"][row]))
    return ["yes", "no"] if answer in ("yes", "no") else []


def outcomes_of(found: EvalSet, corpus: Corpus, model: Frozen, task: str, seed: int) -> list[Outcomes]:
    """What a model says in one task: one table, or two for VQA."""
    make: dict[str, Callable[[], list[Outcomes]]] = {
        "zero-shot": lambda: [_zero_shot(found, model)],
        "linear-probe": lambda: [_probe(found, model, seed)],
        "retrieval": lambda: [_retrieval(found, corpus, model)],
        "vqa": lambda: _vqa(found, model, seed),
        "survival": lambda: [_survival(found, model, seed)],
        "diagnosis": lambda: [_diagnosis(found, model, seed)],
    }
    return make[task]()


_SPLITS = ("train", "val", "test")


def _zero_shot(found: EvalSet, model: Frozen) -> Outcomes:
    rows = np.array([row for row in found.where("test") if found["label"][row] is not None], np.int64)
    classes = {name: model.texts(found.prompts[name]) for name in found.task.classes or found.prompts}
    columns = (found[name][rows] for name in ("label", "group_id", "sample_id"))
    return zero_shot.choose(model.images[rows], classes, model.logit_scale, *columns)


def _retrieval(found: EvalSet, corpus: Corpus, model: Frozen) -> Outcomes:
    rows = found.where("test")
    captions = [str(text) for text in found["caption"][rows]]
    ids = np.array([text_id(text) for text in captions], object)
    return retrieval.search(
        model.images[rows], model.texts(captions), corpus.image_id[rows], ids, found["group_id"][rows]
    )


def _labelled(found: EvalSet, model: Frozen, split: str) -> probe.Labelled:
    rows = np.array([row for row in found.where(split) if found["label"][row] is not None], np.int64)
    if not len(rows) and split != "val":
        raise DataError(f"no labelled image is in the {split} split", where=str(found.folder), next="Split the set.")
    return probe.Labelled(model.images[rows], *(found[name][rows] for name in ("label", "group_id", "sample_id")))


def _probe(found: EvalSet, model: Frozen, seed: int) -> Outcomes:
    train, val, test = (_labelled(found, model, split) for split in _SPLITS)
    return probe.predict(train, val, test, seed)


def _survival(found: EvalSet, model: Frozen, seed: int) -> Outcomes:
    """Patients outside the train split: the folds are made among them, and no student was trained on any."""
    rows = np.concatenate([found.where("val"), found.where("test")])
    time, event = times(found)
    return survival.predict(survival.pool(model.images[rows], found["group_id"][rows], time[rows], event[rows]), seed)


def _diagnosis(found: EvalSet, model: Frozen, seed: int) -> Outcomes:
    train, val, test = (diagnosis.pool(_labelled(found, model, split), found.task.positive) for split in _SPLITS)
    return diagnosis.predict(train, val, test, seed)


def _vqa(found: EvalSet, model: Frozen, seed: int) -> list[Outcomes]:
    parts = {split: _questions(found, model, found.where(split)) for split in _SPLITS}
    tables = [vqa.probe(parts["train"], parts["val"], parts["test"], seed)]
    closed = [int(row) for row in found.where("test") if choices(found, int(row))]
    if closed:
        names = [choices(found, row) for row in closed]
        asked = [str(found["question"][row]) for row in closed]
        ranked = [model.texts([vqa.sentence(q, c) for c in options]) for q, options in zip(asked, names, strict=True)]
        columns = (found[name][closed] for name in ("answer", "group_id", "sample_id"))
        tables.append(vqa.rank_closed(model.images[closed], ranked, names, *columns))
    return tables


def _questions(found: EvalSet, model: Frozen, rows: NDArray[np.int64]) -> vqa.Questions:
    closed = np.array([bool(choices(found, int(row))) for row in rows], bool)
    question = model.texts([str(text) for text in found["question"][rows]])
    answer, group, sample = (found[name][rows] for name in ("answer", "group_id", "sample_id"))
    return vqa.Questions(model.images[rows], question, answer, closed, group, sample)


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


def _folder(workspace: Workspace, found: EvalSet, model: str) -> Path:
    """Under the number of a release: ``current`` is another one tomorrow."""
    release = releases.named(workspace, model)
    return workspace.evaluations / (release.id if release else model) / found.task.name


def _check_unseen(workspace: Workspace, corpus: Corpus, found: EvalSet) -> None:
    """Refuse to test on what the student was trained on."""
    try:
        own = workspace.corpus()
    except DataError:
        return  # no corpus, no training
    trained: Any = set(own.image_id[own.split == "train"])
    seen = [row for row in found.where("test") if corpus.image_id[row] in trained]
    if seen:
        first = found["image"][seen[0]]
        what = f"{len(seen)} test images are in the training split of this workspace, the first is {first}"
        raise DataError(what, where=str(found.folder), next="Leave them out, or put them into the set's train split.")


def saved_outcomes(
    workspace: Workspace, found: EvalSet, first: str, second: str, task: str | None = None
) -> list[tuple[Outcomes, Outcomes]]:
    """Outcomes of two models that were evaluated on a set, protocol by protocol.

    Raises:
        DataError: they were not both evaluated there.
    """
    folders = [_folder(workspace, found, model) for model in (first, second)]
    names = [{path.name for path in folder.glob("*.parquet")} for folder in folders]
    both = sorted(name for name in names[0] & names[1] if task is None or name.startswith(task))
    if not both:
        lacking = first if not names[0] else second
        what = f"{lacking} was not evaluated on {found.task.name}"
        raise DataError(what, next=f"Run `mmkd eval set {found.folder} {lacking}`")
    return [(Outcomes.load(folders[0] / name), Outcomes.load(folders[1] / name)) for name in both]
