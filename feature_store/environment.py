"""One LMDB environment per folder and process: opening, sharing, forking, growing and the lock of the only writer.

LMDB must be opened once per process, its map must not move under an open transaction, an environment must not cross a
fork, and a second writer waits for ever instead of failing. This module takes care of the four, so that the rest of the
package sees ``read()`` and ``write(work)`` only. Transactions are short: nothing is pinned between calls, so a reader
never makes the file grow.

Does not: work on Windows (``fcntl``), nor on network file systems (LMDB's own rule).
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar
from uuid import uuid4

import lmdb

from feature_store.checks import DIGEST_KEY, meta_digest, sign_meta
from feature_store.errors import StoreError
from feature_store.files import no_swap, sync_file
from feature_store.gate import Gate
from feature_store.layout import DATABASES, FORMAT
from feature_store.opening import (
    already_written,
    check_file,
    check_folder,
    cut_off_error,
    damaged,
    is_sealed,
    lock_writer,
    not_a_store,
    open_lmdb,
)
from feature_store.transaction import Transaction

T = TypeVar("T")

COMPACTING = "compacting"
"""Folder in the store's own where the file grows that is to take the place of the present one."""
LARGEST_MAP = 1 << 46
_NO_ROOM = ("No space left", "File too large", "Disk quota", "Input/output error")

_open_here: dict[str, Environment] = {}
_guards: dict[int, threading.RLock] = {}


def _guard() -> threading.RLock:
    """Lock of this process: one that was held while the process forked would stay held in the child."""
    return _guards.setdefault(os.getpid(), threading.RLock())


class Environment:
    """The LMDB environment of one folder in this process. Get it from ``acquire``, give it back with ``release``."""

    uuid: bytes
    block_rows: int
    _file: tuple[int, int]
    _least: int

    def __init__(self, path: Path) -> None:
        self.path, self.data_file = path, path / "data.mdb"
        self._data_name = str(self.data_file)  # asked for with each batch: a Path costs twice the call
        self.sealed = is_sealed(path)
        self.users = 0
        self.epoch = 0
        self.lock: int | None = None
        self._gate, self._pid = Gate(), os.getpid()
        self._lmdb: Any = None

    def database(self, name: str) -> Any:
        """Handle of a named database, for use inside a transaction."""
        return self._databases[name]

    def read(self) -> Transaction:
        """A read transaction, to be entered. Whatever it hands out is a view of the map and dies with it."""
        return Transaction(self, write=False)

    def write(self, work: Callable[[Any], T]) -> T:
        """Run ``work`` in a write transaction and commit. It may run again from the start, after the map has grown."""
        while True:
            try:
                with Transaction(self, write=True) as txn:
                    result = work(txn)
                    sign_meta(txn, self._databases["meta"])
                    return result
            except lmdb.MapFullError:
                self._enlarge()
            except (lmdb.Error, OSError) as problem:
                # LMDB refuses all work after a failed write of its meta page: start from what the file holds.
                with contextlib.suppress(StoreError):
                    self._reopen()
                raise self.write_error(problem) from problem

    def begin(self, write: bool) -> Any:
        """An LMDB transaction on the file as it is now. The gate has been entered, and is left by ``end``."""
        self._adopt()
        self._follow()
        while True:
            self._gate.enter()
            try:
                return self._lmdb.begin(write=write, buffers=True)
            except lmdb.MapResizedError:  # another process has grown the store beyond this map
                self._gate.leave()
            except BaseException:
                self._gate.leave()
                raise
            with self._gate.alone():
                self._lmdb.set_mapsize(0)

    def end(self) -> None:
        """After a transaction that ``begin`` made has ended."""
        self._gate.leave()

    def _adopt(self) -> None:
        """After a fork: leave the parent's environment alone and open one of our own, for reading."""
        if self._pid == os.getpid():
            return
        with _guard():
            if self._pid != os.getpid():
                self._gate = Gate()
                self._lmdb.close()  # frees only what belongs to this process, but py-lmdb insists on it
                self.lock = None  # the lock stays with the parent: POSIX locks are not inherited
                self.open(write=False)
                self._pid = os.getpid()

    def _follow(self) -> None:
        """Open the file that a compaction has put in place of ours; refuse one that was cut off under our map."""
        status = os.stat(self._data_name)
        if (status.st_dev, status.st_ino) != self._file:
            with _guard(), self._gate.alone():
                if (status.st_dev, status.st_ino) != self._file:  # no other thread has done it meanwhile
                    self._lmdb.close()
                    self.open(write=self.lock is not None)
        elif status.st_size < self._least:
            raise cut_off_error(self.path, f"it has {status.st_size} of {self._least} bytes")
        else:
            self._least = status.st_size

    def open(self, write: bool, block_rows: int = 0) -> None:
        """Open LMDB and read, or with ``block_rows`` make, the description of the store."""
        with no_swap(self.path, alone=False) if not self.sealed else contextlib.nullcontext():
            check_file(self.path)
            self._lmdb = open_lmdb(self.path, readonly=not write, lock=not self.sealed)
            status = os.stat(self.data_file)
        self._file, self._least = (status.st_dev, status.st_ino), status.st_size
        self.epoch += 1
        try:
            if write:
                self._lmdb.reader_check()
                self._describe(block_rows)
            self._databases = {name: self._lmdb.open_db(name.encode(), create=False) for name in DATABASES[:1]}
            with self._lmdb.begin(db=self._databases["meta"]) as txn:
                self._read_description(txn)
            self._databases |= {name: self._lmdb.open_db(name.encode(), create=False) for name in DATABASES[1:]}
        except (lmdb.NotFoundError, lmdb.ReadonlyError, lmdb.IncompatibleError, lmdb.InvalidError) as problem:
            self._lmdb.close()
            raise not_a_store(self.path) from problem
        except (lmdb.CorruptedError, lmdb.PageNotFoundError, lmdb.PanicError, lmdb.BadTxnError) as problem:
            self._lmdb.close()
            raise damaged(self.path, f"LMDB cannot read it: {problem}") from problem
        except BaseException:
            self._lmdb.close()
            raise

    def _describe(self, block_rows: int) -> None:
        """Make the databases of a new store, all in one commit: killed in between, there is no store yet."""
        with self._lmdb.begin(write=True) as txn:
            if txn.stat()["entries"]:
                return
            databases = [self._lmdb.open_db(name.encode(), txn=txn, create=True) for name in DATABASES]
            facts = {"format": FORMAT, "uuid": uuid4().hex, "block_rows": block_rows, "digest": "xxh3-128"}
            txn.put(b"store", json.dumps(facts, sort_keys=True).encode(), db=databases[0])
            sign_meta(txn, databases[0])

    def _read_description(self, txn: Any) -> None:
        raw = txn.get(b"store")
        if raw is None:
            raise not_a_store(self.path)
        try:
            facts = json.loads(raw)
            found = int(facts["format"])
        except (ValueError, TypeError, KeyError) as problem:
            raise damaged(self.path, "its description cannot be read") from problem
        if found != FORMAT:
            age, following = (
                ("newer", "Update this program")
                if found > FORMAT
                else ("older", "Extract the features into a new store")
            )
            what = f"the store has format {found}, {age} than format {FORMAT} that this program reads"
            raise StoreError(what, where=str(self.path), next=following)
        if bytes(txn.get(DIGEST_KEY) or b"") != meta_digest(txn.cursor()):
            raise damaged(self.path, "its bookkeeping does not match its digest")
        self.uuid, self.block_rows = bytes.fromhex(facts["uuid"]), int(facts["block_rows"])

    def _enlarge(self) -> None:
        size = 2 * int(self._lmdb.info()["map_size"])
        try:
            if size > LARGEST_MAP:
                raise lmdb.MemoryError("the largest map is reached")
            with self._gate.alone():
                self._lmdb.set_mapsize(size)
        except lmdb.Error as problem:
            with contextlib.suppress(StoreError):
                self._reopen()
            raise StoreError(
                "the store is full: its map cannot grow; nothing that was committed is lost",
                where=str(self.path),
                next="Raise the limit on address space (ulimit -v) and run this again",
            ) from problem

    def _reopen(self) -> None:
        with self._gate.alone():
            self._lmdb.close()
            self.open(write=True)

    def copy(self, folder: Path, txn: Any) -> None:
        """Write what ``txn`` sees to ``folder/data.mdb``, without free pages."""
        try:
            self._lmdb.copy(str(folder), compact=True, txn=txn)
        except lmdb.Error as problem:
            # A full disk cuts a write of LMDB's copy short; going on from there is what its direct I/O calls invalid.
            short = "Invalid argument" in str(problem)
            raise self.write_error(lmdb.DiskError(str(problem)) if short else problem) from problem

    def put_in_place(self, file: Path) -> None:
        """Make ``file`` the store's data file, in one rename, and open it.

        The lock table belongs to the old file and goes first: whoever still reads sees that and opens again.
        """
        with self._gate.alone():
            with no_swap(self.path, alone=True):
                self._lmdb.close()
                (self.path / "lock.mdb").unlink(missing_ok=True)
                os.replace(file, self.data_file)
                sync_file(self.path)
            self.open(write=True)

    def write_error(self, problem: Exception) -> StoreError:
        """The sentence for a failed write."""
        text = str(problem)
        if isinstance(problem, lmdb.DiskError) or any(sign in text for sign in _NO_ROOM):
            what, following = "the disk is full", "Free some space and run this again"
        else:
            what, following = f"LMDB cannot write ({text})", "Run verify(), then run this again"
        return StoreError(f"{what}; nothing that was committed is lost", where=str(self.path), next=following)

    def make_writable(self, block_rows: int) -> None:
        """Take the lock of the only writer and open for writing, also where this process reads already."""
        if self.lock is not None:
            raise already_written(self.path, os.getpid())
        lock = lock_writer(self.path)
        try:
            with self._gate.alone():
                if self._lmdb is not None:
                    self._lmdb.close()
                self.open(write=True, block_rows=block_rows)
            shutil.rmtree(self.path / COMPACTING, ignore_errors=True)  # of a compaction that was killed
        except BaseException:
            os.close(lock)
            if self.users:
                self.open(write=False)
            raise
        self.lock = lock

    def unlock(self) -> None:
        """Let another writer in."""
        if self.lock is not None:
            os.close(self.lock)
            self.lock = None

    def close(self) -> None:
        """Close LMDB and let another writer in."""
        with self._gate.alone():
            self._lmdb.close()
        self.unlock()


def acquire(path: Path, write: bool, block_rows: int) -> Environment:
    """Environment of ``path``, opened or shared with the other handles of this process."""
    check_folder(path, write)
    key = str(path.resolve())
    with _guard():
        environment = _open_here.get(key)
        if environment is None:
            environment = Environment(path)
            if write:
                environment.make_writable(block_rows)
            else:
                environment.open(write=False)
            _open_here[key] = environment
        else:
            environment._adopt()
            if write:
                environment.make_writable(block_rows)
        environment.users += 1
    return environment


def release(environment: Environment, write: bool) -> None:
    """Give back what ``acquire`` handed out; the last one closes."""
    with _guard():
        environment.users -= 1
        if environment.users == 0:
            _open_here.pop(str(environment.path.resolve()), None)
            environment.close()
        elif write:
            environment.unlock()
