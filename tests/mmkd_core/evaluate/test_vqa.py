"""VQA: a model that looks, one that only reads the question, and one that has collapsed."""

from __future__ import annotations

import numpy as np
import pytest

from mmkd_core.errors import DataError
from mmkd_core.evaluate.figures import score
from mmkd_core.evaluate.outcomes import Outcomes
from mmkd_core.evaluate.vqa import CLOSED, Questions, measure_closed, measure_probe, normal, probe, rank_closed


def asked(n: int, seed: int, sees: bool, prior: float = 0.5) -> Questions:
    """Two questions: one that the image answers, one whose answer is "no" with chance ``prior``, whatever it shows."""
    rng = np.random.default_rng(seed)
    shown, which = rng.integers(0, 2, n), np.arange(n) % 2
    unsure = rng.random(n) < prior
    answer = np.where(which == 0, np.where(shown == 1, "Left.", "right"), np.where(unsure, "no", "yes")).astype(object)
    question = np.eye(4)[which] + 0.01 * rng.normal(size=(n, 4))
    image = (np.eye(4)[2 + shown] if sees else np.eye(4)[np.full(n, 2)]) + 0.01 * rng.normal(size=(n, 4))
    names = np.array([f"{seed}-{i}" for i in range(n)], object)
    return Questions(image, question, answer, which == 1, names, names)


def figures(outcomes: Outcomes) -> dict[tuple[str, str], float]:
    measure = measure_closed if outcomes.protocol == CLOSED else measure_probe
    found = score(outcomes, measure, resamples=20)
    return {(f.part, f.metric): f.interval.estimate for f in found if f.interval is not None}


def test_a_model_that_looks_beats_the_question_and_one_that_does_not_look_does_not() -> None:
    seeing = figures(probe(asked(400, 0, True), asked(100, 1, True), asked(200, 2, True)))
    blind = figures(probe(asked(400, 0, False), asked(100, 1, False), asked(200, 2, False)))
    assert seeing["open", "accuracy, model"] == 1.0
    assert seeing["open", "accuracy above question only"] > 0.3
    assert abs(blind["", "accuracy above question only"]) < 0.1
    assert seeing["", "coverage of the vocabulary"] == 1.0


def test_the_prior_of_the_language_shows_in_the_baseline() -> None:
    found = figures(probe(asked(400, 0, False, 0.9), asked(100, 1, False, 0.9), asked(400, 2, False, 0.9)))
    assert found["closed", "accuracy, question only"] > 0.8


def test_the_nearest_sentence_is_the_answer_and_a_tie_is_wrong() -> None:
    image = np.eye(3)
    choices = [np.eye(3)[:2], np.eye(3)[:2], np.ones((2, 3))]
    truth, names = np.array(["Yes", "yes", "no"], object), np.array(list("abc"), object)
    outcomes = rank_closed(image, choices, [["yes", "no"]] * 3, truth, names, names)
    assert list(outcomes["right"]) == [True, False, False]
    assert figures(outcomes) == {("closed", "accuracy"): pytest.approx(1 / 3), ("closed", "accuracy of a guess"): 0.5}


def test_answers_are_compared_as_people_mean_them() -> None:
    assert normal("  The  LEFT lung. ") == "the left lung"


def test_what_cannot_be_answered_is_refused() -> None:
    names = np.array(["a"], object)
    with pytest.raises(DataError, match="none of the choices"):
        rank_closed(np.eye(1), [np.eye(1)], [["no", "perhaps"]], np.array(["yes"], object), names, names)
    one = asked(40, 0, True)
    same = Questions(one.image, one.question, np.full(40, "no", object), one.closed, one.group_id, one.sample_id)
    with pytest.raises(DataError, match="two answers"):
        probe(same, one, one)
