"""Questions about images on frozen features: ``mmkd/vqa-closed@1`` and ``mmkd/vqa-probe@1``.

``closed`` needs no training: each possible answer is put behind the question and the sentence that is most similar to
the image is the answer. ``probe`` is a logistic regression from [image, question, image x question] to the answers of
the training split. Beside both stands what needs no image at all, the commonest answer and a probe on the question
alone: a model that does not beat them has learnt the language of the questions, not to look.

Published VQA figures of CLIP-like models come from fusion modules fine-tuned with the encoders. They are not
comparable with these.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mmkd_core.errors import DataError
from mmkd_core.evaluate.classes import share
from mmkd_core.evaluate.classifier import fit
from mmkd_core.evaluate.figures import Measured
from mmkd_core.evaluate.outcomes import Outcomes
from mmkd_core.statistics import GroupBootstrap

CLOSED, PROBE = "mmkd/vqa-closed@1", "mmkd/vqa-probe@1"
VOCABULARY = 200
"""Commonest training answers that the probe can give."""
MODELS = ("model", "question only", "commonest answer")


@dataclass(frozen=True, eq=False)
class Questions:
    """n questions about images.

    Attributes:
        image, question: unit-norm features (n, D).
        answer: (n,) the right answer.
        closed: (n,) bool: yes/no and choice questions.
        group_id, sample_id: (n,).
    """

    image: NDArray[np.floating]
    question: NDArray[np.floating]
    answer: NDArray[np.object_]
    closed: NDArray[np.bool_]
    group_id: NDArray[np.object_]
    sample_id: NDArray[np.object_]

    def __len__(self) -> int:
        return len(self.answer)


def normal(answer: str) -> str:
    """An answer as it is compared: lower case, single blanks, no full stop at the end."""
    return " ".join(str(answer).lower().split()).rstrip(".")


def sentence(question: str, answer: str) -> str:
    """What ``closed`` compares with the image."""
    return f"{question.strip()} {answer.strip()}"


def rank_closed(
    image: NDArray[np.floating],
    choices: list[NDArray[np.floating]],
    names: list[list[str]],
    answer: NDArray[np.object_],
    group_id: NDArray[np.object_],
    sample_id: NDArray[np.object_],
) -> Outcomes:
    """Choose the sentence nearest to each image. Equal ones are a wrong choice, or a collapsed model would be right.

    Args:
        image: (n, D).
        choices: for each question (K, D) features of ``sentence(question, choice)``; K may differ.
        names: the K choices.

    Raises:
        DataError: a question with fewer than two choices, or whose answer is none of them.
    """
    said, sole = [], []
    for row, (texts, options) in enumerate(zip(choices, names, strict=True)):
        given = [normal(name) for name in options]
        if len(given) < 2 or normal(answer[row]) not in given:
            what = f"{answer[row]!r} is none of the choices {', '.join(options) or '(none)'}"
            raise DataError(what, where=f"question {sample_id[row]}", next="Correct the choices in the manifest.")
        norms = np.linalg.norm(texts, axis=1) * np.linalg.norm(image[row])
        cosine = texts @ image[row] / np.maximum(norms, 1e-12)
        best = int(cosine.argmax())
        said.append(given[best])
        sole.append((cosine > cosine[best] - 1e-6).sum() == 1)
    truth = _normals(answer)
    right = (np.array(said, object) == truth) & np.array(sole)
    chance = np.array([1 / len(options) for options in names])
    columns = {
        "sample_id": sample_id,
        "group_id": group_id,
        "answer": truth,
        "said": np.array(said, object),
        "right": right,
        "chance": chance,
    }
    return Outcomes(CLOSED, columns)


def probe(train: Questions, val: Questions, test: Questions, seed: int = 0) -> Outcomes:
    """Answers of the probe and of its two baselines to the test questions.

    Raises:
        DataError: no training questions, or one answer for all of them.
    """
    truth = {name: _normals(part.answer) for name, part in (("train", train), ("val", val), ("test", test))}
    counts = Counter(truth["train"])
    if len(counts) < 2:
        raise DataError("the training questions have fewer than two answers", next="Check the split of the questions.")
    vocabulary = [name for name, _ in sorted(counts.items(), key=lambda item: (-item[1], item[0]))[:VOCABULARY]]
    kept = np.isin(truth["train"].astype(str), vocabulary)
    said = {"commonest answer": np.full(len(test), vocabulary[0], object)}
    for name, features in (("model", _joint), ("question only", lambda part: part.question)):
        found = fit(features(train)[kept], truth["train"][kept], features(val), truth["val"], seed)
        said[name] = np.array(found.classes, object)[found.logits(features(test)).argmax(axis=1)]
    columns = {
        "sample_id": test.sample_id,
        "group_id": test.group_id,
        "answer": truth["test"],
        "closed": test.closed,
        "covered": np.isin(truth["test"].astype(str), vocabulary),
    }
    return Outcomes(PROBE, columns | {f"said: {name}": said[name] for name in MODELS}, {"vocabulary": len(vocabulary)})


def measure_closed(outcomes: Outcomes, bootstrap: GroupBootstrap) -> list[Measured]:
    """Accuracy of the ranking, and what guessing gives."""
    every = np.ones(len(outcomes))
    columns = (("accuracy", "right"), ("accuracy of a guess", "chance"))
    return [share(name, "closed", outcomes[column], every, bootstrap) for name, column in columns]


def measure_probe(outcomes: Outcomes, bootstrap: GroupBootstrap) -> list[Measured]:
    """Accuracy overall, closed and open, of the model and of what needs no image, and what the image adds."""
    closed, found = outcomes["closed"].astype(bool), []
    answer = outcomes["answer"].astype(str)
    for part, rows in (("", np.ones(len(outcomes), bool)), ("closed", closed), ("open", ~closed)):
        right = {name: outcomes[f"said: {name}"].astype(str) == answer for name in MODELS}
        of = {name: share(f"accuracy, {name}", part, hit, rows, bootstrap) for name, hit in right.items()}
        found += [*of.values(), _gain(of["model"], of["question only"])]
        found.append(share("coverage of the vocabulary", part, outcomes["covered"], rows, bootstrap))
    return found


def _gain(model: Measured, question: Measured) -> Measured:
    gain = None if model.estimate is None or question.estimate is None else model.estimate - question.estimate
    draws = model.draws - question.draws
    return Measured("accuracy above question only", model.part, gain, draws, model.undefined, (-1.0, 1.0))


def _joint(part: Questions) -> NDArray[np.float32]:
    return np.concatenate([part.image, part.question, part.image * part.question], axis=1).astype(np.float32)


def _normals(answers: NDArray[np.object_]) -> NDArray[np.object_]:
    """``normal`` of each; a set has few different answers."""
    names, place = np.unique(answers.astype(str), return_inverse=True)
    return np.array([normal(name) for name in names], object)[place]
