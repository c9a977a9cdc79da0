"""Giving space back: a fresh file in place of the old one, whole before one rename puts it there."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lmdb

from feature_store.environment import COMPACTING, Environment
from feature_store.errors import StoreError
from feature_store.facts import Damage
from feature_store.files import sync_file
from feature_store.pages import Snapshot
from feature_store.verification import verify_file


def replacing_file(environment: Environment, make: Callable[[Path, Any], None]) -> None:
    """Put a file that ``make`` writes into an empty folder, from a transaction, in place of the store's.

    Killed at any moment, the store is the old one or the new one. Needs room for both.
    """
    folder = environment.path / COMPACTING
    shutil.rmtree(folder, ignore_errors=True)
    try:
        folder.mkdir()
        with environment.read() as txn:
            make(folder, txn)
        sync_file(folder / "data.mdb")
        environment.put_in_place(folder / "data.mdb")
    except (lmdb.Error, OSError) as problem:
        raise environment.write_error(problem) from problem
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def compact(environment: Environment, dry_run: bool) -> tuple[int, int]:
    """See ``FeatureStore.compact``."""
    with environment.read() as txn:
        before = environment.data_file.stat().st_size
        free = Snapshot(environment.data_file, txn.id()).free_bytes()
        damages = [] if dry_run else verify_file(environment.data_file, txn.id()).damages
    if damages:
        raise unsound(environment.path, damages, "compacted")
    if dry_run:
        return before, before - free
    replacing_file(environment, environment.copy)
    return before, environment.data_file.stat().st_size


def unsound(path: Path, damages: list[Damage], wanted: str) -> StoreError:
    """The error for work that needs a sound store."""
    more = f" and {len(damages) - 1} more" if len(damages) > 1 else ""
    return StoreError(
        f"the store is damaged, so it is not {wanted}: {damages[0]}{more}",
        where=str(path),
        next="Run repair() first (`mmkd store repair`)",
    )
