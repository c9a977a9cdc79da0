"""The life of a store after its features are in: repaired, sealed into generations, cleaned and compacted.

Each takes a store that is open for writing, is safe against a kill at any moment, and leaves readers undisturbed.
"""

from __future__ import annotations

import os
from collections.abc import Collection
from pathlib import Path
from typing import Any

from feature_store import collecting, compaction, repairing, sealing
from feature_store.collecting import Garbage
from feature_store.facts import Repair
from feature_store.store import FeatureStore


def repair(store: FeatureStore) -> list[Repair]:
    """Drop every damaged part, so that ``missing`` is True for exactly its rows; all else stays as it is.

    Raises:
        StoreError: the bookkeeping is damaged, or the store is open for reading.
    """
    with store.maintaining() as environment:
        return repairing.repair(environment)


def seal(store: FeatureStore, folder: str | os.PathLike[str]) -> dict[str, Any]:
    """Write the store as it is now to a new folder that never changes: a generation, with a manifest.

    The store goes on; what is put later belongs to the next generation. A generation is opened like a store, for
    reading, without locks: also on read-only media and on network file systems.

    Returns:
        The manifest; its "root" is the checksum over everything in the generation.

    Raises:
        StoreError: the folder exists, the store is damaged, or the disk is full. No folder is left behind.
    """
    with store.maintaining() as environment:
        return sealing.seal(environment, Path(folder).absolute())


def gc(store: FeatureStore, keep: Collection[str] | None = None, *, dry_run: bool = False) -> Garbage:
    """Drop tables that are not in ``keep`` (None: keep all) and versions of rows that newer ones replaced.

    Their pages become free for later puts; ``compact`` gives them back to the disk. Killed at any moment, no table is
    lost that was to be kept, and the next call goes on.

    Args:
        store: open for writing, or with ``dry_run`` for reading.
        keep: names of tables, in both towers.
        dry_run: tell what would go, and change nothing.
    """
    with store.maintaining(write=not dry_run) as environment:
        return collecting.collect(store, environment, keep, dry_run)


def compact(store: FeatureStore, *, dry_run: bool = False) -> tuple[int, int]:
    """Rewrite the file without its free pages, and let the new one take its place in one step.

    Needs room for both files. Readers go on with the old one until their next call.

    Args:
        store: open for writing, or with ``dry_run`` for reading.
        dry_run: tell the sizes, and change nothing.

    Returns:
        Bytes of the file before and after.

    Raises:
        StoreError: the store is damaged, or the disk is full; the old file is still in place.
    """
    with store.maintaining(write=not dry_run) as environment:
        return compaction.compact(environment, dry_run)
