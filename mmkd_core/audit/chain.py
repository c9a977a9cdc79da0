"""A whole chain of releases: what each knew, family by family, and what was forgotten on the way, by every name for it.

With R[t, p] a metric of release t = 1..T on part p (a domain, a teacher, a direction of retrieval), in whatever order
the teachers came, and l(p) the release that learnt p: for a domain the first that has a teacher for it (the first of
all where none ever came), for a teacher the one that learnt from it, for a direction the first of all:

    acc, bwt, fwt, forgetting_max_last, forgetting_first_last: ``chain_figures``

Libraries call both of the last two "forgetting"; the first is never smaller. b is the student before any teacher; for
an AUC it is chance where there is none. Where less is better (calibration, flips) the signs of all but ``acc`` are
turned: bwt and fwt are gains, forgetting is a loss, in every family. What no release before l(p) can have (the head of
a teacher that is yet to come) is not in the matrix. Negative flips of release t are those since l(p).

The verdict compares the newest release with the one that learnt each part, by the same tests as any audit: steps that
each lose less than the margin may add up to more.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mmkd_core.audit.chain_figures import CHAIN_FIGURES, FIRST_LAST, MAX_LAST, ChainFigure, Row
from mmkd_core.audit.comparison import MEAN, Comparison, Undefined, Unjudged, Verdict, judge, overall
from mmkd_core.audit.evidence import Evidence, Key
from mmkd_core.audit.families import Figure, figures_of, flips_of
from mmkd_core.audit.gate import Gate
from mmkd_core.audit.measure import Draws, measured
from mmkd_core.audit.metrics import named
from mmkd_core.audit.pairing import AuditError, paired_domains
from mmkd_core.evaluate.summary import mean_draws
from mmkd_core.statistics import Interval, percentile_interval

SCHEMA = "mmkd.chain/v3"
CHANCE = 0.5
LIMITS = (-2.0, 2.0)
"""Of any figure: a Brier score goes from 0 to 2."""

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Learnt:
    """Which release learnt what. What is missing counts as learnt by the first."""

    domains: Mapping[str, str] = field(default_factory=dict)
    teachers: Mapping[str, str] = field(default_factory=dict)

    def of(self, key: Key) -> str | None:
        """The release that learnt the part of a figure."""
        if key.family == "retrieval":
            return None
        return (self.teachers if key.family == "fidelity" else self.domains).get(key.part)


@dataclass(frozen=True)
class ChainTable:
    """The matrix of one metric and its figures, as fractions."""

    family: str
    metric: str
    less_is_better: bool
    gates: bool
    matrix: dict[str, dict[str, float | None]]
    """By release and part; None where it cannot be measured."""
    learnt: dict[str, str]
    """By part: the release that learnt it."""
    baseline: dict[str, float | None]
    """By part: b of ``fwt``."""
    figures: dict[str, Interval | None]
    """``acc``, ``bwt``, ``fwt`` and both kinds of forgetting; None where no part counts."""
    parts: dict[str, dict[str, float]]
    """Both kinds of forgetting by part, where it was learnt before the last release."""


@dataclass(frozen=True)
class Chain:
    """All matrices of a chain, and the verdict on its newest release."""

    releases: tuple[str, ...]
    tables: tuple[ChainTable, ...]
    comparisons: tuple[Comparison, ...]
    """The newest release against the one that learnt each part."""
    gate: Gate
    undefined: tuple[Undefined, ...] = ()
    """Comparisons that were not made, and why."""

    @property
    def verdict(self) -> Verdict:
        """``comparison.overall``."""
        return overall(self.comparisons, self.undefined)

    def table(self, family: str, metric: str) -> ChainTable:
        """The matrix of one metric."""
        return next(table for table in self.tables if (table.family, table.metric) == (family, metric))

    def to_json(self) -> dict[str, Any]:
        """Plain JSON."""
        return {
            "schema": SCHEMA,
            "verdict": self.verdict.value,
            "exit_code": self.verdict.exit_code,
            "gate": {"hash": self.gate.hash, **self.gate.model_dump(mode="json", by_alias=True)},
            "releases": list(self.releases),
            "tables": [asdict(table) for table in self.tables],
            "comparisons": [row.to_json() for row in self.comparisons],
            "undefined": [row.to_json() for row in self.undefined],
        }


def chain(
    evidence: Mapping[str, Evidence],
    learnt: Learnt | None = None,
    baseline: Evidence | None = None,
    gate: Gate | None = None,
) -> Chain:
    """The matrices of all families, on the same samples and the same resamples.

    Args:
        evidence: by release, oldest first; at least two.
        learnt: which release learnt which domain and which teacher.
        baseline: of the student before any teacher.
        gate: judges the newest release against those that learnt each part.

    Raises:
        AuditError: fewer than two releases, other samples, or no domain with an AUC.
    """
    gate, learnt, names = gate or Gate(), learnt or Learnt(), tuple(evidence)
    if len(names) < 2:
        raise AuditError("a chain needs at least two releases", next="Run `mmkd distill --incremental`")
    rows = list(evidence.values())
    known = [_kept_to(model, rows[0]) for model in rows]
    outcomes = [part for model in known for part in model.outcomes.values()]
    draws = Draws({name: (part, part) for name, part in known[0].predictions.domains.items()}, outcomes, gate)
    history = _History(names, known, learnt, draws, gate)
    before = {} if baseline is None else figures_of(_kept_to(baseline, rows[0]), draws)
    comparisons, undefined = _since(names, known, learnt, gate)
    tables = tuple(history.table(family, metric, before) for family, metric in history.metrics)
    return Chain(names, tables, tuple(judge(comparisons, gate)), gate, tuple(undefined))


def _kept_to(model: Evidence, first: Evidence) -> Evidence:
    """The domains that the first release knows: others cannot have been forgotten since.

    Raises:
        AuditError: it was measured on other samples.
    """
    paired = paired_domains(model.predictions, first.predictions)
    return replace(model, predictions=replace(model.predictions, domains={d: new for d, (new, _) in paired.items()}))


def _since(
    names: Sequence[str], known: Sequence[Evidence], learnt: Learnt, gate: Gate
) -> tuple[list[Unjudged], list[Undefined]]:
    """The newest release against the one that learnt each part, and what could not be compared."""
    found: dict[Key, Unjudged] = {}
    undefined: list[Undefined] = []

    def learnt_by(key: Key) -> str:
        return learnt.of(key) or names[0]

    for name, earlier in zip(names[:-1], known[:-1], strict=True):
        if name not in {names[0], *learnt.domains.values(), *learnt.teachers.values()}:
            continue
        compared = measured(known[-1], earlier, gate)
        for row in compared.rows:
            if learnt_by(row.key) == name and row.key.part != MEAN:
                told = f"since release {name}"
                found[row.key] = replace(row, status=told if row.status == "ok" else f"{told}; {row.status}")
        undefined += [row for row in compared.undefined if learnt_by(row.key) == name and row.part != MEAN]
    return list(found.values()), undefined


class _History:
    """Every figure of T releases, as it is and in every resample."""

    def __init__(
        self, names: Sequence[str], known: Sequence[Evidence], learnt: Learnt, draws: Draws, gate: Gate
    ) -> None:
        self.names, self.gate, self.draws = names, gate, draws
        rows = [figures_of(model, draws) for model in known]
        last = rows[-1]
        flips = {domain: Key("flips", "negative", domain) for domain in known[-1].predictions.domains}
        self.first = {key: names.index(learnt.of(key) or names[0]) for key in [*last, *flips.values()]}
        self.rows: dict[Key, list[Figure | None]] = {key: [row.get(key) for row in rows] for key in last}
        for domain, key in flips.items():
            place = self.first[key]
            here = [model if domain in model.predictions.domains else None for model in known]
            start = here[place]
            late = [flips_of(model, start, domain, draws) if model and start else None for model in here[place:]]
            self.rows[key] = [*[None] * place, *late]
        self.metrics = tuple(dict.fromkeys((key.family, key.metric) for key in self.rows))

    def table(self, family: str, metric: str, before: Mapping[Key, Figure]) -> ChainTable:
        """The matrix of one metric, and what the names for forgetting make of it."""
        less = named(family, metric).less_is_better
        sign = -1.0 if less else 1.0
        rows = {key.part: row for key, row in self.rows.items() if key[:2] == (family, metric)}
        first = {part: self.first[Key(family, metric, part)] for part in rows}
        chance = CHANCE if (family, metric) == ("zero-shot", "auc") else None
        base = {p: before[k].value if (k := Key(family, metric, p)) in before else chance for p in rows}
        values = {part: np.array([np.nan if f is None else f.value for f in row]) for part, row in rows.items()}
        old = [p for p in rows if first[p] < len(self.names) - 1 and np.isfinite(values[p][first[p]])]
        late = [p for p in rows if first[p] > 0 and base[p] is not None and np.isfinite(values[p][first[p] - 1])]

        parts = {"all": list(rows), "old": old, "late": late}

        def row(part: str, numbers: Floats) -> Row:
            return Row(numbers, first[part], base[part] or 0.0, sign)

        def figure(known: ChainFigure) -> Interval | None:
            return self._mean({p: rows[p] for p in parts[known.over]}, lambda p, numbers: known.of(row(p, numbers)))

        return ChainTable(
            family,
            metric,
            less,
            self.gate.rule(family, metric).gates,
            matrix={
                name: {part: float(row[t]) if np.isfinite(row[t]) else None for part, row in values.items()}
                for t, name in enumerate(self.names)
            },
            learnt={part: self.names[place] for part, place in first.items()},
            baseline=base,
            figures={known.name: figure(known) for known in CHAIN_FIGURES},
            parts={
                p: {
                    "max_last": float(MAX_LAST.of(row(p, values[p]))),
                    "first_last": float(FIRST_LAST.of(row(p, values[p]))),
                }
                for p in old
            },
        )

    def _mean(self, rows: Mapping[str, list[Figure | None]], of: Callable[[str, Floats], Floats]) -> Interval | None:
        """Mean over parts of a figure of a row of the matrix, (T,) or (T, B)."""
        if not rows:
            return None
        ids = list(dict.fromkeys(sample for row in rows.values() if row[-1] for sample in row[-1].sample_id))
        whole = self.draws.of(np.array(ids, dtype=object))
        estimates, drawn = [], []
        for part, row in rows.items():
            none = np.full(self.gate.resamples, np.nan)
            estimates.append(of(part, np.array([np.nan if f is None else f.value for f in row])))
            drawn.append(of(part, np.stack([none if f is None else f.drawn for f in row])))
        estimate = float(np.mean(estimates))
        return percentile_interval(
            estimate, mean_draws(drawn), whole.samples, whole.groups, self.gate.confidence, LIMITS
        )
