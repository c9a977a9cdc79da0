"""Rows become a corpus: images decoded once and hashed, splits assigned, captions written, hard checks run.

Shared by all importers. Does not: copy or move images.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from mmkd_core.data.captions import label_caption, prompts
from mmkd_core.data.classes import Classes, with_classes
from mmkd_core.data.copies import compare_copies
from mmkd_core.data.decode import decode, frames, note_frames
from mmkd_core.data.issues import ImportLog, Problems
from mmkd_core.data.manifest import Corpus, image_id
from mmkd_core.data.options import ImportOptions
from mmkd_core.data.prompts_file import Prompts
from mmkd_core.data.report import ImportReport, report_of
from mmkd_core.data.splits import Known, refuse_torn, splits_of
from mmkd_core.data.tables import Row, Table
from mmkd_core.errors import DataError
from mmkd_core.progress import Progress

_MANY = 512  # images from which a pool pays


def assemble(table: Table, out_root: Path, options: ImportOptions, log: ImportLog) -> tuple[Corpus, ImportReport]:
    """Turn rows into a saved corpus.

    Args:
        table: rows with absolute or relative image paths.
        out_root: folder of the corpus; images stay where they are.
        options: how.
        log: what the reader has to say; ends up in the report.

    Raises:
        DataError: labels that can be read in two ways, too many unreadable images, a group or an image in two splits;
            with ``strict`` whatever the report remarks upon.
    """
    table, classes = with_classes(table, log, merge=options.merge_labels)
    ids, failed = _hash_all(table, options.workers, options.progress, log)
    bad = Problems()
    for row in table.rows:
        if row.image in failed:
            where = f"{row.image}, {table.path.name}, {row.where}"
            hint = "Relative paths start at the folder of the manifest. " if "no such" in failed[row.image] else ""
            bad.add(DataError(failed[row.image], where=where, next=f"{hint}Mend the image or remove the row."))
    known = [
        Known(row, ids[row.image], row.group_id or f"image-{ids[row.image]}")
        for row in table.rows
        if row.image not in failed
    ]
    bad.allow(options.max_bad if known else 0, table.path.name, log)
    splits = splits_of(known, options.seed, log)
    refuse_torn(known, splits, table.path.name)
    compare_copies(((name, row.where, row.domain, _labels(row)) for row, name, _ in known), log)
    corpus = _with_texts(known, splits, classes, out_root)
    report = report_of(corpus, table.path, log, options.looks)
    if options.strict:
        report.refuse(str(table.path))
    report.save(out_root)
    return corpus.save(out_root), report


def _hash_all(
    table: Table, workers: int | None, progress: Progress, log: ImportLog
) -> tuple[Mapping[Path, str], dict[Path, str]]:
    """Return image ids by path, and reasons by path for images that cannot be read."""
    ids = dict(table.ids)
    paths = sorted({row.image for row in table.rows} - set(ids))
    failed: dict[Path, str] = {}

    def hash_one(path: Path) -> tuple[str, str, int]:
        try:
            image = decode(path)
            return image_id(image), "", frames(image)
        except DataError as error:
            return "", error.what, 1

    count = workers or (os.cpu_count() or 1 if len(paths) >= _MANY else 1)
    with ThreadPoolExecutor(count) as pool, progress.task("read images", len(paths), "images") as advance:
        for path, (name, reason, pages) in zip(paths, pool.map(hash_one, paths), strict=True):
            if reason:
                failed[path] = reason
            else:
                ids[path] = name
            note_frames(pages, str(path), log)
            advance(1)
    return ids, failed


def _labels(row: Row) -> tuple[str, ...] | None:
    return row.labels if row.label is None else (row.label,)


def _with_texts(known: Sequence[Known], splits: list[str], classes: Classes, root: Path) -> Corpus:
    found = {(item.row.domain, name) for item in known for name in item.row.labels or [item.row.label]}
    classes = {domain: [name for name in names if (domain, name) in found] for domain, names in classes.items()}
    rows: list[dict[str, Any]] = []
    for item, split in zip(known, splits, strict=True):
        row, name = item.row, item.image_id
        caption, known_here, findings = row.caption, classes.get(row.domain, []), row.labels
        if findings is not None:
            findings = tuple(label for label in known_here if label in findings)
        if (names := findings if row.label is None else (row.label,)) is not None:
            caption = caption or label_caption(row.domain, names, known_here, name)
        rows.append({
            "image": str(row.image.absolute()),
            "image_id": name,
            "caption": caption,
            "more_captions": tuple(text for text in dict.fromkeys(row.more_captions) if text != caption),
            "domain": row.domain,
            "label": row.label,
            "labels": findings,
            "group_id": item.group,
            "split": split,
        })  # fmt: skip
    sentences: Prompts = {d: {label: prompts(d, label) for label in labels} for d, labels in classes.items() if labels}
    return Corpus.build(root, rows, sentences)
