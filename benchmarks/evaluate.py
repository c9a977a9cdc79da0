"""What the six tasks cost on cached features: ``eval-tasks``, seconds and memory for 100,000 samples.

Features are drawn, not extracted: 128 numbers per image, five classes, four images a patient, survival times from the
first feature, questions with twenty answers. All figures with 1,000 resamples of patients are part of the time.
"""

from __future__ import annotations

import multiprocessing
import resource
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from typing import Any, TypeVar

import numpy as np

from mmkd_core.evaluate import diagnosis, probe, retrieval, survival, vqa, zero_shot
from mmkd_core.evaluate.figures import score
from mmkd_core.evaluate.outcomes import Outcomes
from mmkd_core.evaluate.tasks import measure_of

Figure = dict[str, Any]
T = TypeVar("T")
N, WIDTH, CLASSES, ANSWERS = 100_000, 128, 5, 20
SHARES = {"train": 0.7, "val": 0.1, "test": 0.2}


def splits(of: Callable[[str], T]) -> tuple[T, T, T]:
    """Training, validation and test part."""
    return of("train"), of("val"), of("test")


class Drawn:
    """One set of features with labels, captions, questions and survival times."""

    def __init__(self, count: int) -> None:
        rng = np.random.default_rng(0)
        self.patient = np.array([f"p{i // 4}" for i in range(count)], object)
        self.sample = np.array([f"s{i}" for i in range(count)], object)
        kind = rng.integers(0, CLASSES, count // 4 + 1)[np.arange(count) // 4]
        self.label = np.array([f"class {k}" for k in kind], object)
        self.image = rng.normal(size=(count, WIDTH)).astype(np.float32)
        self.image[np.arange(count), kind] += 2.0
        self.text = (self.image + rng.normal(size=(count, WIDTH))).astype(np.float32)
        death = rng.exponential(size=count // 4 + 1)[np.arange(count) // 4] * np.exp(-(kind - 2.0))
        self.time, self.event = np.minimum(death, 2.0) + 1e-6, death < 2.0
        self.answer = np.array([f"answer {a}" for a in (kind + rng.integers(0, 4, count) * CLASSES)], object)
        edges = np.cumsum([0, *(round(share * count) // 4 * 4 for share in SHARES.values())])
        self.rows = {name: np.arange(*edges[i : i + 2]) for i, name in enumerate(SHARES)}

    def labelled(self, split: str) -> probe.Labelled:
        rows = self.rows[split]
        return probe.Labelled(self.image[rows], self.label[rows], self.patient[rows], self.sample[rows])

    def questions(self, split: str) -> vqa.Questions:
        rows = self.rows[split]
        closed = np.arange(len(rows)) % 2 == 0
        return vqa.Questions(
            self.image[rows], self.text[rows], self.answer[rows], closed, self.patient[rows], self.sample[rows]
        )


def tasks(drawn: Drawn) -> dict[str, Callable[[], list[Outcomes]]]:
    """What each task computes before its figures."""
    test, every = drawn.rows["test"], slice(None)
    names = [f"class {k}" for k in range(CLASSES)]
    prompts = {name: np.eye(WIDTH, dtype=np.float32)[[k]] for k, name in enumerate(names)}
    columns = (drawn.label[test], drawn.patient[test], drawn.sample[test])
    yes_no = [np.eye(WIDTH, dtype=np.float32)[:2]] * len(test)
    answers = np.array(["yes", "no"], object)[np.arange(len(test)) % 2]
    return {
        "zero-shot": lambda: [zero_shot.choose(drawn.image[test], prompts, 10.0, *columns)],
        "linear-probe": lambda: [probe.predict(*splits(drawn.labelled))],
        "retrieval": lambda: [
            retrieval.search(
                drawn.image[test], drawn.text[test], drawn.sample[test], drawn.sample[test], drawn.patient[test]
            )
        ],
        "vqa": lambda: [
            vqa.probe(*splits(drawn.questions)),
            vqa.rank_closed(drawn.image[test], yes_no, [["yes", "no"]] * len(test), answers, *columns[1:]),
        ],
        "survival": lambda: [
            survival.predict(survival.pool(drawn.image[every], drawn.patient, drawn.time, drawn.event))
        ],
        "diagnosis": lambda: [
            diagnosis.predict(*splits(lambda split: diagnosis.pool(drawn.labelled(split), names[1:])))
        ],
    }


def run(count: int) -> tuple[dict[str, float], float]:
    """Seconds by task, and the most memory that the process held, in GiB."""
    drawn, seconds = Drawn(count), {}
    for name, compute in tasks(drawn).items():
        start = time.monotonic()
        for outcomes in compute():
            score(outcomes, measure_of(outcomes))
        seconds[name] = time.monotonic() - start
    return seconds, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024**2


def eval_tasks() -> list[Figure]:
    """In a process of its own, so that the memory is that of the tasks."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        seconds, memory = pool.submit(run, N).result()
    against = f"{N:,} cached samples, figures with intervals included"
    figures: list[Figure] = [
        {"name": f"eval-{name}", "value": round(value, 1), "unit": "s", "against": against, "spread": None}
        for name, value in seconds.items()
    ]
    total = {"name": "eval-tasks", "value": round(sum(seconds.values()), 1), "unit": "s", "against": against}
    held = {"name": "eval-tasks-memory", "value": round(memory, 2), "unit": "GiB", "against": "peak of the process"}
    return [*figures, {**total, "spread": None}, {**held, "spread": None}]


FIGURES = {"eval-tasks": eval_tasks}
