"""The six tasks on an evaluation set, from a model's frozen features: what it says, protocol by protocol.

Does not: know where features come from (``evaluating``), or make figures (``evaluate.tasks``).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mmkd_core.data.eval_sets import EvalSet, labels_of, times
from mmkd_core.data.manifest import Corpus, text_id
from mmkd_core.errors import DataError
from mmkd_core.evaluate import diagnosis, multilabel, probe, retrieval, survival, vqa, zero_shot
from mmkd_core.evaluate.outcomes import Outcomes

Array = NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class Frozen:
    """What a task sees of a model: unit-norm features of the set's N rows and of its texts, and a logit scale."""

    images: Array
    texts: Callable[[Sequence[str]], Array]
    logit_scale: float


def texts_of(found: EvalSet, task: str) -> list[str]:
    """Every distinct text that a task needs features of."""
    texts: list[str] = []
    if task == "zero-shot":
        texts = [text for sentences in [*found.prompts.values(), *found.task.absent.values()] for text in sentences]
    if task == "retrieval":
        texts = [text for captions in found["captions"] for text in captions]
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
    if found.task.multilabel:
        names = found.task.classes
        there, absent = ({n: model.texts(of[n]) for n in names} for of in (found.prompts, found.task.absent))
        return multilabel.choose(_multilabelled(found, model, "test"), there, absent, model.logit_scale)
    rows = np.array([row for row in found.where("test") if found["label"][row] is not None], np.int64)
    classes = {name: model.texts(found.prompts[name]) for name in found.task.classes or found.prompts}
    columns = (found[name][rows] for name in ("label", "group_id", "sample_id"))
    return zero_shot.choose(model.images[rows], classes, model.logit_scale, *columns)


def _retrieval(found: EvalSet, corpus: Corpus, model: Frozen) -> Outcomes:
    pairs = [(int(row), text) for row in found.where("test") for text in found["captions"][row]]
    rows, captions = np.array([row for row, _ in pairs], np.int64), [text for _, text in pairs]
    ids = np.array([text_id(text) for text in captions], object)
    return retrieval.search(
        model.images[rows], model.texts(captions), corpus.image_id[rows], ids, found["group_id"][rows]
    )


def _labelled(found: EvalSet, model: Frozen, split: str) -> probe.Labelled:
    rows = np.array([row for row in found.where(split) if found["label"][row] is not None], np.int64)
    if not len(rows) and split != "val":
        raise DataError(f"no labelled image is in the {split} split", where=str(found.folder), next="Split the set.")
    return probe.Labelled(model.images[rows], *(found[name][rows] for name in ("label", "group_id", "sample_id")))


def _multilabelled(found: EvalSet, model: Frozen, split: str) -> multilabel.MultiLabelled:
    given = {int(row): labels for row in found.where(split) if (labels := labels_of(found, int(row))) is not None}
    rows = np.array(list(given), np.int64)
    if not len(rows) and split != "val":
        raise DataError(f"no labelled image is in the {split} split", where=str(found.folder), next="Split the set.")
    truth = np.array([[name in names for name in found.task.classes] for names in given.values()], bool)
    truth = truth.reshape(len(rows), len(found.task.classes))
    return multilabel.MultiLabelled(model.images[rows], truth, found["group_id"][rows], found["sample_id"][rows])


def _probe(found: EvalSet, model: Frozen, seed: int) -> Outcomes:
    if found.task.multilabel:
        several = [_multilabelled(found, model, split) for split in _SPLITS]
        return multilabel.probe(several[0], several[1], several[2], list(found.task.classes), seed)
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
