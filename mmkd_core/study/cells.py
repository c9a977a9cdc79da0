"""What the studies are made of: cells, each a run with other settings. Data only: runs nothing.

A study asks one question and changes one thing. Its first cell is the one that the others are compared with. Cells of a
seed share data, features and stage 1, and all train for the same number of steps.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from itertools import permutations
from typing import Any

from mmkd_core.errors import MmkdError

Settings = Mapping[str, Any]
MOST_ORDERS = 6


class StudyError(MmkdError):
    """A study that cannot be made of what is there."""


@dataclass(frozen=True)
class Cell:
    """One run.

    Attributes:
        name: short, of the folder and the table.
        settings: what differs from ``mmkd.yaml``, section by section.
        teachers: who teaches; None is everybody in the lock.
        order: teachers in the order of their integration, the first release alone; None for one distillation.
        without: a domain that is never seen in training.
        stage_one: whether the student has read captions before.
    """

    name: str
    settings: Settings = field(default_factory=dict)
    teachers: tuple[str, ...] | None = None
    order: tuple[str, ...] | None = None
    without: str | None = None
    stage_one: bool = True

    def in_words(self) -> str:
        """What is different in this run; nothing if it runs as ``mmkd.yaml`` says."""
        said = [
            f"{section}.{key} {_short(value)}" for section, part in self.settings.items() for key, value in part.items()
        ]
        said += [f"only {', '.join(self.teachers)}"] if self.teachers else []
        said += [", then ".join(self.order)] if self.order else []
        said += [f"no training image of {self.without}"] if self.without else []
        return "; ".join([*said, *([] if self.stage_one else ["no stage 1, as many steps in all"])])


def _short(value: Any) -> str:
    return ", ".join(f"{key} {part:g}" for key, part in value.items()) if isinstance(value, Mapping) else str(value)


@dataclass(frozen=True)
class Given:
    """What a study is made for: names of teachers and domains, the factors of the losses, the domain to hold out."""

    teachers: tuple[str, ...]
    domains: tuple[str, ...]
    weights: Mapping[str, float]
    holdout: str | None = None


@dataclass(frozen=True)
class Study:
    """A question, and what to do for an answer."""

    name: str
    question: str
    cells: Callable[[Given], list[Cell]]


def _losses(given: Given) -> list[Cell]:
    def without(*names: str) -> Settings:
        return {"distill": {"weights": {**given.weights, **dict.fromkeys(names, 0.0)}}}

    cells = [
        Cell("both"),
        Cell("fd", without("icl")),
        Cell("icl", without("fd")),
        Cell("neither", without("fd", "icl")),
    ]
    if given.weights.get("relation"):
        cells += [Cell("no-relation", without("relation")), Cell("only-relation", without("fd", "icl", "clip"))]
    return cells


def _staging(given: Given) -> list[Cell]:
    return [Cell("with-stage-1"), Cell("without", stage_one=False)]


def _teachers(given: Given) -> list[Cell]:
    names = _some(given, 2)
    several = [Cell(f"first-{count}", teachers=names[:count]) for count in range(2, len(names))]
    single = [Cell(f"only-{name}", teachers=(name,)) for name in names]
    missing = [Cell(f"no-{name}", teachers=tuple(n for n in names if n != name)) for name in names]
    return [Cell("all"), *single, *several, *(missing if len(names) > 2 else [])]


def _holdout(given: Given) -> list[Cell]:
    if given.holdout not in given.domains:
        what = f"there is no domain {given.holdout!r} to hold out" if given.holdout else "no domain was named"
        raise StudyError(what, next=f"Name one of {', '.join(given.domains)}: mmkd study holdout DOMAIN")
    return [Cell("seen"), Cell(f"without-{given.holdout}", without=given.holdout)]


def _threshold(given: Given) -> list[Cell]:
    shares = (0.9, 0.5, 0.7, 0.8, 0.95)
    rules = [Cell(f"{share:.2f}", {"trust": {"rule": "90", "threshold": share}}) for share in shares]
    return [*rules, Cell("everyone", {"trust": {"rule": "none"}})]


def _balance(given: Given) -> list[Cell]:
    kinds = ("sqrt", "natural", "uniform")
    return [Cell(kind, {"distill": {"balance": kind}, "pretrain": {"balance": kind}}) for kind in kinds]


def _order(given: Given) -> list[Cell]:
    names = _some(given, 3)
    orders = list(permutations(names))
    spread = orders[:: max(1, len(orders) // MOST_ORDERS)][:MOST_ORDERS]
    return [Cell(f"order-{number}", order=order) for number, order in enumerate(spread, start=1)]


def _some(given: Given, least: int) -> tuple[str, ...]:
    if len(given.teachers) < least:
        what = f"this study needs {least} teachers, {len(given.teachers)} are in use"
        raise StudyError(what, next="Run `mmkd teachers add NAME`")
    return given.teachers


STUDIES: dict[str, Study] = {
    study.name: study
    for study in (
        Study("losses", "What do FD and ICL bring, alone, together, and beside the relation?", _losses),
        Study("staging", "Does the student need to read captions first?", _staging),
        Study("teachers", "What does each teacher bring, and what is lost without it?", _teachers),
        Study("holdout", "How good is the student in a domain that it never saw?", _holdout),
        Study("threshold", "How sure must a teacher be to be heard?", _threshold),
        Study("balance", "How often should rare domains be seen?", _balance),
        Study("order", "Does it matter in which order the teachers come?", _order),
    )
}
