"""Rows of a table get their classes: cells are cut, spellings made one, and each domain is of one kind.

Does not: read cells (``labels``), or make sentences (``captions``).
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

from mmkd_core.data.issues import ImportLog, Problems
from mmkd_core.data.labels import Given, doubtful, merged, separated
from mmkd_core.data.tables import Table
from mmkd_core.errors import DataError

Classes = dict[str, list[str]]
"""By domain, in class order."""


def with_classes(table: Table, log: ImportLog, *, merge: bool = False) -> tuple[Table, Classes]:
    """Return the table with a class per row, or findings where an image of the domain has several or none.

    Args:
        table: rows as they were read; ``order`` says which class comes first, else the alphabet does.
        log: is told of merged and doubtful labels.
        merge: labels that differ only by case, white space or Unicode form are one.

    Raises:
        DataError: cells that can be read in two ways, or labels that are alike.
    """
    rows = table.rows
    given = separated([row.label if row.labels is None else row.labels for row in rows], table.path.name)
    counts: dict[str, Counter[str]] = defaultdict(Counter)
    for row, names in zip(rows, given, strict=True):
        counts[row.domain].update(names or ())
    same: dict[str, dict[str, str]] = {}
    problems = Problems()
    for domain, count in sorted(counts.items()):
        with problems.gathered():
            same[domain] = merged(count, domain, merge=merge, log=log)
    problems.refuse(table.path.name)
    labels = [
        None if names is None else tuple(dict.fromkeys(same[row.domain][name] for name in names))
        for row, names in zip(rows, given, strict=True)
    ]
    several = {row.domain for row, names in zip(rows, labels, strict=True) if names is not None and len(names) != 1}
    found: dict[str, dict[tuple[str, ...], None]] = defaultdict(dict)
    for row, names in zip(rows, labels, strict=True):
        if names is not None:
            found[row.domain][names] = None
    doubtful(found, log)
    changed = [
        replace(row, label=names[0] if names and row.domain not in several else None,
                labels=names if row.domain in several else None)
        for row, names in zip(rows, labels, strict=True)
    ]  # fmt: skip
    classes = {domain: _ordered(table.order.get(domain, ()), combinations) for domain, combinations in found.items()}
    return replace(table, rows=changed), {domain: names for domain, names in sorted(classes.items()) if names}


def with_labels(
    rows: Sequence[dict[str, Any]],
    given: Sequence[Given],
    known: Sequence[str],
    where: str,
    log: ImportLog,
    *,
    merge: bool,
) -> list[str]:
    """Write ``label``, or ``labels`` where a row has several or none of them, into the rows; return the classes.

    Args:
        rows: cells by column.
        given: what each says.
        known: classes in their order, where the source names them; else they are those that occur.
        where: source, for errors.
        log: is told of merged and doubtful labels.
        merge: labels that are alike are one.

    Raises:
        DataError: labels that can be read in two ways, or are alike.
    """
    if blank := [number for number, name in enumerate(known) if not name.strip()]:
        raise DataError(f"class {blank[0]} has no name", where=where, next="Give it one in the data set.")
    found = separated(given, where)
    counts = Counter(dict.fromkeys(known, 0))
    counts.update(name for names in found for name in names or ())
    same = merged(counts, where, merge=merge, log=log)
    labels = [None if names is None else tuple(dict.fromkeys(same[name] for name in names)) for names in found]
    several = any(names is not None and len(names) != 1 for names in labels)
    for row, names in zip(rows, labels, strict=True):
        row |= {"labels": names} if several else {"label": names[0] if names else None}
    doubtful({where: {names: None for names in labels if names is not None}}, log)
    if not any(names is not None for names in labels):
        return []
    return list(dict.fromkeys(same[name] for name in (known or sorted(counts))))


def _ordered(order: Sequence[str], combinations: Iterable[tuple[str, ...]]) -> list[str]:
    names = {name for combination in combinations for name in combination}
    first = [name for name in order if name in names]
    return [*first, *sorted(names - set(first))]
