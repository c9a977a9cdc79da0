"""The manifest of an evaluation set as columns that say what they mean.

Does not: know which columns a task needs, or what would make its figure wrong (``eval_sets``).
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mmkd_core.data.cells import cells_of, text_cell
from mmkd_core.data.eval_task import HOW, TASK, TaskFile
from mmkd_core.data.issues import ImportLog, Problems
from mmkd_core.data.labels import Given, LabelColumns, separated
from mmkd_core.data.tables import captions_of, is_caption, split_named
from mmkd_core.errors import DataError

Column = NDArray[np.object_]
TEXTS = ("image", "sample_id", "group_id", "split", "question", "answer", "answer_type", "time", "event")
ANSWERS = ("question", "answer", "answer_type")
"""Columns in which "None" and "NA" are words like others."""
COLUMNS = (
    "image",
    "sample_id",
    "group_id",
    "split",
    "label",
    "labels",
    "caption",
    "question",
    "answer",
    "answer_type",
    "choices",
    "time",
    "event",
)


def read_columns(path: Path, task: TaskFile) -> dict[str, Column]:
    """Cells that say what they mean: texts, captions as tuples, ``label`` or ``labels`` as the task has them.

    Raises:
        DataError: names the rows that cannot be understood.
    """
    names, rows = cells_of(path, _belongs)
    if unknown := sorted(name for name in names if not _belongs(name)):
        raise DataError(f"unknown column {unknown[0]!r}", where=str(path), next=f"Use {', '.join(COLUMNS)}.")
    if "image" not in names:
        raise DataError("the manifest has no column image", where=str(path), next=HOW)
    table: list[dict[str, Any]] = []
    given: list[Given] = []
    problems, log = Problems(), ImportLog()
    for where, values in rows:
        place = f"{path.name}, {where}"
        with problems.gathered():
            row: dict[str, Any] = {
                name: text_cell(values.get(name), name, place, log, words=name not in ANSWERS)
                for name in names
                if name in TEXTS
            }
            if "split" in row:
                row["split"] = split_named(row["split"], place)
            row["choices"] = _choices(values.get("choices"), place)
            row["captions"] = captions_of(values, place, log)
            row["caption"] = next(iter(row["captions"]), None)
            given.append(LabelColumns().read(values, place, log))
            table.append(row)
    problems.refuse(str(path))
    if not table:
        raise DataError("the manifest has no rows", where=str(path))
    there = ({*names} & {*TEXTS, "choices"}) | ({"caption", "captions"} if any(map(is_caption, names)) else set())
    columns = {name: objects([row[name] for row in table]) for name in there}
    if {"label", "labels"} & {*names}:
        columns |= _labels(given, task, str(path))
    columns.setdefault("group_id", columns.get("sample_id", columns["image"]))
    columns.setdefault("sample_id", objects([f"{path.parent.name}-{number:07d}" for number in range(len(table))]))
    return columns


def _belongs(name: str) -> bool:
    return name in COLUMNS or is_caption(name)


def _labels(given: list[Given], task: TaskFile, path: str) -> dict[str, Column]:
    """``labels`` of a multi-label task, tuples of classes; ``label`` of another, where each row has one at most."""
    whole = [(labels,) if isinstance(labels, str) and labels in task.classes else labels for labels in given]
    found = separated(whole, path)
    if task.multilabel:
        return {"labels": objects(found)}
    several = [number for number, names in enumerate(found, start=1) if names is not None and len(names) != 1]
    if several:
        what = f"{len(several)} rows have several labels or none, the first is row {several[0]}"
        mend = f"Write multilabel: true, classes and absent into {TASK}; or one label into every row."
        raise DataError(what, where=path, next=mend)
    return {"label": objects([names[0] if names else None for names in found])}


def _choices(value: object, place: str) -> str | None:
    """Choices of a question as a JSON list, however the table holds them."""
    if value is None or value != value or value == "":
        return None
    try:
        found = value if isinstance(value, list) else json.loads(str(value))
    except ValueError:
        found = None
    if not isinstance(found, list):
        raise DataError(f"choices must be a list, not {value!r}", where=place, next='Write ["yes", "no"].')
    return json.dumps(found)


def objects(values: Sequence[Any]) -> Column:
    """A column of whatever the values are."""
    column = np.empty(len(values), dtype=object)
    for row, value in enumerate(values):  # one by one: numpy takes a list of tuples of one length for a matrix
        column[row] = value
    return column
