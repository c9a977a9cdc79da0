"""What it costs to remember: a step with replay beside one without, and choosing what is replayed.

``replay-overhead``  seconds of a step of equal batch with replay over those without, for 1, 10 and 50 earlier teachers;
                     forward, backward, optimiser, reads from a store, and the checks of the forgetting budget. The
                     teachers are synthetic: random features in a store. In batches of 128, and of an integration's 32,
                     where what a step costs whatever its size shows most. ``replay-slope`` is 50 teachers over 1.
``replay-rows``      seconds of choosing the rows of a step, two million samples over two thousand: of a distillation of
                     nine domains, and of an integration after 50 teachers
``replay-choice``    herding and k-centre beside the same algorithms written plainly (iCaRL's and Gonzalez's)
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import torch
from timing import Figure, interleaved, ratio
from torch import nn

from feature_store import FeatureStore
from mmkd_core.data.manifest import Corpus
from mmkd_core.data.prompts_file import Prompts
from mmkd_core.distill.bank import Bank
from mmkd_core.distill.config import DistillConfig, IncrementalConfig
from mmkd_core.distill.coresets import herding, k_centre
from mmkd_core.distill.course import Course, urgent
from mmkd_core.distill.heads import TeacherHead
from mmkd_core.distill.normalise import PhiS
from mmkd_core.distill.objective import Objective, Samples
from mmkd_core.distill.replay import MixedBatches, Replay, replay_list, with_untaught
from mmkd_core.distill.run import Earlier
from mmkd_core.distill.sources import Source
from mmkd_core.student.batches import Batches
from mmkd_core.student.config import StudentConfig
from mmkd_core.student.model import Student
from mmkd_core.student.step import backward
from mmkd_core.student.training import optimizer_for

N, DIM, DOMAINS = 4000, 256, 8
HISTORIES = (1, 10, 50)
CONFIG = IncrementalConfig(steps=60)
BATCHES = (128, CONFIG.batch_size)
ROUNDS = 7
CHUNK = 100
"""Steps whose rows are chosen in one go."""


def corpus() -> Corpus:
    """Samples without images, in eight domains of the same size, with prompts."""
    domains = [f"domain {i % DOMAINS}" for i in range(N)]
    rows = [
        {
            "image": f"{i}.png",
            "image_id": f"{i:032x}",
            "caption": f"{domain} number {i}",  # all differ, or a batch of few domains would have fewer to embed
            "domain": domain,
            "label": None,
            "group_id": f"{i}",
            "split": "train",
        }
        for i, domain in enumerate(domains)
    ]
    findings = ("none", "one", "two", "three")
    prompts: Prompts = {
        d: {finding: (f"{d}, finding {finding}",) for finding in findings} for d in sorted(set(domains))
    }
    return Corpus.build(Path("nowhere"), rows, prompts)


class Histories:
    """The same run after 1, 10 or 50 earlier teachers."""

    def __init__(self, folder: Path) -> None:
        self.corpus = corpus()
        self.bank = Bank.build(self.corpus, CONFIG.bank, 0)
        rng = np.random.default_rng(0)
        self.pixels = rng.integers(0, 256, (N, 64, 64, 3), dtype=np.uint8)
        texts = [*map(str, self.corpus.caption), *(text for texts in self.bank.texts.values() for text in texts)]
        self.texts = texts
        self.store = self._filled(folder, max(HISTORIES) + 2)

    def _filled(self, folder: Path, tables: int) -> FeatureStore:
        rng = np.random.default_rng(1)
        with FeatureStore.open(folder, "w") as store:
            rows = store.add_ids("image", [f"{i}" for i in range(N)])
            words = store.add_ids("text", [f"{i}" for i in range(N)])
            for number in range(tables):
                features = rng.normal(size=(2, N, DIM)).astype(np.float32)
                store.put(f"{number:032x}", "image", rows, features[0])
                store.put(f"{number:032x}", "text", words, features[1])
        return FeatureStore.open(folder)

    def source(self, number: int, name: str, mask: np.ndarray, **facts: object) -> Source:
        rng = np.random.default_rng([2, number])
        bank = {
            domain: nn.functional.normalize(torch.from_numpy(rng.normal(size=(len(texts), DIM))).float(), dim=-1)
            for domain, texts in self.bank.texts.items()
        }
        rows = np.arange(N)
        return Source(name, self.store, f"{number:032x}", rows, rows, bank, 20.0, mask, **facts)  # type: ignore[arg-type]

    def steps(self, earlier: int, size: int) -> Callable[[int], None]:
        """From the number of a chunk to as many steps as lie between two checks of the budget; 0 is without replay."""
        student = Student.build(StudentConfig(), self.texts, seed=0)
        samples = Samples.of(student, self.pixels, self.corpus, self.bank)
        of = [self.corpus.domain == f"domain {i}" for i in range(DOMAINS)]
        new = self.source(0, "new", of[0])
        old = [self.source(i + 1, f"old-{i:02d}", of[1 + i % (DOMAINS - 2)]) for i in range(earlier)]
        masks = {source.name: source.mask for source in old}
        replay = replay_list(
            self.corpus,
            with_untaught(self.corpus, masks, {"new": new.mask}),
            CONFIG.replay_rows if earlier else 0,
            0,
            watch=CONFIG.budget.rows,
        )
        batches = MixedBatches(np.flatnonzero(of[0]), replay, size, CONFIG.replay, CONFIG.at_once, 0)
        sources = [new, *(replace(source, turn=partial(batches.has_turn, source.name)) for source in old)]
        if earlier:
            sources.append(self.source(max(HISTORIES) + 1, "parent", ~of[0], heads=False, factor=CONFIG.parent))
        heads = {source.name: head_of(student) for source in sources if source.heads}
        trained = nn.ModuleList([student.model, *heads.values()])
        watched = {(teacher, domain): rows for (teacher, domain), rows in replay.watched.items() if teacher}
        known = Earlier(heads, watched)
        watch = known.watch(student, sources, samples, self.bank, CONFIG.budget)
        averaged = nn.ModuleList([student.model, heads["new"]])
        course = Course(student, averaged, CONFIG.average, CONFIG.steps, watch, CONFIG.budget)
        active = urgent(sources, course.budget, samples, self.bank)
        objective = Objective(student, heads, active, samples, self.bank, batches, CONFIG, 0)
        optimizer = optimizer_for(nn.ModuleList([trained, course]), CONFIG)
        trained.train()
        parameters = [p for p in trained.parameters() if p.requires_grad]

        def chunk(number: int) -> None:
            for step in range(number * CONFIG.budget.every, (number + 1) * CONFIG.budget.every):
                optimizer.zero_grad(set_to_none=True)
                backward(objective, step)
                nn.utils.clip_grad_norm_(parameters, CONFIG.clip_norm)
                optimizer.step()
                course(step + 1)

        return chunk


def head_of(student: Student) -> TeacherHead:
    normaliser = PhiS(torch.zeros(DIM), torch.eye(DIM), DIM**0.5)
    return TeacherHead(student.embed_dim, {"image": normaliser, "text": normaliser}, 20.0)


def overhead() -> list[Figure]:
    """A step with replay over one without."""
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        histories = Histories(Path(folder))
        return [figure for size in BATCHES for figure in overhead_of(histories, size)]


def overhead_of(histories: Histories, size: int) -> list[Figure]:
    """The same for batches of one size."""
    ways = {str(count): histories.steps(count, size) for count in (0, *HISTORIES)}
    seconds = interleaved(ways, lambda turn: turn, ROUNDS, warm=1, clock=time.process_time)
    base = f"a step without replay, batch {size}"
    rows = [
        ratio(f"replay-overhead-{count}-of-{size}", seconds[str(count)], seconds["0"], f"{base}; {count} earlier")
        for count in HISTORIES
    ]
    first, last = str(HISTORIES[0]), str(HISTORIES[-1])
    slope = ratio(f"replay-slope-of-{size}", seconds[last], seconds[first], f"{last} earlier teachers over {first}")
    return [*rows, slope]


def choosing(count: int) -> tuple[Callable[[int], None], Callable[[int], None]]:
    """From the number of a chunk to the rows of its steps: of a distillation, and of an integration."""
    rng = np.random.default_rng(0)
    batches = Batches(np.arange(count), rng.integers(0, 9, count), DistillConfig(), 0)
    strata = {(f"old-{i:02d}", f"domain {i % 9}"): rng.choice(count, 40, replace=False) for i in range(50)}
    mixed = MixedBatches(
        np.arange(0, count, 2), Replay(strata, {}), CONFIG.batch_size, CONFIG.replay, CONFIG.at_once, 0
    )

    def chunk(choose: Callable[[int], object], number: int) -> None:
        for step in range(CHUNK * number, CHUNK * (number + 1)):
            choose(step)

    return partial(chunk, batches), partial(chunk, mixed)


def rows() -> list[Figure]:
    """Choosing rows, of many samples over few."""
    figures = []
    for name, few, many in zip(("distillation", "integration"), choosing(2_000), choosing(2_000_000), strict=True):
        seconds = interleaved({"few": few, "many": many}, lambda turn: turn, ROUNDS, clock=time.process_time)
        against = f"the same among 2,000 samples; {1e6 * np.median(seconds['many']) / CHUNK:.0f} us a step"
        figures.append(ratio(f"replay-rows-{name}", seconds["many"], seconds["few"], against))
    return figures


def plain_herding(features: np.ndarray, count: int) -> list[int]:
    """iCaRL, algorithm 4, word for word, with the sum of the picks kept."""
    mean, total = features.mean(axis=0), np.zeros(features.shape[1])
    picks: list[int] = []
    for k in range(1, count + 1):
        gaps = np.linalg.norm(mean - (features + total) / k, axis=1)
        gaps[picks] = np.inf
        picks.append(int(gaps.argmin()))
        total += features[picks[-1]]
    return picks


def plain_k_centre(features: np.ndarray, count: int) -> list[int]:
    """Gonzalez, word for word, with the nearest pick of each row kept."""
    picks = [int(np.linalg.norm(features - features.mean(axis=0), axis=1).argmin())]
    nearest = np.linalg.norm(features - features[picks[0]], axis=1)
    while len(picks) < count:
        picks.append(int(nearest.argmax()))
        nearest = np.minimum(nearest, np.linalg.norm(features - features[picks[-1]], axis=1))
    return picks


def choice() -> list[Figure]:
    """Plain algorithms over ours: 200 of 4,000 rows of 512 dimensions."""
    features = np.random.default_rng(0).normal(size=(4000, 512))
    figures = []
    for name, ours, plain in (("herding", herding, plain_herding), ("k-centre", k_centre, plain_k_centre)):

        def same(results: list[object]) -> None:
            assert list(results[0]) == list(results[1])  # type: ignore[call-overload]

        ways: dict[str, Callable[[np.ndarray], object]] = {
            "plain": partial(plain, count=200),
            "ours": partial(ours, count=200),
        }
        seconds = interleaved(ways, lambda turn: features, 5, warm=1, check=same)
        figures.append(ratio(f"replay-choice-{name}", seconds["plain"], seconds["ours"], "ours, same picks"))
    return figures


FIGURES = {"replay-overhead": overhead, "replay-rows": rows, "replay-choice": choice}
