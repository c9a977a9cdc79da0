"""Copies of one image: rows that say different things of it are counted, copies in two splits left out."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from mmkd_core.data.issues import ImportLog
from mmkd_core.data.manifest import SPLITS

KEEP_ONCE = "Add --keep-once: the test split stays as it is, and the copies in the other splits are left out."
Told = tuple[str, str, str, tuple[str, ...] | None]
"""Image id, place, domain, and labels if any are known."""


def compare_copies(rows: Iterable[Told], log: ImportLog) -> None:
    """Count images of which two rows say different things."""
    first: dict[tuple[str, ...], tuple[frozenset[str], str]] = {}
    counted: set[tuple[str, ...]] = set()
    for image, place, domain, labels in rows:
        for key, values in ((("domains", image), (domain,)), (("labels", image, domain), labels)):
            if values is None:
                continue
            told, where = first.setdefault(key, (frozenset(values), place))
            if told != frozenset(values) and key not in counted:
                counted.add(key)
                pair = f"{where} {_named(told)}, {place} {_named(values)}"
                log.issues.add(f"images with different {key[0]} in two rows", pair)


def _named(values: Iterable[str]) -> str:
    return repr("|".join(sorted(values)))


def without_copies(
    rows: Sequence[dict[str, Any]], ids: Sequence[str], log: ImportLog
) -> tuple[list[dict[str, Any]], list[str]]:
    """Rows and image ids without the copies of an image in train that val or test has, and in val that test has.

    The test split stays as it was published.
    """
    home: dict[str, int] = {}
    for row, name in zip(rows, ids, strict=True):
        home[name] = max(home.get(name, 0), SPLITS.index(row["split"]))
    kept = [n for n, (row, name) in enumerate(zip(rows, ids, strict=True)) if SPLITS.index(row["split"]) == home[name]]
    for n in sorted(set(range(len(rows))) - set(kept)):
        log.left_out.add("copies of images in a later split", f"{rows[n]['split']}, {rows[n]['image']}")
    return [rows[n] for n in kept], [ids[n] for n in kept]
