"""One comparison with its verdict, and the verdict of many.

PASS of the whole says that every gating comparison passed: each must show its own non-inferiority at the full level,
so a true loss of the margin anywhere passes with probability alpha at most and nothing is to be corrected (Berger
1982). FAIL says that some comparison lost more than its margin: with many of them one will seem to by chance, so its
p-values are corrected by Holm's method over all gating comparisons of all families.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from enum import StrEnum
from statistics import NormalDist
from typing import Any

from mmkd_core.audit.evidence import Gap, Key
from mmkd_core.audit.gate import Gate
from mmkd_core.statistics import Change, holm

MEAN = "mean"
"""The part of a comparison that is over all domains."""


class Verdict(StrEnum):
    """Outcome of an audit."""

    PASS = "PASS"
    FAIL = "FAIL"
    INCONCLUSIVE = "INCONCLUSIVE"

    @property
    def exit_code(self) -> int:
        """Of ``mmkd audit``; 2 is left to what a user can mend."""
        return _TABLE[self.value][0]

    @property
    def mark(self) -> str:
        """How pages mark it."""
        return _TABLE[self.value][1]

    @classmethod
    def of(cls, verdicts: Iterable[Verdict]) -> Verdict:
        """FAIL if any is, else INCONCLUSIVE if any is, else PASS."""
        found = set(verdicts)
        return next((verdict for verdict in (cls.FAIL, cls.INCONCLUSIVE) if verdict in found), cls.PASS)


_TABLE = {"PASS": (0, "pass"), "FAIL": (1, "fail"), "INCONCLUSIVE": (3, "unsure")}
"""By verdict: exit code and mark."""


@dataclass(frozen=True)
class Comparison:
    """One metric of two models on the same samples. Fractions; ``delta`` is positive where the candidate is better."""

    family: str
    metric: str
    part: str
    """A domain, a teacher, a direction of retrieval, or ``mean`` over domains."""
    before: float | None
    """The parent's figure; None where the figure is of the pair (flips)."""
    after: float
    """The candidate's."""
    delta: float
    lower: float
    upper: float
    margin: float
    gates: bool
    p_kept: float
    """Against "it lost the margin or more": PASS at alpha or below."""
    p_lost: float
    """Against "it lost the margin or less"; ``p_lost_holm`` is what FAIL is judged by."""
    p_lost_holm: float
    verdict: Verdict
    needed: int | None
    """Samples still needed to decide with the gate's power, were the change true: 0 if decided, None if no number
    would do."""
    n: int
    groups: int
    status: str = "ok"
    """``ok``, or what is missing from the figure."""

    @property
    def key(self) -> Key:
        """What was compared."""
        return Key(self.family, self.metric, self.part)

    def standard_error(self, alpha: float) -> float:
        """Of ``delta``, from the width of the interval; its bounds are one-sided at the gate's ``alpha``."""
        return (self.upper - self.lower) / (2 * NormalDist().inv_cdf(1 - alpha))

    def to_json(self) -> dict[str, Any]:
        """Plain JSON."""
        return asdict(self)

    @classmethod
    def from_json(cls, facts: dict[str, Any]) -> Comparison:
        """Read what ``to_json`` wrote."""
        return cls(**{**facts, "verdict": Verdict(facts["verdict"])})


@dataclass(frozen=True)
class Undefined:
    """A comparison that was not made."""

    family: str
    metric: str
    part: str
    gates: bool
    reason: str
    next: str = ""
    """What makes it possible; empty where nothing does, for it lies in the data."""

    @classmethod
    def of(cls, key: Key, gap: Gap, gate: Gate) -> Undefined:
        """From what is missing, and the gate's word on whether it would decide."""
        return cls(*key, gates=gate.rule(*key[:2]).gates, reason=gap.reason, next=gap.next)

    @property
    def verdict(self) -> Verdict | None:
        """INCONCLUSIVE where it would decide and could be made; else it has no part in the verdict."""
        return Verdict.INCONCLUSIVE if self.gates and self.next else None

    @property
    def key(self) -> Key:
        """What was to be compared."""
        return Key(self.family, self.metric, self.part)

    def to_json(self) -> dict[str, Any]:
        """Plain JSON."""
        return {**asdict(self), "verdict": self.verdict.value if self.verdict else None}

    @classmethod
    def from_json(cls, facts: dict[str, Any]) -> Undefined:
        """Read what ``to_json`` wrote."""
        return cls(**{key: value for key, value in facts.items() if key != "verdict"})


def overall(comparisons: Iterable[Comparison], undefined: Iterable[Undefined]) -> Verdict:
    """FAIL if a comparison that decides fails; INCONCLUSIVE if one is, cannot be made, or none is there; else PASS."""
    found = [row.verdict for row in comparisons if row.gates] + [row.verdict for row in undefined if row.verdict]
    return Verdict.of(found) if found else Verdict.INCONCLUSIVE


def undecidable(undefined: Iterable[Undefined]) -> list[Undefined]:
    """What would decide, and no model could be measured by on these data."""
    return [row for row in undefined if row.gates and row.verdict is None]


@dataclass(frozen=True)
class Unjudged:
    """A comparison before it is judged."""

    key: Key
    before: float | None
    after: float
    change: Change
    status: str = "ok"


def judge(measured: Sequence[Unjudged], gate: Gate) -> list[Comparison]:
    """Verdicts of all comparisons. Holm's correction is over those that gate, and over the others among themselves."""
    found = [_open(part, gate) for part in measured]
    judged: dict[int, Comparison] = {}
    for kind in (True, False):
        rows = [i for i, row in enumerate(found) if row.gates is kind]
        for i, adjusted in zip(rows, holm([found[i].p_lost for i in rows]), strict=True):
            judged[i] = _decide(found[i], adjusted, measured[i].change, gate)
    return [judged[i] for i in range(len(found))]


def _open(part: Unjudged, gate: Gate) -> Comparison:
    rule, change = gate.rule(part.key.family, part.key.metric), part.change
    return Comparison(
        *part.key,
        before=part.before,
        after=part.after,
        delta=change.estimate,
        lower=change.lower,
        upper=change.upper,
        margin=rule.of(part.key.part),
        gates=rule.gates,
        p_kept=change.p_kept,
        p_lost=change.p_lost,
        p_lost_holm=1.0,
        verdict=Verdict.INCONCLUSIVE,
        needed=None,
        n=change.n,
        groups=change.groups,
        status=part.status,
    )


def _decide(row: Comparison, adjusted: float, change: Change, gate: Gate) -> Comparison:
    if row.p_kept <= gate.alpha:
        verdict = Verdict.PASS
    elif adjusted <= gate.alpha:
        verdict = Verdict.FAIL
    else:
        verdict = Verdict.INCONCLUSIVE
    needed = 0 if verdict is not Verdict.INCONCLUSIVE else _needed(row, adjusted, change, gate)
    return replace(row, p_lost_holm=adjusted, verdict=verdict, needed=needed)


def _needed(row: Comparison, adjusted: float, change: Change, gate: Gate) -> int | None:
    if change.groups < 2:
        return None
    alpha = gate.alpha if row.delta > -row.margin else gate.alpha * min(1.0, row.p_lost / max(adjusted, 1e-300))
    whole = change.needed(row.margin, alpha, gate.power)
    return max(1, math.ceil(whole) - row.n) if math.isfinite(whole) else None
