"""Manifests as people write them (csv, jsonl, parquet) become rows, or one sentence that names file and line.

Columns: ``image``, ``domain``, and ``label`` or ``caption`` are needed; ``group_id`` and ``split`` are used where
given; others are ignored. Does not: open images, or guess what a column of another name means (it only says which one
looks right).
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path

from mmkd_core.data.manifest import SPLITS
from mmkd_core.errors import DataError

SUFFIXES = (".csv", ".jsonl", ".parquet")
UNGROUPED = "every image is its own group, so intervals may be too narrow"
_KNOWN = ("image", "domain", "label", "caption", "group_id", "split", "window", "slice")
_SPLIT_NAMES = {"training": "train", "valid": "val", "validation": "val", "dev": "val", "testing": "test"}

# What other data sets call our columns: only ever a hint in an error.
_HINTS: dict[str, tuple[str, ...]] = {
    "image": ("image_path", "img_path", "img", "path", "file", "filename", "file_name", "filepath", "imgpath"),
    "domain": ("modality", "imaging_modality", "dataset", "type"),
    "label": ("class", "diagnosis", "target", "finding", "labels", "dx", "category"),
    "caption": ("text", "captions", "txt", "report", "description", "title"),
    "group_id": (
        "patient_id",
        "patient",
        "subject_id",
        "subject",
        "case_id",
        "slide_id",
        "lesion_id",
        "study_id",
        "group",
    ),
    "split": ("fold", "set", "subset", "partition"),
}


@dataclass(frozen=True)
class Row:
    """One sample as its manifest gives it; ``where`` is ``line 17`` or ``row 17``."""

    where: str
    image: Path
    domain: str
    label: str | None
    caption: str | None
    group_id: str | None
    split: str | None
    window: str | None = None
    """For DICOM and NIfTI: ``center/width``."""
    slice: str | None = None
    """For NIfTI, and DICOM of several frames: which."""
    more_captions: tuple[str, ...] = ()
    """Further captions, after ``caption``."""
    labels: tuple[str, ...] | None = None
    """All findings, in multi-label data: () is none of them, None unknown. ``label`` is None then."""


@dataclass(frozen=True)
class Table:
    """A manifest that was read: its rows, and what was said about its columns."""

    path: Path
    rows: list[Row]
    warnings: list[str]


def read_table(path: Path, domain: str | None = None) -> Table:
    """Read a manifest; relative image paths are relative to its folder.

    Args:
        path: a csv, jsonl or parquet file.
        domain: kind of all images, where the manifest has no column for it.

    Raises:
        DataError: no such file, unknown format, damaged, wrong columns, or a row without image, domain or text.
    """
    columns, cells = cells_of(path, _KNOWN)
    if domain and "domain" in columns:
        raise DataError("the manifest has a column domain itself", where=path.name, next="Leave --domain out.")
    if domain:
        columns, cells = [*columns, "domain"], ((where, {**values, "domain": domain}) for where, values in cells)
    _check_columns(columns, path)
    rows = [_row(where, values, path, columns) for where, values in cells]
    if not rows:
        raise DataError("the manifest has no rows", where=path.name)
    return Table(path, rows, _remarks(columns))


Cells = Iterator[tuple[str, Mapping[str, object]]]
"""Where a row stands, and its cells by column."""


def cells_of(path: Path, known: Collection[str]) -> tuple[list[str], Cells]:
    """Columns and rows of a csv, jsonl or parquet file as they are; of a parquet file only the ``known`` columns.

    Raises:
        DataError: no such file, unknown format, or damaged.
    """
    if not path.is_file():
        raise DataError("no such file", where=str(path), next="Give a csv, jsonl or parquet manifest.")
    suffix = path.suffix.lower()
    if suffix == ".parquet":
        return _parquet(path, known)
    readers = {".csv": _csv, ".jsonl": _jsonl}
    if suffix not in readers:
        raise DataError("unknown kind of manifest", where=str(path), next=f"Use one of {', '.join(SUFFIXES)}.")
    return readers[suffix](path)


def _csv(path: Path) -> tuple[list[str], Cells]:
    reader = csv.DictReader(io.StringIO(_text(path), newline=""))
    columns = [name.strip() for name in reader.fieldnames or []]
    reader.fieldnames = columns

    def cells() -> Cells:
        try:
            for values in reader:
                where = f"line {reader.line_num}"
                if None in values:
                    what = f"the line has more than {len(columns)} cells"
                    raise DataError(what, where=f"{path.name}, {where}", next='Put "..." around text with commas.')
                yield where, values
        except csv.Error as error:
            raise DataError(f"not a csv table: {error}", where=f"{path.name}, line {reader.line_num}") from error

    return columns, cells()


def _jsonl(path: Path) -> tuple[list[str], Cells]:
    records: list[tuple[str, Mapping[str, object]]] = []
    columns: dict[str, None] = {}
    for number, line in enumerate(_text(path).split("\n"), start=1):
        if not line.strip():
            continue
        try:
            record = json.loads(line)
        except ValueError as error:
            raise DataError(f"not JSON: {error}", where=f"{path.name}, line {number}") from error
        if not isinstance(record, dict):
            raise DataError("not a JSON object", where=f"{path.name}, line {number}", next='Write {"image": ...}.')
        columns.update(dict.fromkeys(record))
        records.append((f"line {number}", record))
    return list(columns), iter(records)


def _parquet(path: Path, known: Collection[str]) -> tuple[list[str], Cells]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(path) as file:
            columns = list(file.schema_arrow.names)
            wanted = [name for name in columns if name in known]
            records = file.read(columns=wanted).to_pylist() if wanted else []
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"not a parquet table: {error}", where=path.name) from error
    return columns, ((f"row {number}", record) for number, record in enumerate(records, start=1))


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError("the file is not UTF-8 text", where=path.name, next="Save it as UTF-8.") from error


def _check_columns(columns: list[str], path: Path) -> None:
    missing = [name for name in ("image", "domain") if name not in columns]
    if "label" not in columns and "caption" not in columns:
        missing.append("label or caption")
    if not missing:
        return
    hints = [(near, name) for gap in missing for name in gap.split(" or ") if (near := _nearest(name, columns))]
    advice = " and ".join(f"'{near}' to '{name}'" for near, name in hints)
    what = f"the manifest has no column {' and no column '.join(missing)}; it has {', '.join(columns) or 'none'}"
    needed = "Needed are image, domain, and label or caption (group_id and split if known)."
    if missing == ["domain"] and not advice:
        needed = "`mmkd data import PATH --domain xray` says it for all images; or add the column."
    raise DataError(what, where=path.name, next=f"Rename {advice}. {needed}" if advice else needed)


def _nearest(name: str, columns: list[str]) -> str | None:
    """Return the column that probably means ``name``: by what others call it, then by spelling."""
    free = {column.lower(): column for column in columns if column not in _KNOWN}
    for alias in (name, *_HINTS[name]):
        if alias in free:
            return free[alias]
    close = get_close_matches(name, list(free), n=1, cutoff=0.6)
    return free[close[0]] if close else None


def _remarks(columns: list[str]) -> list[str]:
    remarks = []
    if "group_id" not in columns:
        near = _nearest("group_id", columns)
        hint = f"; is '{near}' the patient? Then rename it" if near else ""
        remarks.append(f"no column group_id: {UNGROUPED}{hint}")
    return remarks


def _row(where: str, values: Mapping[str, object], path: Path, columns: list[str]) -> Row:
    image = _cell(values, "image", f"{path.name}, {where}")
    return as_row(where, {**values, "image": path.parent / image if image else None}, f"{path.name}, {where}", columns)


def as_row(
    where: str, values: Mapping[str, object], place: str, columns: Collection[str] = ("label", "caption")
) -> Row:
    """Check the cells of one sample.

    Args:
        where: its place in the table, which the row keeps.
        values: cells by column; ``image`` is a path.
        place: table and place, for errors.
        columns: those that the table has, for errors.

    Raises:
        DataError: image, domain or text is missing, or a cell holds what it cannot hold.
    """
    image, caption = values["image"], _cell(values, "caption", place)
    domain, label = (" ".join((_cell(values, name, place) or "").split()) for name in ("domain", "label"))
    if not isinstance(image, Path) or not domain:
        raise DataError(f"the {'domain' if image else 'image'} is missing", where=place)
    if caption == "":
        raise DataError("the caption is empty", where=place, next="Write one, or remove the row.")
    if caption is None and not label:
        needed = " and ".join(name for name in ("label", "caption") if name in columns)
        raise DataError(f"the {needed} is missing", where=place, next="Every image needs a label or a caption.")
    return Row(
        where,
        image,
        domain,
        label or None,
        caption,
        _cell(values, "group_id", place) or None,
        _split(_cell(values, "split", place), place),
        _cell(values, "window", place) or None,
        _cell(values, "slice", place) or None,
    )


def _cell(values: Mapping[str, object], name: str, place: str) -> str | None:
    """Return a cell as stripped text, or None where it is absent."""
    value = values.get(name)
    if value is None or value != value:  # NaN, which is how pandas writes an absent text
        return None
    if not isinstance(value, (str, int, float)):
        raise DataError(f"the {name} is no single value but a {type(value).__name__}", where=place)
    return str(value).strip()


def _split(value: str | None, place: str) -> str | None:
    if not value:
        return None
    plain = _SPLIT_NAMES.get(value.lower(), value.lower())
    if plain not in SPLITS:
        raise DataError(f"unknown split {value!r}", where=place, next=f"Use {', '.join(SPLITS)}.")
    return plain
