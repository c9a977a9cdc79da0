"""``mmkd.eval/v1``: an evaluation set is a folder with ``task.yaml`` and a manifest, for the tasks its columns allow.

    schema: mmkd.eval/v1
    name: chest-clinic
    tasks: [zero-shot, diagnosis]
    domain: xray
    manifest: manifest.csv          # also jsonl or parquet; paths in it are relative to the folder
    classes: [no finding, nodule]
    positive: [nodule]
    prompts: {no finding: [a normal chest x-ray], nodule: [a chest x-ray with a nodule]}   # or a CONCH prompt file
    license: CC-BY-4.0

What would make a figure wrong is refused, not warned of: a patient or an image in two splits, a label that is no
class, a class without a sentence, a follow-up time of zero.

Does not: know a model, or copy images.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from numpy.typing import NDArray

from mmkd_core.data.eval_task import HOW, TASK, TaskFile, conch_prompts, read_task
from mmkd_core.data.manifest import SPLITS
from mmkd_core.errors import DataError
from mmkd_core.files import replacing

NEEDS: dict[str, tuple[str, ...]] = {
    "zero-shot": ("label",),
    "linear-probe": ("label", "split"),
    "retrieval": ("caption",),
    "vqa": ("question", "answer", "split"),
    "survival": ("time", "event"),
    "diagnosis": ("label", "split"),
}
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
Column = NDArray[np.object_]
_COPIES = "Leave the copies out of all splits but one."


@dataclass(frozen=True, eq=False)
class EvalSet:
    """N rows of an evaluation set.

    Attributes:
        folder: where it lies.
        task: what ``task.yaml`` says.
        prompts: sentences by class, read from wherever ``task.yaml`` has them.
        columns: (N,) objects by name; cells that are empty are None.
    """

    folder: Path
    task: TaskFile
    prompts: dict[str, tuple[str, ...]]
    columns: dict[str, Column]

    def __len__(self) -> int:
        return len(self.columns["image"])

    def __getitem__(self, name: str) -> Column:
        return self.columns[name]

    def path(self, row: int) -> Path:
        """Where the image of a row lies."""
        return self.folder / str(self.columns["image"][row])

    def where(self, split: str) -> NDArray[np.int64]:
        """Rows (ascending) of one split; all rows where there are no splits and ``test`` is asked for."""
        if "split" not in self.columns:
            return np.arange(len(self)) if split == "test" else np.empty(0, np.int64)
        return np.flatnonzero(self.columns["split"] == split)

    @classmethod
    def load(cls, folder: Path) -> EvalSet:
        """Read and check a folder.

        Raises:
            DataError: names file, row and column of the first thing that is wrong.
        """
        folder = Path(folder)
        task = read_task(folder)
        columns = _columns(folder / task.manifest)
        prompts = task.prompts if isinstance(task.prompts, dict) else conch_prompts(folder / task.prompts)
        found = cls(folder, task, prompts, columns)
        _check(found)
        return found


def write(folder: Path, task: TaskFile, rows: Sequence[dict[str, Any]]) -> EvalSet:
    """Write ``task.yaml`` last, so that its presence says that the set is whole; return the set that lies there."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    folder.mkdir(parents=True, exist_ok=True)
    names = [name for name in COLUMNS if any(row.get(name) is not None for row in rows)]
    table = pa.table({name: [_cell(row.get(name)) for row in rows] for name in names})
    with replacing(folder / task.manifest) as file:
        if task.manifest.endswith(".parquet"):
            pq.write_table(table, file, compression="zstd")
        else:
            from pyarrow.csv import write_csv

            write_csv(table, file)
    with replacing(folder / TASK) as file:
        file.write(yaml.safe_dump(task.model_dump(mode="json", by_alias=True), sort_keys=False, width=120).encode())
    try:
        return EvalSet.load(folder)
    except DataError:
        (folder / TASK).unlink()  # what is refused is not left lying there as a set
        raise


def _cell(value: Any) -> str | None:
    if isinstance(value, list | tuple):
        return json.dumps(list(value))
    return None if value is None else str(value)


def _columns(path: Path) -> dict[str, Column]:
    from mmkd_core.data.cells import cells_of

    names, rows = cells_of(path, lambda name: name in COLUMNS)
    if unknown := sorted(set(names) - set(COLUMNS)):
        raise DataError(f"unknown column {unknown[0]!r}", where=str(path), next=f"Use {', '.join(COLUMNS)}.")
    if "image" not in names:
        raise DataError("the manifest has no column image", where=str(path), next=HOW)
    table = [values for _, values in rows]
    if not table:
        raise DataError("the manifest has no rows", where=str(path))
    columns = {name: _objects([row.get(name) for row in table]) for name in names}
    columns.setdefault("group_id", columns.get("sample_id", columns["image"]))
    columns.setdefault("sample_id", _objects([f"{path.parent.name}-{number:07d}" for number in range(len(table))]))
    return columns


def _objects(values: Sequence[Any]) -> Column:
    column = np.empty(len(values), dtype=object)
    column[:] = [None if value is None or str(value).strip() == "" else str(value) for value in values]
    return column


def _check(found: EvalSet) -> None:
    """Raise what would make a figure wrong."""
    task, columns, path = found.task, found.columns, str(found.folder / found.task.manifest)
    for name in task.tasks:
        for needed in NEEDS[name]:
            column = "labels" if needed == "label" and task.multilabel else needed
            if column not in columns:
                raise DataError(f"{name} needs a column {column}", where=path, next=HOW)
    for column in ("image", "group_id", "sample_id"):
        if (empty := np.array([value is None for value in columns[column]])).any():
            raise DataError(f"row {1 + int(empty.argmax())} has no {column}", where=path, next="Fill it in.")
    _check_splits(found, path)
    if {"zero-shot", "linear-probe", "diagnosis"} & set(task.tasks):
        _check_labels(found, path)
    if "zero-shot" in task.tasks:
        for label in task.classes:
            if not found.prompts.get(label):
                raise DataError(f"the class {label!r} has no sentences", where=path, next=f"Add some to {TASK}.")
            if task.multilabel and not task.absent.get(label):
                what = f"no sentence says that {label!r} is not there"
                raise DataError(what, where=path, next=f"Add some to absent in {TASK}.")
    if "survival" in task.tasks:
        for row, (time, event) in enumerate(zip(columns["time"], columns["event"], strict=True)):
            if _number(time) is None or (_number(time) or 0) <= 0:
                raise DataError(f"row {row + 1}: time must be above 0, not {time!r}", where=path, next="Correct it.")
            if str(event).lower() not in _EVENT:
                raise DataError(f"row {row + 1}: event must be 0 or 1, not {event!r}", where=path, next="Correct it.")


def _check_labels(found: EvalSet, path: str) -> None:
    """Every label is a class, where classes are named."""
    classes = found.task.classes
    for row in range(len(found)) if classes else ():
        if odd := [name for name in labels_of(found, row) if name not in classes]:
            what = f"row {row + 1}: the label {odd[0]!r} is none of the classes {', '.join(classes)}"
            raise DataError(what, where=path, next=f"Correct the row, or add the class to {TASK}.")


def labels_of(found: EvalSet, row: int) -> list[str]:
    """The classes of one row: none, one, or with ``multilabel`` several.

    Raises:
        DataError: a cell of ``labels`` is no JSON list.
    """
    if not found.task.multilabel:
        label = found["label"][row]
        return [] if label is None else [str(label)]
    cell = found["labels"][row]
    try:
        names = [] if cell is None else json.loads(cell)
    except ValueError:
        names = None
    if not isinstance(names, list):
        what = f"row {row + 1}: labels must be a JSON list of classes, not {cell!r}"
        raise DataError(what, where=str(found.folder / found.task.manifest), next='Write ["mass", "nodule"], or [].')
    return [str(name) for name in names]


def _check_splits(found: EvalSet, path: str) -> None:
    """No group and no image may lie in two splits."""
    if "split" not in found.columns:
        return
    if odd := sorted({str(value) for value in found["split"]} - set(SPLITS)):
        raise DataError(f"unknown split {odd[0]!r}", where=path, next=f"Use {', '.join(SPLITS)}.")
    for column, kind in (("group_id", "the group"), ("image", "the image")):
        seen: dict[str, str] = {}
        for value, split in zip(found[column], found["split"], strict=True):
            if seen.setdefault(value, split) != split:
                what = f"{kind} {value!r} lies in {seen[value]} and in {split}: what is learnt there is known here"
                raise DataError(what, where=path, next="Split by group, so that no patient is in two splits.")


def without_copies(rows: Sequence[dict[str, Any]], ids: Sequence[str]) -> tuple[list[dict[str, Any]], list[str]]:
    """Rows and image ids without the copies of an image in train that val or test has, and in val that test has.

    The test split stays as it was published.
    """
    home: dict[str, int] = {}
    for row, name in zip(rows, ids, strict=True):
        home[name] = max(home.get(name, 0), SPLITS.index(row["split"]))
    kept = [n for n, (row, name) in enumerate(zip(rows, ids, strict=True)) if SPLITS.index(row["split"]) == home[name]]
    return [rows[n] for n in kept], [ids[n] for n in kept]


def check_pixels(
    image_id: Sequence[str] | Column, split: Sequence[str] | Column, where: str, mend: str = _COPIES
) -> None:
    """Refuse images that lie in two splits under two names.

    Raises:
        DataError: how many, and the hash of the first.
    """
    seen: dict[str, str] = {}
    twice: dict[str, str] = {}
    for name, part in zip(image_id, split, strict=True):
        if seen.setdefault(name, part) != part:
            twice.setdefault(name, part)
    if twice:
        name, part = next(iter(twice.items()))
        what = f"the same pixels ({name[:12]}) lie in {seen[name]} and in {part} under two names"
        more = f"; so do {len(twice) - 1} other images" if len(twice) > 1 else ""
        raise DataError(what + more, where=where, next=mend)


def times(found: EvalSet) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """(N,) follow-up times and events of a set that has them."""
    event = np.array([_EVENT[str(value).lower()] for value in found["event"]], bool)
    return np.array([float(value) for value in found["time"]]), event


def _number(value: Any) -> float | None:
    try:
        number = float(value)
    except (TypeError, ValueError):
        return None
    return number if np.isfinite(number) else None


_EVENT = {"1": True, "true": True, "1.0": True, "0": False, "false": False, "0.0": False}
