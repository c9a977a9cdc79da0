"""Rows become a corpus: images decoded once and hashed, splits assigned, captions written, hard checks run.

Shared by all importers. Does not: copy or move images.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from difflib import get_close_matches
from hashlib import blake2b
from pathlib import Path
from typing import Any, NamedTuple

from mmkd_core.data.captions import DOMAINS, label_caption, prompts
from mmkd_core.data.check import torn
from mmkd_core.data.decode import decode
from mmkd_core.data.manifest import SPLITS, Corpus, image_id
from mmkd_core.data.prompts_file import Prompts
from mmkd_core.data.tables import Row, Table
from mmkd_core.errors import DataError
from mmkd_core.progress import Progress, Silent

SHARES = {"train": 0.70, "val": 0.10, "test": 0.20}
_MANY = 512  # images from which a pool pays


@dataclass(frozen=True)
class ImportReport:
    """What an import did, for a user to read."""

    source: str
    samples: int
    images: int
    """Distinct by pixels."""
    groups: int
    domains: dict[str, int]
    splits: dict[str, int]
    skipped: tuple[str, ...]
    """Unreadable images that ``max_bad`` allowed to leave out: file, line and reason."""
    warnings: tuple[str, ...]


class _Known(NamedTuple):
    """A row whose image was decoded."""

    row: Row
    image_id: str
    group: str


def assemble(
    table: Table,
    out_root: Path,
    *,
    seed: int = 0,
    max_bad: int = 0,
    workers: int | None = None,
    order: Mapping[str, Sequence[str]] | None = None,
    ids: Mapping[Path, str] | None = None,
    progress: Progress | None = None,
) -> tuple[Corpus, ImportReport]:
    """Turn rows into a saved corpus.

    Args:
        table: rows with absolute or relative image paths.
        out_root: folder of the corpus; images stay where they are.
        seed: of the splits that are assigned.
        max_bad: how many unreadable images may be left out.
        workers: threads that decode (decoders release the lock); all cores if there are many images.
        order: class order per domain; alphabetical by default.
        ids: image ids by path of images that were hashed already.
        progress: who watches.

    Raises:
        DataError: too many unreadable images, a group or an image in two splits.
    """
    unknown = sorted({row.image for row in table.rows} - set(ids or {}))
    fresh, failed = _hash_all(unknown, workers, progress or Silent())
    ids = {**(ids or {}), **fresh}
    skipped = _skipped(table, failed, max_bad)
    known = [
        _Known(row, ids[row.image], row.group_id or f"image-{ids[row.image]}")
        for row in table.rows
        if row.image not in failed
    ]
    splits, warnings = _splits(known, seed)
    _refuse_torn(known, splits, table)
    corpus = _with_texts(known, splits, order or {}, out_root).save(out_root)
    report = ImportReport(
        source=str(table.path),
        samples=len(corpus),
        images=len(set(corpus.image_id)),
        groups=len(set(corpus.group_id)),
        domains=dict(sorted(Counter(corpus.domain).items())),
        splits={split: int((corpus.split == split).sum()) for split in SPLITS},
        skipped=skipped,
        warnings=tuple(table.warnings + warnings + _domain_remarks(corpus)),
    )
    return corpus, report


def _hash_all(paths: list[Path], workers: int | None, progress: Progress) -> tuple[dict[Path, str], dict[Path, str]]:
    """Return image ids by path, and reasons by path for images that cannot be read."""
    ids: dict[Path, str] = {}
    failed: dict[Path, str] = {}

    def hash_one(path: Path) -> tuple[str, str]:
        try:
            return image_id(decode(path)), ""
        except DataError as error:
            return "", error.what

    count = workers or (os.cpu_count() or 1 if len(paths) >= _MANY else 1)
    with ThreadPoolExecutor(count) as pool, progress.task("read images", len(paths), "images") as advance:
        for path, (name, reason) in zip(paths, pool.map(hash_one, paths), strict=True):
            if reason:
                failed[path] = reason
            else:
                ids[path] = name
            advance(1)
    return ids, failed


def _skipped(table: Table, failed: Mapping[Path, str], max_bad: int) -> tuple[str, ...]:
    bad = [(row, failed[row.image]) for row in table.rows if row.image in failed]
    if len(failed) > max_bad or (bad and len(bad) == len(table.rows)):
        row, reason = bad[0]
        more = f"; {len(failed)} of {len({row.image for row in table.rows})} images are bad" if len(failed) > 1 else ""
        where = f"{row.image}, {table.path.name}, {row.where}{more}"
        hint = "Relative paths start at the folder of the manifest. " if "no such" in reason else ""
        raise DataError(reason, where=where, next=f"{hint}Mend the image or remove the row.")
    return tuple(f"{row.image} ({table.path.name}, {row.where}): {reason}" for row, reason in bad)


def _splits(known: Sequence[_Known], seed: int) -> tuple[list[str], list[str]]:
    """Return a split per row, and a remark if any was assigned.

    Rows without a split join their group's; where the whole group has none, ``split_of`` decides. Groups that
    share an image count as one, so that no image can fall into two splits.
    """
    given = [item.row.split for item in known]
    absent = given.count(None)
    if not absent:
        return [split for split in given if split is not None], []
    names = _components(known)
    told: dict[str, str] = {}
    for name, split in zip(names, given, strict=True):
        if split is not None:
            told.setdefault(name, split)
    shares = "/".join(f"{100 * share:.0f}" for share in SHARES.values())
    how = f"assigned by a hash of group_id with seed {seed}, {shares} % {'/'.join(SPLITS)}"
    remark = f"{absent} of {len(given)} rows name no split: {how}"
    return [s or told.get(name) or split_of(name, seed) for name, s in zip(names, given, strict=True)], [remark]


def split_of(group_id: str, seed: int) -> str:
    """Return the split of a group by a hash of the seed and its name: 70 % train, 10 % val, 20 % test.

    The seed is the workspace's, so that no published teacher can have been fitted to the probe split of everybody.
    """
    digest = blake2b(f"{seed}\n{group_id}".encode(), digest_size=8).digest()
    point = int.from_bytes(digest, "big") / 2**64
    edge = 0.0
    for split, share in SHARES.items():
        edge += share
        if point < edge:
            return split
    return SPLITS[-1]


def _components(known: Sequence[_Known]) -> list[str]:
    """Return, per row, the alphabetically first group among those linked to its own by common images."""
    parent: dict[str, str] = {}

    def find(name: str) -> str:
        parent.setdefault(name, name)
        while parent[name] != name:
            parent[name] = parent[parent[name]]
            name = parent[name]
        return name

    owner: dict[str, str] = {}
    for item in known:
        a, b = find(item.group), find(owner.setdefault(item.image_id, item.group))
        parent[max(a, b)] = min(a, b)
    return [find(item.group) for item in known]


def _refuse_torn(known: Sequence[_Known], splits: list[str], table: Table) -> None:
    groups, images = [item.group for item in known], [item.image_id for item in known]
    for what, keys in (("group", groups), ("image", images)):
        cases = torn(keys, splits)
        if not cases:
            continue
        key, (i, j) = next(iter(cases.items()))
        name = f"group '{key}'" if what == "group" else f"the same image ({known[i].row.image}, {known[j].row.image})"
        more = f"; {len(cases)} {what}s in all" if len(cases) > 1 else ""
        places = f"{splits[i]} at {known[i].row.where}, {splits[j]} at {known[j].row.where} of {table.path.name}"
        advice = "Keep every patient in one split, or remove the column split: then it is assigned by group_id."
        raise DataError(f"{name} is in two splits", where=places + more, next=advice)


def _with_texts(known: Sequence[_Known], splits: list[str], order: Mapping[str, Sequence[str]], root: Path) -> Corpus:
    labels = _labels([item.row for item in known])
    found: dict[str, set[str]] = {}
    for item, names in zip(known, labels, strict=True):
        found.setdefault(item.row.domain, set()).update(names or ())
    classes = {
        domain: [label for label in order.get(domain, sorted(found[domain])) if label in found[domain]]
        for domain in sorted(found)
        if found[domain]
    }
    multi = {item.row.domain for item in known if item.row.labels is not None}
    rows: list[dict[str, Any]] = []
    for item, names, split in zip(known, labels, splits, strict=True):
        row, name = item.row, item.image_id
        caption, known_here = row.caption, classes.get(row.domain, [])
        if names is not None:
            names = tuple(label for label in known_here if label in names)
            caption = caption or label_caption(row.domain, names, known_here, name)
        rows.append({
            "image": str(row.image.absolute()),
            "image_id": name,
            "caption": caption,
            "more_captions": tuple(text for text in dict.fromkeys(row.more_captions) if text != caption),
            "domain": row.domain,
            "label": None if row.domain in multi else row.label,
            "labels": names if row.domain in multi else None,
            "group_id": item.group,
            "split": split,
        })  # fmt: skip
    sentences: Prompts = {d: {label: prompts(d, label) for label in labels} for d, labels in classes.items()}
    return Corpus.build(root, rows, sentences)


def _labels(rows: Sequence[Row]) -> list[tuple[str, ...] | None]:
    """Return the findings per row, where a class is the only one; None where nothing is known."""
    return [row.labels if row.labels is not None else None if row.label is None else (row.label,) for row in rows]


def _domain_remarks(corpus: Corpus) -> list[str]:
    remarks = []
    if len(corpus) and not any(corpus.classes(domain) for domain in corpus.domains):
        remarks.append("no image has a label: zero-shot AUC cannot be measured, `mmkd eval retrieval` can")
    for domain in corpus.domains:
        if domain not in DOMAINS:
            near = get_close_matches(domain.lower(), DOMAINS, n=1, cutoff=0.5)
            hint = f"; is it '{near[0]}'?" if near else ""
            remarks.append(f"domain '{domain}' is none of {', '.join(DOMAINS)}{hint}")
        labels = set(corpus.label[corpus.where(domains=[domain])]) - {None}
        if len(labels) == 1:
            remarks.append(f"{domain} has a single class, {next(iter(labels))!r}: zero-shot AUC cannot be computed")
        for split in SPLITS:
            here = set(corpus.label[corpus.where(split, [domain])])
            if gone := [label for label in corpus.classes(domain) if label not in here]:
                remarks.append(f"{domain}: {split} has no {', '.join(map(repr, gone))}")
    return remarks
