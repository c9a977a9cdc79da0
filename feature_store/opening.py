"""What comes before LMDB: is the folder a store, how much address space is there, and who writes already."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path
from typing import Any

import lmdb

from feature_store.errors import StoreError
from feature_store.layout import DATABASES
from feature_store.pages import Snapshot, cut_off, newest_commit

MAP_SIZES = tuple(1 << power for power in range(40, 25, -1))
"""Address space to ask for, largest first. It costs nothing but addresses; where the OS refuses, the next is tried."""
_OWN_FILES = {"data.mdb", "lock.mdb", "writer.lock"}
MANIFEST = "manifest.json"
"""Beside ``data.mdb`` in a sealed generation; its presence is what makes a folder one."""
_RESTORE = "Restore it from a sealed generation or a copy, or remove the folder and extract the features again"
_ENGINE: dict[str, Any] = {"lib_version": 0} if int(lmdb.__version__.split(".")[0]) >= 3 else {}
"""py-lmdb 3 ships two engines that cannot read each other's files: stay with 0.9, which every version reads."""


def check_folder(path: Path, write: bool) -> None:
    """Refuse a folder that is something else; make one for a new store."""
    if write and is_sealed(path):
        raise StoreError(
            "this generation is sealed and is never written again",
            where=str(path),
            next="Write to the store that it was made from; seal() makes the next generation",
        )
    held = {entry.name for entry in path.iterdir()} if path.is_dir() else set()
    if "data.mdb" in held:
        return
    if not write:
        if path.exists():
            raise not_a_store(path)
        raise StoreError("there is no feature store", where=str(path), next='Open it with mode "w" to make one')
    if (path.exists() and not path.is_dir()) or held - _OWN_FILES:
        raise not_a_store(path)
    path.mkdir(parents=True, exist_ok=True)


def is_sealed(path: Path) -> bool:
    """Whether the folder is a sealed generation."""
    return (path / MANIFEST).exists()


def check_file(path: Path) -> None:
    """Refuse a file that was cut off, or whose first pages LMDB cannot follow: it would crash, and take us with it.

    Raises:
        StoreError: says what is wrong with the file.
    """
    file = path / "data.mdb"
    if not file.exists() or file.stat().st_size == 0:
        return
    for _ in range(3):
        before = newest_commit(file)
        snapshot = Snapshot(file)
        ours = snapshot.trees().keys() & set(DATABASES)
        if not snapshot.flaws:
            return
        if newest_commit(file) == before:  # else a writer has moved on, and these pages may be new ones
            break
    missing = cut_off(file)
    if missing:
        raise cut_off_error(path, missing)
    foreign = not ours and all(flaw.page < 0 for flaw in snapshot.flaws)
    if foreign or not snapshot.looks_like_lmdb:
        raise not_a_store(path)
    raise damaged(path, str(snapshot.flaws[0]))


def damaged(path: Path, detail: str) -> StoreError:
    """The error for a store that cannot be opened, so that nothing in it can be repaired."""
    return StoreError(f"the data file is damaged: {detail}", where=str(path), next=_RESTORE)


def cut_off_error(path: Path, detail: str) -> StoreError:
    """The error for a file whose end is missing."""
    return StoreError(f"the data file is cut off: {detail}", where=str(path), next=_RESTORE)


def open_lmdb(path: Path, readonly: bool, lock: bool = True) -> Any:
    """Open the environment with as large a map as the system grants.

    ``lock=False`` is for files that nobody writes any more: it needs no right to write, and works on any file system.

    A reader wants single pages of LMDB's trees: reading ahead would bring megabytes of blocks with each of them, and
    take longer than the first batch. Whoever writes may have to copy the whole file.
    """
    for size in MAP_SIZES:
        try:
            # No spare transactions: closing an inherited one after a fork would free a reader slot of the parent.
            return lmdb.open(
                str(path),
                map_size=size,
                readonly=readonly,
                readahead=not readonly,
                lock=lock,
                max_dbs=2 * len(DATABASES),
                max_spare_txns=0,
                **_ENGINE,
            )
        except (lmdb.MemoryError, MemoryError):
            continue
        except lmdb.VersionMismatchError as problem:
            raise StoreError(
                "the store was written by another version of LMDB's file format",
                where=str(path),
                next="Install the lmdb package that wrote it",
            ) from problem
        except lmdb.DiskError as problem:
            raise StoreError(
                "the disk is full", where=str(path), next="Free some space and run this again"
            ) from problem
        except lmdb.ReadonlyError as problem:
            raise StoreError(
                f"the store cannot be opened: {problem}", where=str(path), next="Check the folder's rights"
            ) from problem
        except lmdb.Error as problem:
            raise not_a_store(path, str(problem)) from problem
    raise _no_addresses(path)


def _no_addresses(path: Path) -> StoreError:
    return StoreError(
        "the system grants no address space to map the store",
        where=str(path),
        next="Raise the limit on address space (ulimit -v)",
    )


def new_lmdb(folder: Path) -> Any:
    """A fresh environment for one process, without locks and without a sync per commit: whoever makes it syncs it."""
    for size in MAP_SIZES:
        try:
            return lmdb.open(str(folder), map_size=size, max_dbs=2 * len(DATABASES), lock=False, sync=False, **_ENGINE)
        except (lmdb.MemoryError, MemoryError):
            continue
    raise _no_addresses(folder)


def not_a_store(path: Path, detail: str = "") -> StoreError:
    """The error for a folder or file that is something else."""
    what = f"this is not a feature store: {detail}" if detail else "this is not a feature store"
    return StoreError(what, where=str(path), next="Name the folder of a store, or a new folder")


def already_written(path: Path, pid: int | str) -> StoreError:
    """The error for the second writer."""
    return StoreError(
        f"the store is being written by process {pid}",
        where=str(path),
        next="Wait until it has finished, or stop it, and run this again",
    )


def lock_writer(path: Path) -> int:
    """Take the lock and write our pid into its file. The system drops it when the process ends, however it ends."""
    lock = os.open(path / "writer.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
    try:
        fcntl.lockf(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as problem:
        pid = os.read(lock, 32).decode() or "unknown"
        os.close(lock)
        raise already_written(path, pid) from problem
    os.ftruncate(lock, 0)
    os.write(lock, str(os.getpid()).encode())
    return lock
