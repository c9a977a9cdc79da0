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
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from numpy.typing import NDArray

from mmkd_core.data.eval_columns import COLUMNS, Column, read_columns
from mmkd_core.data.eval_task import HOW, TASK, TaskFile, conch_prompts, read_task
from mmkd_core.data.issues import Problems
from mmkd_core.data.labels import refuse_alike
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
_COPIES = "Leave the copies out of all splits but one."


@dataclass(frozen=True, eq=False)
class EvalSet:
    """N rows of an evaluation set.

    Attributes:
        folder: where it lies.
        task: what ``task.yaml`` says.
        prompts: sentences by class, read from wherever ``task.yaml`` has them.
        columns: (N,) objects by name; cells that are empty, or say that there is none, are None. ``captions`` holds
            tuples, of which ``caption`` is the first; ``labels`` holds tuples.
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
        columns = read_columns(folder / task.manifest, task)
        prompts = task.prompts if isinstance(task.prompts, dict) else conch_prompts(folder / task.prompts)
        found = cls(folder, task, prompts, columns)
        _check(found)
        return found


def write(folder: Path, task: TaskFile, rows: Sequence[dict[str, Any]]) -> EvalSet:
    """Write ``task.yaml`` last, so that its presence says that the set is whole; return the set that lies there.

    Args:
        folder: of the set.
        task: what it asks.
        rows: cells by column; ``captions`` may hold several.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    folder.mkdir(parents=True, exist_ok=True)
    flat = [_spread(row) for row in rows]
    most = max((len(row.get("captions") or ()) for row in rows), default=0)
    names = [name for name in COLUMNS if any(row.get(name) is not None for row in flat)]
    names += [f"caption_{number}" for number in range(2, most + 1)]
    table = pa.table({name: pa.array([_cell(row.get(name)) for row in flat], pa.string()) for name in names})
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


def _spread(row: dict[str, Any]) -> dict[str, Any]:
    """A row whose captions have a column each."""
    captions = row.get("captions") or ()
    more = {f"caption_{n}" if n > 1 else "caption": text for n, text in enumerate(captions, start=1)}
    return {**row, **more}


def _cell(value: Any) -> str | None:
    if isinstance(value, list | tuple):
        return json.dumps(list(value))
    return None if value is None else str(value)


def _check(found: EvalSet) -> None:
    """Raise what would make a figure wrong, all of it at once."""
    task, columns, path = found.task, found.columns, str(found.folder / found.task.manifest)
    for name in task.tasks:
        for needed in NEEDS[name]:
            column = "labels" if needed == "label" and task.multilabel else needed
            if column not in columns:
                raise DataError(f"{name} needs a column {column}", where=path, next=HOW)
    problems = Problems()
    for column in ("image", "group_id", "sample_id", *(["split"] if "split" in columns else [])):
        for row in np.flatnonzero([value is None for value in columns[column]]).tolist():
            problems.add(DataError(f"row {row + 1} has no {column}", where=path, next="Fill it in."))
    with problems.gathered():
        _check_splits(found, path)
    if {"zero-shot", "linear-probe", "diagnosis"} & set(task.tasks):
        _check_labels(found, path, problems)
    if "zero-shot" in task.tasks:
        _check_sentences(found, path, problems)
    if "survival" in task.tasks:
        for row, (time, event) in enumerate(zip(columns["time"], columns["event"], strict=True)):
            if _number(time) is None or (_number(time) or 0) <= 0:
                what = f"row {row + 1}: time must be above 0, not {time!r}"
                problems.add(DataError(what, where=path, next="Correct it."))
            if str(event).lower() not in _EVENT:
                what = f"row {row + 1}: event must be 0 or 1, not {event!r}"
                problems.add(DataError(what, where=path, next="Correct it."))
    problems.refuse(path)


def _check_sentences(found: EvalSet, path: str, problems: Problems) -> None:
    for label in found.task.classes:
        if not found.prompts.get(label):
            what = f"the class {label!r} has no sentences"
            problems.add(DataError(what, where=path, next=f"Add some to {TASK}."))
        if found.task.multilabel and not found.task.absent.get(label):
            what = f"no sentence says that {label!r} is not there"
            problems.add(DataError(what, where=path, next=f"Add some to absent in {TASK}."))
    first: dict[tuple[str, ...], str] = {}
    for label in found.task.classes:
        if (texts := tuple(sorted(found.prompts.get(label, ())))) and first.setdefault(texts, label) != label:
            what = f"the classes {first[texts]!r} and {label!r} have the same sentences: nothing tells them apart"
            problems.add(DataError(what, where=path, next=f"Change them in {TASK}."))


def _check_labels(found: EvalSet, path: str, problems: Problems) -> None:
    """Every label is a class, where classes are named, and no two look alike."""
    classes = found.task.classes
    used = [name for row in range(len(found)) for name in labels_of(found, row) or ()]
    with problems.gathered():
        refuse_alike(Counter([*classes, *used]), path, f"Make them one in the manifest and in {TASK}.")
    for row in range(len(found)) if classes else ():
        for name in labels_of(found, row) or ():
            if name not in classes:
                what = f"row {row + 1}: the label {name!r} is none of the classes {', '.join(classes)}"
                problems.add(DataError(what, where=path, next=f"Correct the row, or add the class to {TASK}."))


def labels_of(found: EvalSet, row: int) -> tuple[str, ...] | None:
    """The classes of one row: one, or with ``multilabel`` any number; None where it is not labelled."""
    if found.task.multilabel:
        labels: tuple[str, ...] | None = found["labels"][row]
        return labels
    label = found["label"][row]
    return None if label is None else (str(label),)


def _check_splits(found: EvalSet, path: str) -> None:
    """No group and no image may lie in two splits."""
    if "split" not in found.columns:
        return
    for column, kind in (("group_id", "the group"), ("image", "the image")):
        seen: dict[str, str] = {}
        for value, split in zip(found[column], found["split"], strict=True):
            if seen.setdefault(value, split) != split:
                what = f"{kind} {value!r} lies in {seen[value]} and in {split}: what is learnt there is known here"
                raise DataError(what, where=path, next="Split by group, so that no patient is in two splits.")


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
