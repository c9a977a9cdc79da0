"""Data sets as the Hugging Face hub has them become evaluation sets: parquet files by split, images in their cells.

Splits come from the card (``configs`` in README.md) or from the names of the files; classes from the feature types that
stand in the parquet files. Read with pyarrow, batch by batch; the package ``datasets`` is not needed.

Does not: run loading scripts, or touch the network (``plugins.downloads.dataset`` does).
"""

from __future__ import annotations

import hashlib
import json
import re
from collections import defaultdict
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from mmkd_core.data.captions import absent_prompts, prompts
from mmkd_core.data.cells import text_cell
from mmkd_core.data.classes import with_labels
from mmkd_core.data.copies import KEEP_ONCE, compare_copies, without_copies
from mmkd_core.data.domains import written
from mmkd_core.data.eval_columns import ANSWERS, COLUMNS, TEXTS
from mmkd_core.data.eval_sets import EvalSet, check_pixels, write
from mmkd_core.data.eval_task import SCHEMA, task_of
from mmkd_core.data.issues import ImportLog, Problems
from mmkd_core.data.labels import Given, LabelColumns
from mmkd_core.data.manifest import SPLITS
from mmkd_core.data.options import Reading
from mmkd_core.data.pngs import keep_encoded
from mmkd_core.data.tables import captions_of, is_caption, split_named
from mmkd_core.errors import DataError
from mmkd_core.files import sha256_of
from mmkd_core.progress import Progress, Silent
from mmkd_core.settings import SettingsError, parse_yaml

_SPLIT = re.compile(r"(?:^|[/_.-])(train|training|validation|valid|val|dev|test|testing)(?=[-_./]|$)")
_CALLED = {"training": "train", "validation": "val", "valid": "val", "dev": "val", "testing": "test"}
_HOW = (
    "It must hold files such as data/train-00000-of-00001.parquet. Of most data sets the hub keeps such a version: "
    "--revision refs/convert/parquet."
)
_BATCH = 64


def import_hf(
    source: Path, out: Path, name: str, domain: str, how: Reading, log: ImportLog, progress: Progress | None = None
) -> EvalSet:
    """Write the images of a data set, ``task.yaml`` and a manifest to ``out``.

    Raises:
        DataError: not such a folder, columns that fit no task, labels that can be read in two ways, images that cannot
            be decoded or lie in two splits.
    """
    card = _card(source)
    files = _files(source, card, how.config)
    first = next(iter(files.values()))[0]
    features = _features(first)
    names = _columns(first, features, how)
    known = _class_names(features.get(names.get("labels", names.get("label", ""))))
    labels = LabelColumns.among(how.labels_from, list(features), source.name)
    rows, ids, given = list[dict[str, Any]](), list[str](), list[Given]()
    problems = Problems()
    with (progress or Silent()).task("read rows", sum(_rows_of(files)), "rows") as advance:
        for split, parts in files.items():
            for file in parts:
                for number, cells in enumerate(_cells(file, names)):
                    log.rows += 1
                    where = f"{file.relative_to(source).as_posix()}, row {number + 1}"
                    with problems.gathered():
                        image, path = keep_encoded(_bytes(cells["image"], source, where), out / "images", where, log)
                        label = _given(cells, known, labels, where, log)
                        rows.append(_row(cells, split, where, log) | {"image": path.relative_to(out).as_posix()})
                        ids.append(image)
                        given.append(label)
                    advance(1)
    problems.refuse(source.name)
    classes = with_labels(rows, given, known or labels.names, source.name, log, merge=how.merge_labels)
    told = (row.get("labels", (row["label"],) if row.get("label") else None) for row in rows)
    compare_copies(((i, r["image"], domain, label) for i, r, label in zip(ids, rows, told, strict=True)), log)
    if how.keep_once:
        rows, ids = without_copies(rows, ids, log)
    check_pixels(ids, [row["split"] for row in rows], source.name, KEEP_ONCE)
    task = {"name": name, "domain": written(domain)} | _facts(rows, features, classes, domain)
    task |= {"source": how.origin or source.resolve().name, "revision": how.revision or _revision(source, files)}
    licence = card.get("license", "")
    task["license"] = ", ".join(map(str, licence)) if isinstance(licence, list) else str(licence)
    log.refuse(source.name, strict=how.strict)
    return write(out, task_of({"schema": SCHEMA, "manifest": "manifest.parquet"} | task, source.name), rows)


def _card(source: Path) -> dict[str, Any]:
    """The YAML block on top of README.md; empty if there is none."""
    path = source / "README.md"
    if not path.is_file():
        return {}
    block = re.match(r"---\s*\n(.*?)\n---\s*(?:\n|$)", path.read_text(encoding="utf-8", errors="replace"), re.DOTALL)
    try:
        found = parse_yaml(block[1], texts=True) if block else None
    except SettingsError as error:
        raise DataError(f"the card cannot be read: {error}", where=str(path)) from error
    return found if isinstance(found, dict) else {}


def _files(source: Path, card: dict[str, Any], config: str | None) -> dict[str, list[Path]]:
    """Parquet files by split: as the card has them, or by their names; all are ``test`` where no name tells."""
    there = sorted(path for path in source.rglob("*.parquet") if path.is_file())
    if not there:
        raise DataError("no parquet files", where=str(source), next=_HOW)
    configs = {str(entry.get("config_name", "default")): entry for entry in card.get("configs") or []}
    known = list(configs) or _folders(there, source)
    if config is None and len(known) > 1 and "default" not in known:
        what = f"the data set has several configurations: {', '.join(known)}"
        raise DataError(what, where=str(source), next="Choose one with --config.")
    chosen = config or ("default" if "default" in known else known[0] if known else "")
    found: dict[str, list[Path]] = defaultdict(list)
    listed = configs.get(chosen, {}).get("data_files")
    if isinstance(listed, list) and all(isinstance(entry, dict) for entry in listed):
        for entry in listed:
            patterns = entry["path"] if isinstance(entry["path"], list) else [entry["path"]]
            for path in there:
                if any(fnmatch(path.relative_to(source).as_posix(), pattern) for pattern in patterns):
                    found[_CALLED.get(entry["split"], entry["split"])].append(path)
    else:
        for path in there:
            relative = path.relative_to(source).as_posix()
            if (config is None and len(known) < 2) or chosen in relative.split("/"):
                told = _SPLIT.search(relative.removesuffix(".parquet").lower())
                found[_CALLED.get(told[1], told[1]) if told else "test"].append(path)
    if not found:
        what = f"no parquet file belongs to the configuration {config}" if config else "the card names no file here"
        raise DataError(what, where=str(source), next=f"It has {', '.join(known) or 'no configurations'}.")
    if odd := sorted(set(found) - set(SPLITS)):
        what = f"the split {odd[0]!r} is none of train, val and test"
        raise DataError(what, where=str(source), next="Rename its files, or the split in the card.")
    return {split: found[split] for split in SPLITS if split in found}


def _features(file: Path) -> dict[str, Any]:
    """Type of each column, as the hub's libraries write it into the file, or as Arrow has it."""
    with _open(file) as table:
        schema = table.schema_arrow
    told = json.loads((schema.metadata or {}).get(b"huggingface", b"{}")).get("info", {}).get("features", {})
    return {field.name: told.get(field.name) or {"_type": str(field.type)} for field in schema}


def _folders(files: list[Path], source: Path) -> list[str]:
    """Names of the folders that the files lie in, splits aside: configurations, where there is more than one."""
    parts = (path.relative_to(source).parts[:-1] for path in files)
    return sorted({names[0] for names in parts if names and not _SPLIT.fullmatch(names[0].lower())})


@contextmanager
def _open(file: Path) -> Iterator[Any]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(file) as table:
            yield table
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"the file cannot be read: {error}", where=file.name, next="Download it again.") from error


def _columns(file: Path, features: dict[str, Any], how: Reading) -> dict[str, str]:
    """Its column for each of ours that it has, and those that labels come from."""
    given = how.columns
    allowed = [column for column in (*COLUMNS, *filter(is_caption, features)) if column != "sample_id"]
    for ours, theirs in given.items():
        if ours not in allowed or theirs not in features:
            what = f"{ours}={theirs}: no column {theirs!r}" if ours in allowed else f"{ours} is no column of a set"
            mend = f"The data set has {', '.join(features)}; a set has {', '.join(allowed)}."
            raise DataError(what, where=file.name, next=mend)
    found = [
        column for column in allowed if column in features and column not in ("time", "event")
    ]  # words of all uses
    names = {column: column for column in found} | dict(given)
    pictures = [name for name, feature in features.items() if _type(feature) == "Image"]
    if "image" not in names and len(pictures) == 1:
        names["image"] = pictures[0]
    if "image" not in names:
        what = f"which column has the images? There are {', '.join(features)}"
        raise DataError(what, where=file.name, next="Say it with --columns image=NAME.")
    return names | {name: name for name in how.labels_from if name in features}


def _type(feature: Any) -> str:
    return str(feature.get("_type", "")) if isinstance(feature, dict) else "List"


def _class_names(feature: Any) -> list[str] | None:
    """Names of a ``ClassLabel``, also inside a list."""
    if isinstance(feature, list):
        return _class_names(feature[0]) if feature else None
    if not isinstance(feature, dict):
        return None
    return feature["names"] if _type(feature) == "ClassLabel" else _class_names(feature.get("feature"))


def _rows_of(files: Mapping[str, list[Path]]) -> Iterator[int]:
    for parts in files.values():
        for file in parts:
            with _open(file) as table:
                yield table.metadata.num_rows


def _cells(file: Path, names: Mapping[str, str]) -> Iterator[dict[str, Any]]:
    """Rows under our names."""
    with _open(file) as table:
        if missing := sorted(set(names.values()) - set(table.schema_arrow.names)):
            raise DataError(f"the file has no column {missing[0]!r}, as others have", where=file.name)
        for batch in table.iter_batches(_BATCH, columns=sorted(set(names.values()))):
            for row in batch.to_pylist():
                yield {ours: row[theirs] for ours, theirs in names.items()}


def _bytes(cell: Any, source: Path, where: str) -> bytes:
    """An image's bytes: in the cell, or in a file of the folder that the cell names."""
    data = cell.get("bytes") if isinstance(cell, dict) else cell
    if isinstance(data, bytes):
        return data
    path = cell.get("path") if isinstance(cell, dict) else cell
    file = (source / str(path)).resolve()
    if path is None or not file.is_relative_to(source.resolve()) or not file.is_file():
        raise DataError("the cell holds no image", where=where, next="Its column must hold encoded images.")
    return file.read_bytes()


def _row(cells: dict[str, Any], split: str, where: str, log: ImportLog) -> dict[str, Any]:
    row: dict[str, Any] = {
        name: text_cell(cells.get(name), name, where, log, words=name not in ANSWERS)
        for name in TEXTS
        if name in cells and name != "image"
    }
    if "group_id" in row and row["group_id"] is None:  # counted; as in an import the image is a group of its own
        row["group_id"] = where
    told = split_named(row.get("split"), where) or split
    return row | {"captions": captions_of(cells, where, log), "choices": cells.get("choices"), "split": told}


def _given(cells: dict[str, Any], known: list[str] | None, labels: LabelColumns, where: str, log: ImportLog) -> Given:
    """The labels of a row: by the names of its feature, or as tables have them."""
    if known is None or labels.present:
        return labels.read(cells, where, log)
    value = cells["labels"] if cells.get("labels") is not None else cells.get("label")
    names = [_named(one, known, where) for one in (value if isinstance(value, list) else [value])]
    if not isinstance(value, list) and names == [None]:
        log.take_as_absent("label", "" if value is None else "NaN" if value != value else str(value))
        return None
    return tuple(name for name in names if name is not None)


def _named(value: Any, names: list[str], where: str) -> str | None:
    """A class by its number; -1 is how the hub's libraries write that a label is not known.

    Raises:
        DataError: there is no such class.
    """
    if value is None or value != value or value == -1:
        return None
    if value in range(len(names)):
        return names[int(value)]
    raise DataError(f"the label {value!r} is none of the {len(names)} classes", where=where, next="Correct the row.")


def _facts(rows: list[dict[str, Any]], features: dict[str, Any], classes: list[str], domain: str) -> dict[str, Any]:
    """Tasks that the columns allow, and the classes with their sentences."""
    has = {column for row in rows for column in row if row[column] not in (None, ())} | (
        {"labels"} if rows and "labels" in rows[0] else set()
    )
    several = "labels" in has
    trained = {"train", "test"} <= {row["split"] for row in rows}
    tasks = ["zero-shot"] * bool(classes) + ["linear-probe"] * (bool(classes) and trained)
    tasks += ["retrieval"] * ("captions" in has) + ["vqa"] * ({"question", "answer"} <= has and trained)
    tasks += ["survival"] * ({"time", "event"} <= has)
    if not tasks:
        what = f"no task can be made of the columns {', '.join(features)}"
        raise DataError(what, next="Say which is which, for example --columns image=img,label=diagnosis.")
    facts: dict[str, Any] = {"tasks": tasks, "classes": classes, "multilabel": several}
    facts["prompts"] = {label: prompts(domain, label) for label in classes}
    return facts | {"absent": {label: absent_prompts(domain, label) for label in classes} if several else {}}


def _revision(source: Path, files: Mapping[str, list[Path]]) -> str:
    """The commit of a folder of the hub's cache, or the hash of the files' hashes."""
    folder = source.resolve()
    if folder.parent.name == "snapshots" and re.fullmatch(r"[0-9a-f]{40}", folder.name):
        return folder.name
    hashes = sorted(f"{p.relative_to(source).as_posix()} {sha256_of(p)}" for parts in files.values() for p in parts)
    return "sha256:" + hashlib.sha256("\n".join(hashes).encode()).hexdigest()
