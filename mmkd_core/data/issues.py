"""Remarks on data: problems of many rows as one error, and what an import left out, took as absent or doubts.

All cases of a kind are counted and the first are named, so that a person sees the whole at once.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

from mmkd_core.errors import DataError

EXAMPLES = 5
"""Cases of one kind that a report names; it counts all."""

KINDS = 10
"""Kinds of problems that one error names."""


@dataclass(frozen=True)
class Issue:
    """One kind of problem: how often it occurs and the first cases."""

    what: str
    count: int
    examples: tuple[str, ...]

    def __str__(self) -> str:
        more = f", and {self.count - len(self.examples)} more" if self.count > len(self.examples) else ""
        return f"{self.what}: {self.count} ({'; '.join(self.examples)}{more})"


class Tally:
    """Cases by kind, in the order in which the kinds came."""

    def __init__(self) -> None:
        self._cases: dict[str, list[str]] = {}
        self._counts: Counter[str] = Counter()

    def add(self, what: str, name: str) -> None:
        """Count a case; it is named if it is one of the first."""
        self._counts[what] += 1
        if self._counts[what] <= EXAMPLES:
            self._cases.setdefault(what, []).append(name)

    def __len__(self) -> int:
        return self._counts.total()

    @property
    def issues(self) -> tuple[Issue, ...]:
        """The kinds with their cases."""
        return tuple(Issue(what, self._counts[what], tuple(names)) for what, names in self._cases.items())


class Problems:
    """Errors that are gathered, to be raised together."""

    def __init__(self) -> None:
        self._errors: list[DataError] = []

    @contextmanager
    def gathered(self) -> Iterator[None]:
        """Keep a ``DataError`` of the block for later."""
        try:
            yield
        except DataError as error:
            self._errors.append(error)

    def add(self, error: DataError) -> None:
        """Keep an error for later."""
        self._errors.append(error)

    def allow(self, most: int, where: str, log: ImportLog) -> None:
        """Leave out what cannot be read, if there is no more of it than that.

        Raises:
            DataError: there is more.
        """
        if len(self._errors) > most:
            self.refuse(where)
        for error in self._errors:
            log.left_out.add(error.what, error.where)

    def refuse(self, where: str) -> None:
        """Raise what was gathered, if anything: a single error as it is, several as one that names every kind.

        Raises:
            DataError: there are any.
        """
        if len(self._errors) < 2:
            for error in self._errors:
                raise error
            return
        tally = Tally()
        for error in self._errors:
            tally.add(error.what, error.where)
        advice = list(dict.fromkeys(error.next for error in self._errors if error.next))
        kinds = [str(issue) for issue in tally.issues]
        more = [f"and {len(kinds) - KINDS} kinds more"] if len(kinds) > KINDS else []
        what = f"{len(self._errors):,} problems: {'; '.join(kinds[:KINDS] + more)}"
        raise DataError(what, where=where, next=" ".join(advice[:3])) from self._errors[0]


@dataclass(frozen=True, kw_only=True)
class Remarks:
    """What there is to say of an import.

    Attributes:
        rows: read from the source.
        left_out: rows and files that were not taken, by reason.
        absent: by column, how often each spelling ("nan", "NA", an empty cell) was taken for "there is none".
        issues: what a figure on these data may suffer from.
        notes: what was decided on the way.
    """

    rows: int
    left_out: tuple[Issue, ...]
    absent: Mapping[str, Mapping[str, int]]
    issues: tuple[Issue, ...]
    notes: tuple[str, ...]

    def refuse(self, where: str) -> None:
        """Raise everything but notes and empty cells (a table has no other way to say "there is none").

        Raises:
            DataError: there is any of it.
        """
        words = {column: {s: n for s, n in spelled.items() if s} for column, spelled in self.absent.items()}
        found = [f"left out, {issue}" for issue in self.left_out] + [str(issue) for issue in self.issues]
        found += [f"taken as absent, {line}" for line in absent_lines(words)]
        if found:
            what = f"--strict refuses the import for {len(found)} reason{'s' * (len(found) > 1)}: {'; '.join(found)}"
            raise DataError(what, where=where, next="Mend them, or leave --strict out. Nothing was written.")


def absent_lines(absent: Mapping[str, Mapping[str, int]]) -> list[str]:
    """Return a line per column: ``label: "nan" 3, empty 2``."""
    return [
        f"{column}: "
        + ", ".join(f'"{spelling}" {count}' if spelling else f"empty {count}" for spelling, count in cells)
        for column, spelled in absent.items()
        if (cells := sorted(spelled.items(), key=lambda cell: (-cell[1], cell[0])))
    ]


@dataclass
class ImportLog:
    """What a reader has to say, gathered while it reads."""

    rows: int = 0
    left_out: Tally = field(default_factory=Tally)
    issues: Tally = field(default_factory=Tally)
    absent: dict[str, Counter[str]] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def take_as_absent(self, column: str, spelling: str) -> None:
        """Count a cell that says "there is none"."""
        self.absent.setdefault(column, Counter())[spelling] += 1

    def note(self, line: str) -> None:
        """Add a line, once."""
        if line not in self.notes:
            self.notes.append(line)

    def refuse(self, where: str, *, strict: bool) -> None:
        """Raise what there is to remark upon, if ``strict``.

        Raises:
            DataError: there is any of it.
        """
        if strict:
            self.remarks().refuse(where)

    def remarks(self, more: Sequence[Issue] = ()) -> Remarks:
        """Return what was gathered, and ``more`` issues."""
        absent = {column: dict(spelled) for column, spelled in self.absent.items()}
        issues = (*self.issues.issues, *more)
        return Remarks(
            rows=self.rows, left_out=self.left_out.issues, absent=absent, issues=issues, notes=tuple(self.notes)
        )
