"""What the page says, worked out from the summary: the headline in words, the rows of tables and figures."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from functools import cached_property
from typing import Any

from mmkd_core.report.figures import MEAN, DotRow, ForestRow, HeatRow
from mmkd_core.report.trust_page import SweepView
from mmkd_core.report.words import number, points, signed

Facts = Mapping[str, Any]

FIGURES = (
    (
        "balanced_accuracy",
        "Balanced accuracy",
        "Balanced accuracy in points: the mean over classes of the share that is chosen right. It sees decisions, "
        "where AUC sees ranks.",
    ),
    (
        "brier",
        "Brier score",
        "Brier score in points, 0 to 200: how far probabilities lie from what is so. Lower is better.",
    ),
)
"""Figures beside AUC: key, title and caption of the table."""


class View:
    """The summary as the template reads it. Everything optional may be missing; numbers that are not finite are."""

    def __init__(self, summary: Facts) -> None:
        self.summary = summary
        self.teachers: Facts = summary["teachers"]
        self.releases: Facts = summary["releases"]
        self.stage_1: Facts | None = summary.get("stage_1")
        self.integration: Facts | None = summary.get("integration")
        self.trust: Facts = (summary.get("trust") or {}).get("teachers", {})
        sweep = (summary.get("trust") or {}).get("sweep")
        self.sweep = SweepView(sweep) if sweep else None
        self.margin = number((self.integration or {}).get("margin")) or 0.02

    @cached_property
    def domains(self) -> list[str]:
        """Domains in the order of the data, then any that only a model or the audit knows."""
        found = dict.fromkeys(self.summary["data"].get("domains") or {})
        for facts in [*self.teachers.values(), *self.releases.values(), self.stage_1 or {}]:
            found.update(dict.fromkeys(facts.get("auc") or {}))
        found.update(dict.fromkeys((self.integration or {}).get("forgetting") or {}))
        return list(found)

    @cached_property
    def measured(self) -> bool:
        """Whether any model has an AUC: not where no image has a label."""
        models = [*self.teachers.values(), *self.releases.values(), self.stage_1 or {}]
        return any(number(value) is not None for facts in models for value in (facts.get("auc") or {}).values())

    @cached_property
    def after_id(self) -> str | None:
        """The release that the page is about: the one asked for, the candidate, the current one, or the last."""
        candidate = self.summary.get("about") or (self.integration or {}).get("candidate")
        if candidate in self.releases:
            return str(candidate)
        current = [name for name, facts in self.releases.items() if facts.get("current")]
        known = current or list(self.releases)
        return known[-1] if known else None

    @cached_property
    def after(self) -> Facts | None:
        """The release that the page is about."""
        facts: Facts | None = self.releases[self.after_id] if self.after_id is not None else self.stage_1
        return facts

    @cached_property
    def after_name(self) -> str:
        """What figures call it."""
        return f"release {self.after_id}" if self.after_id is not None else "stage 1"

    @cached_property
    def before(self) -> Facts | None:
        """What it is compared with: its parent, else stage 1, else nothing."""
        parent = self._parent
        fallback = self.stage_1 if self.after_id is not None else None
        facts: Facts | None = self.releases[parent] if parent is not None else fallback
        return facts

    @cached_property
    def before_name(self) -> str | None:
        """What figures call that."""
        if self._parent is not None:
            return f"release {self._parent}"
        return "stage 1 alone" if self.before is not None else None

    @cached_property
    def _parent(self) -> str | None:
        parent = (self.integration or {}).get("parent") or (self.after or {}).get("parent")
        return parent if parent in self.releases and parent != self.after_id else None

    @cached_property
    def best_teacher(self) -> tuple[str, float] | None:
        """The single teacher with the highest mean AUC."""
        known = [(name, mean) for name, facts in self.teachers.items() if (mean := number(facts.get("mean_auc")))]
        return max(known, key=lambda pair: pair[1], default=None)

    @cached_property
    def best_of_each(self) -> tuple[float, float] | None:
        """Mean AUC of each domain's own best teacher, and that of the student over the same domains."""
        own = (self.after or {}).get("auc") or {}
        pairs = []
        for domain in self.domains:
            known = [number((facts.get("auc") or {}).get(domain)) for facts in self.teachers.values()]
            best, mine = max((v for v in known if v is not None), default=None), number(own.get(domain))
            if best is not None and mine is not None:
                pairs.append((best, mine))
        return (_mean([best for best, _ in pairs]), _mean([mine for _, mine in pairs])) if pairs else None

    @cached_property
    def figure_tables(self) -> list[tuple[str, str, str]]:
        """``FIGURES`` that some model has."""
        return [
            (key, title, caption)
            for key, title, caption in FIGURES
            if any(number(value) is not None for _, facts in self.models for value in (facts.get(key) or {}).values())
        ]

    @cached_property
    def verdict(self) -> str:
        """PASS, FAIL, INCONCLUSIVE, or empty without an integration."""
        return str((self.integration or {}).get("verdict") or "")

    @cached_property
    def headline(self) -> str:
        """The verdict in one or two short sentences."""
        if not self.integration:
            several = f"{len(self.teachers)} teacher" + ("s" if len(self.teachers) != 1 else "")
            return f"The student has learnt from {several}."
        teacher, margin = self.integration.get("teacher"), points(self.margin)
        if self.verdict == "PASS":
            kept = f"No domain lost more than the {margin} points of AUC allowed, and no other figure its margin."
            if self.integration.get("promoted"):
                return f"{teacher} is integrated. {kept}"
            return f"{teacher} passed the audit but was not promoted. {kept}"
        hurt = [row for row in self.integration.get("open") or [] if row["verdict"] == self.verdict]
        names = ", ".join(f"{row['metric']} {row['part']} {signed(row.get('delta'))}" for row in hurt)
        if self.verdict == "FAIL":
            return f"{teacher} was refused: the student forgot too much" + (f" ({names})." if names else ".")
        parts = ", ".join(f"{row['metric']} {row['part']}" for row in hurt)
        waits = f"{teacher} waits: the test data cannot show that nothing was forgotten"
        return f"{waits} ({parts})." if parts else f"{waits}."

    @cached_property
    def lead(self) -> str:
        """One sentence under the headline: what changed on the mean, and against the best teacher."""
        after = number((self.after or {}).get("mean_auc"))
        if after is None and not any(d.get("labels") for d in (self.summary["data"].get("domains") or {}).values()):
            command = f"mmkd eval retrieval {self.after_id or 'stage-1'}"
            return f"No image has a label, so there is no AUC; “{command}” measures how well captions are found."
        if after is None:
            return "The mean AUC of the student could not be measured."
        refused = self.integration is not None and not self.integration.get("promoted")
        who = f"The candidate, {self.after_name}, has" if refused else "The student has"
        parts = [f"{who} a mean zero-shot AUC of {points(after)} over {len(self.domains)} domains"]
        before = number((self.before or {}).get("mean_auc"))
        if before is not None:
            parts.append(f", {_way(after - before)} than {self.before_name}")
        if self.best_teacher:
            name, mean = self.best_teacher
            join = " and " if before is not None else ", "
            parts.append(f"{join}{_way(after - mean)} than the best single teacher ({name}, {points(mean)})")
        if self.best_of_each:
            best, mine = self.best_of_each
            parts.append(f". It is {_way(mine - best)} than each domain's own best teacher (mean {points(best)})")
        if refused and self._parent is not None:
            parts.append(f". Release {self._parent} stays in use")
        return "".join(parts) + "."

    @cached_property
    def new_domains(self) -> list[tuple[str, float]]:
        """Gain on the domains of the teacher that was added, largest first."""
        if not self.integration:
            return []
        own = (self.teachers.get(str(self.integration.get("teacher"))) or {}).get("domains") or []
        gains = self.integration.get("gain") or {}
        found = [(d, value) for d in own if (value := number(gains.get(d))) is not None]
        return sorted(found, key=lambda pair: -pair[1])

    @cached_property
    def worst(self) -> ForestRow | None:
        """The domain that lost most, or gained least."""
        return min(
            (row for row in self.forest if number(row.delta) is not None), key=lambda r: r.delta or 0, default=None
        )

    @cached_property
    def heat_teachers(self) -> list[HeatRow]:
        """Rows of the heat map: teachers."""
        return [
            HeatRow(
                name,
                facts.get("auc") or {},
                facts.get("mean_auc"),
                {d: (t.get("admitted") or 0, t.get("of") or 0) for d, t in (self.trust.get(name) or {}).items()},
            )
            for name, facts in self.teachers.items()
        ]

    @cached_property
    def heat_students(self) -> list[HeatRow]:
        """Rows of the heat map: stage 1 and the releases."""
        rows = (
            [HeatRow("stage 1 alone", self.stage_1.get("auc") or {}, self.stage_1.get("mean_auc"))]
            if self.stage_1
            else []
        )
        for name, facts in self.releases.items():
            mark = " (current)" if facts.get("current") else ""
            rows.append(HeatRow(f"release {name}{mark}", facts.get("auc") or {}, facts.get("mean_auc")))
        return rows

    @cached_property
    def dots(self) -> list[DotRow]:
        """Rows of the dot plot: every domain, then the mean."""
        if self.after is None:
            return []
        before, after = self.before or {}, self.after
        rows = []
        for domain in self.domains:
            best = [v for t in self.teachers.values() if (v := number((t.get("auc") or {}).get(domain))) is not None]
            rows.append(
                DotRow(
                    domain,
                    number((before.get("auc") or {}).get(domain)),
                    _pair((before.get("interval") or {}).get(domain)),
                    number((after.get("auc") or {}).get(domain)),
                    _pair((after.get("interval") or {}).get(domain)),
                    max(best, default=None),
                )
            )
        means = (before.get("mean_auc"), before.get("mean_interval"), after.get("mean_auc"), after.get("mean_interval"))
        best_mean = self.best_teacher[1] if self.best_teacher else None
        rows.append(DotRow(MEAN, number(means[0]), _pair(means[1]), number(means[2]), _pair(means[3]), best_mean))
        return rows

    @cached_property
    def forest(self) -> list[ForestRow]:
        """Rows of the forest plot: every domain that the audit compared."""
        found = (self.integration or {}).get("forgetting") or {}
        order = [d for d in self.domains if d in found]
        return [_forest_row(domain, found[domain]) for domain in order]

    @cached_property
    def forest_mean(self) -> ForestRow | None:
        """The change of the mean over domains, if the audit has it."""
        mean = (self.integration or {}).get("mean")
        return _forest_row(MEAN, {**mean, "verdict": ""}) if mean else None

    def admitted(self, teacher: str) -> tuple[int, int] | None:
        """Samples from which ``teacher`` teaches, of all that it was asked about."""
        cells = list((self.trust.get(teacher) or {}).values())
        return (sum(c.get("admitted") or 0 for c in cells), sum(c.get("of") or 0 for c in cells)) if cells else None

    @cached_property
    def models(self) -> list[tuple[str, Facts]]:
        """Every model that was measured, by the name that the page gives it."""
        stage_1 = [("stage 1 alone", self.stage_1)] if self.stage_1 else []
        releases = [(f"release {name}", facts) for name, facts in self.releases.items()]
        return [*self.teachers.items(), *stage_1, *releases]

    @cached_property
    def trust_sentences(self) -> list[str]:
        """The trust rule in its own words; with the teachers' names where they came under different rules."""
        trust = self.summary.get("trust") or {}
        found = [(entry["says"], ", ".join(entry["teachers"])) for entry in trust.get("sentences") or []]
        said = [says if len(found) == 1 else f"{names}: {says}" for says, names in found]
        undecided = ", ".join(trust.get("undecided") or [])
        again = "was not decided from the present data, teachers and settings; “mmkd audit trust” does that."
        return [*said, f"What {undecided} may teach {again}"] if undecided else said

    def decisions(self, shown: bool) -> dict[str, dict[str, Facts]]:
        """Trust decisions by teacher: where it teaches or is at home, or (``shown`` false) all the others."""
        found = {}
        for name, cells in self.trust.items():
            own = (self.teachers.get(name) or {}).get("domains") or []
            some = {d: c for d, c in cells.items() if (bool(c.get("admitted")) or d in own) == shown}
            if some:
                found[name] = some
        return found

    @cached_property
    def commands(self) -> list[str]:
        """The commands that make this again: the ones recorded in ``reproduce``, else step by step."""
        recorded = self.summary.get("reproduce")
        if recorded:
            return [str(command) for command in recorded]
        steps = ["mmkd init again --config mmkd.yaml && cd again", "mmkd data import PATH"]
        seen: set[str] = set()
        for facts in self.releases.values():
            new = [str(name) for name in facts.get("teachers") or [] if name not in seen]
            if not facts.get("parent"):
                steps += [f"mmkd teachers add {shlex.quote(name)}" for name in new]
                steps += ["mmkd extract", "mmkd pretrain", "mmkd distill"]
            else:
                steps += [f"mmkd integrate {shlex.quote(name)}" for name in new]
            seen.update(new)
        return [*steps, "mmkd report"]


def _mean(values: list[float]) -> float:
    return sum(values) / len(values)


def _way(change: float) -> str:
    text = points(abs(change))
    return f"{text} points {'higher' if change >= 0 else 'lower'}"


def _pair(bounds: Any) -> tuple[float, float] | None:
    if not bounds or any(number(b) is None for b in bounds):
        return None
    return float(bounds[0]), float(bounds[1])


def _forest_row(name: str, facts: Facts) -> ForestRow:
    return ForestRow(
        name,
        number(facts.get("delta")),
        number(facts.get("lower")),
        number(facts.get("upper")),
        facts.get("n"),
        facts.get("groups"),
        str(facts.get("verdict") or ""),
        facts.get("needed"),
    )
