"""The losses of many teachers, streamed, against a plain loop over them.

The plain loop is what one writes first: for each teacher predictions, FD and ICL from ``losses`` with full logits in
fp32, summed, and one backward pass by autograd. Both have linear heads, PHI-S and cosine + smooth L1; student and
teachers have 512 dimensions, every teacher counts for every sample.

``loss-speed``      forward and backward pass, 9 teachers, batch 4096; also what this processor's bf16 is worth alone
``loss-memory``     peak above what the process holds before, in a process of its own each; not counted are the
                    gradients that are left at the end, which for nine heads are nine times those for one
``loss-exactness``  gradients in fp32 against the plain formulas in fp64, batch 1024
"""

from __future__ import annotations

import copy
import ctypes
import multiprocessing
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import torch
from timing import Figure, figure, interleaved, ratio
from torch import Tensor
from torch.nn import functional as F

from mmkd_core.distill import losses
from mmkd_core.distill.config import Weights
from mmkd_core.distill.heads import TeacherHead
from mmkd_core.distill.normalise import PhiS
from mmkd_core.distill.streamed import Lesson, Method, taught

BATCH, DIM, TEACHERS, ROUNDS, SCALE = 4096, 512, 9, 3, 50.0
WEIGHTS = Weights(fd=5.0, icl=0.1)


@dataclass(frozen=True)
class Case:
    """A batch: the student's unit-norm embeddings, and heads and features of its teachers."""

    student: dict[str, Tensor]
    heads: list[TeacherHead]
    features: list[dict[str, Tensor]]

    @classmethod
    def random(cls, teachers: int, batch: int) -> Case:
        """Teachers with a common mean, as real ones have; images and texts of a sample alike."""
        generator = torch.Generator().manual_seed(0)

        def unit(*size: int, around: Tensor | float = 0.0) -> Tensor:
            return F.normalize(torch.randn(*size, generator=generator) / DIM**0.5 + around, dim=-1)

        student = {tower: unit(batch, DIM).requires_grad_() for tower in ("image", "text")}
        heads, features = [], []
        for _ in range(teachers):
            mean, image = unit(DIM), unit(batch, DIM)
            feature = {"image": F.normalize(image + mean, dim=-1), "text": unit(batch, DIM, around=image + mean)}
            rotation = torch.linalg.qr(torch.randn(DIM, DIM, generator=generator))[0]
            heads.append(TeacherHead(DIM, dict.fromkeys(("image", "text"), PhiS(mean / 2, rotation, DIM**0.5)), SCALE))
            features.append(feature)
        return cls(student, heads, features)

    def leaves(self) -> list[Tensor]:
        """All that gets a gradient."""
        return [*self.student.values(), *(p for head in self.heads for p in head.parameters())]

    def double(self) -> Case:
        """The same in fp64."""
        heads = []
        for head in copy.deepcopy(self.heads):
            head.normalisers = {
                tower: PhiS(n.mean.double(), n.rotation.double(), n.scale) for tower, n in head.normalisers.items()
            }
            heads.append(head.double())
        student = {tower: x.detach().double().requires_grad_() for tower, x in self.student.items()}
        return Case(student, heads, [{tower: x.double() for tower, x in pair.items()} for pair in self.features])


def plain(case: Case) -> None:
    """Loop over teachers, full logits, autograd."""
    total = torch.zeros((), dtype=case.student["image"].dtype)
    for head, feature in zip(case.heads, case.features, strict=True):
        predicted = {tower: head(x, tower) for tower, x in case.student.items()}
        image, text = (head.native(p, tower) for tower, p in predicted.items())
        for tower, p in predicted.items():
            target = head.normalisers[tower].forward(feature[tower])
            total = total + WEIGHTS.fd / 2 * losses.feature_distillation(p, target)
        total = total + WEIGHTS.icl * losses.interactive_contrast(
            image, text, feature["image"], feature["text"], head.scale()
        )
    (total / len(case.heads)).backward()  # type: ignore[no-untyped-call]


def streamed(case: Case, bf16: bool) -> None:
    """What ``mmkd`` does."""
    rows = torch.arange(len(case.student["image"]))
    lessons = [
        Lesson(head, rows, feature, rows, SCALE, 1 / len(case.heads))
        for head, feature in zip(case.heads, case.features, strict=True)
    ]
    with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
        parts = taught(case.student["image"], case.student["text"], lessons, Method(WEIGHTS))
    torch.stack(list(parts.values())).sum().backward()  # type: ignore[no-untyped-call]


WAYS: dict[str, Callable[[Case], None]] = {
    "plain": plain,
    "fp32": lambda case: streamed(case, bf16=False),
    "bf16": lambda case: streamed(case, bf16=True),
}


def speed() -> list[Figure]:
    """One thread: what another process takes away does not count then, and all ways use the cores alike."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    case = Case.random(TEACHERS, BATCH)
    seconds = interleaved(WAYS, lambda _: case, ROUNDS, warm=1, clock=time.thread_time)
    a, b = torch.randn(BATCH, DIM), torch.randn(DIM, BATCH)
    pairs = {"fp32": (a, b), "bf16": (a.bfloat16(), b.bfloat16())}
    products = {name: lambda _, pair=pair: torch.mm(*pair) for name, pair in pairs.items()}
    alone = interleaved(products, lambda _: None, 9, clock=time.thread_time)
    torch.set_num_threads(threads)
    return [
        ratio("loss-speed", seconds["plain"], seconds["fp32"], "plain loop in fp32, both in fp32"),
        ratio("loss-speed-bf16", seconds["plain"], seconds["bf16"], "plain loop in fp32, streamed in bf16"),
        ratio("loss-speed-processor", alone["fp32"], alone["bf16"], "a matrix product in fp32, in bf16: the processor"),
    ]


def memory() -> list[Figure]:
    """MiB of each way, and the ratios."""
    asked = [("plain", TEACHERS), ("fp32", TEACHERS), ("fp32", 1), ("bf16", TEACHERS), ("bf16", 1)]
    mib = {(way, teachers): _in_a_process_of_its_own(way, teachers) for way, teachers in asked}
    figures = []
    for way in ("fp32", "bf16"):
        name, nine, one = f"loss-memory-{way}", mib[way, TEACHERS], mib[way, 1]
        most = mib["plain", TEACHERS]
        spread = f"{nine:.0f} MiB of {most:.0f}"
        figures.append(figure(name, nine / most, "of the peak", "plain loop in fp32", spread))
        figures.append(figure(f"{name}-nine", nine / one, "of the peak", "one teacher", f"{one:.0f} MiB"))
    return figures


def _in_a_process_of_its_own(way: str, teachers: int) -> float:
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        return pool.submit(_peak, way, teachers).result()


def _peak(way: str, teachers: int) -> float:
    """MiB that one forward and backward pass adds at most, beside the gradients that any way leaves (Linux)."""
    WAYS[way](Case.random(1, 64))  # libraries are loaded
    case = Case.random(teachers, BATCH)
    ctypes.CDLL("libc.so.6").malloc_trim(0)  # what building the case left over is no room for the losses
    before = _held("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew
    WAYS[way](case)
    left = sum(leaf.grad.nbytes for leaf in case.leaves() if leaf.grad is not None) / 2**20
    return _held("VmHWM") - before - left


def _held(key: str) -> float:
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(key))
    return int(line.split()[1]) / 1024


def exactness() -> list[Figure]:
    """Largest relative error of a gradient, in the norm of each tensor."""
    case = Case.random(3, 1024)
    exact = case.double()
    plain(exact)
    errors = {}
    for way in ("plain", "fp32"):
        for leaf in case.leaves():
            leaf.grad = None
        WAYS[way](case)
        errors[way] = max(
            _error(mine.grad, true.grad) for mine, true in zip(case.leaves(), exact.leaves(), strict=True)
        )
    against = "plain formulas in fp64, relative"
    return [
        {"name": "loss-exactness", "value": errors["fp32"], "unit": "error", "against": against, "spread": None},
        {"name": "loss-exactness-plain", "value": errors["plain"], "unit": "error", "against": against, "spread": None},
    ]


def _error(mine: Tensor | None, true: Tensor | None) -> float:
    assert mine is not None
    assert true is not None
    return float((mine.double() - true).norm() / true.norm())


FIGURES = {"loss-speed": speed, "loss-memory": memory, "loss-exactness": exactness}
