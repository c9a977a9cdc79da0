"""The store as its users see it."""

from __future__ import annotations

import errno
import json
import os
import threading
import weakref
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from feature_store import writing
from feature_store.columns import Columns
from feature_store.environment import Environment, acquire, release
from feature_store.errors import StoreError
from feature_store.facts import Damage, Json, StoreInfo, TableInfo
from feature_store.ids import Ids, encoded, hashed, parts
from feature_store.layout import BLOCK_ROWS, FORMAT, TOWERS, Rows, split_tower
from feature_store.listing import table_infos
from feature_store.maps import FileMap
from feature_store.sealing import verify_sealed
from feature_store.verification import verify_file

Mode = Literal["r", "w"]

VIEWS = "views"
"""Name of the table that says how the views of images were made; see ``FeatureStore.put_views``."""


class FeatureStore:
    """Features of many teachers over one corpus, in one LMDB folder. Open it with ``FeatureStore.open``.

    One process writes at a time, any number read. Every call is one transaction: what it wrote is durable when it
    returns, what it read is one consistent state. A handle may be used by several threads, and survives a fork and
    pickling: in another process it opens the store again, for reading.

        with FeatureStore.open("features", "w") as store:
            rows = store.add_ids("image", ["a", "b"])
            store.put("fingerprint", "image", rows, np.ones((2, 512), np.float32))
            store.gather("fingerprint", "image", rows)
    """

    def __init__(self, path: Path, mode: Mode, environment: Environment | None = None) -> None:
        self.path, self.mode = path, mode
        self._closed = False
        self._attach(environment)

    def _attach(self, environment: Environment | None) -> None:
        self._pid = os.getpid()
        self._lock = threading.RLock()
        self._columns: dict[tuple[str, str, int], Columns] = {}
        self._ids: dict[str, Ids] = {}
        self._environment = environment
        if environment is not None:
            self._epoch = environment.epoch
            self._files = FileMap(environment.data_file)
            self._finalizer = weakref.finalize(self, release, environment, self.mode == "w")

    @classmethod
    def open(cls, path: str | os.PathLike[str], mode: Mode = "r", *, block_rows: int = BLOCK_ROWS) -> FeatureStore:
        """Open the store in the folder ``path``; with mode "w" make it if there is none.

        Args:
            path: folder of the store, on a local file system.
            mode: "r" to read, "w" to read and write.
            block_rows: rows per block of a new store; an existing one keeps its own.

        Raises:
            StoreError: no store there, something else there, another format, or another process writes.
        """
        if mode not in ("r", "w"):
            raise StoreError(f"there is no mode {mode!r}", next='Use "r" or "w"')
        folder = Path(path).absolute()
        try:
            environment = acquire(folder, mode == "w", block_rows)
        except OSError as problem:
            full = problem.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
            what = "the disk is full" if full else f"the store cannot be opened: {problem.strerror}"
            following = "Free some space and run this again" if full else "Check the folder's rights"
            raise StoreError(what, where=str(folder), next=following) from problem
        return cls(folder, mode, environment)

    def close(self) -> None:
        """Close the handle. Closing it twice does no harm."""
        self._closed = True
        if self._environment is not None:
            self._finalizer()
            self._files = FileMap(self._environment.data_file)  # lets go of the map
        self._environment = None
        self._columns.clear()
        self._ids.clear()

    def __enter__(self) -> FeatureStore:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def __getstate__(self) -> dict[str, Any]:
        return {"path": self.path, "closed": self._closed}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.path, self.mode, self._closed = state["path"], "r", state["closed"]
        self._attach(None)

    def _ready(self) -> Environment:
        """Environment of this process, opened if need be."""
        if self._closed:
            raise StoreError("the store is closed", where=str(self.path), next="Open it again")
        if self._environment is None:
            self._attach(acquire(self.path, False, BLOCK_ROWS))
        elif self._pid != os.getpid():
            # Forked: a lock that another thread held would never be released here. The index is still right.
            self._pid, self._lock, self.mode = os.getpid(), threading.RLock(), "r"
        assert self._environment is not None
        return self._environment

    def _writable(self) -> Environment:
        environment = self._ready()
        if self.mode != "w":
            raise StoreError(
                "the store is open for reading", where=str(self.path), next='Open it with mode "w" to write'
            )
        return environment

    def add_ids(self, tower: str, ids: Sequence[str]) -> Rows:
        """Give each new id the next row of the tower, in order; ids that are known keep theirs.

        Args:
            tower: "image" or "text".
            ids: 1 to 200 bytes of utf-8 each.

        Returns:
            Row of each id (n,), int64.
        """
        environment, names = self._writable(), encoded(writing.check_tower(tower), ids)
        with self._lock:
            with environment.read() as txn:
                known = self._known_ids(environment, txn, tower)
            rows, new = known.number(names)
            if new:
                writing.add_ids(environment, tower, new, known.count)
            return rows

    def rows(self, tower: str, ids: Sequence[str]) -> Rows:
        """Row of each id (n,), int64; -1 where the id is unknown."""
        environment, hashes = self._ready(), hashed(encoded(writing.check_tower(tower), ids))
        with self._lock, environment.read() as txn:
            return self._known_ids(environment, txn, tower).find(hashes)

    def _known_ids(self, environment: Environment, txn: Any, tower: str) -> Ids:
        self._follow(environment)
        known = self._ids.setdefault(tower, Ids(tower))
        known.refresh(txn, environment.database("ids"), writing.count_ids(txn, environment, tower))
        return known

    def put(
        self,
        table: str,
        tower: str,
        rows: ArrayLike,
        features: ArrayLike,
        *,
        dtype: str | None = None,
        view: int = 0,
    ) -> None:
        """Store features (n, d) of n rows in one durable commit. Rows that have features already get the new ones.

        Args:
            table: the teacher's fingerprint.
            tower: "image" or "text".
            rows: row numbers (n,) from ``add_ids``; of a row that comes twice the last counts.
            features: finite floats (n, d); d is the same in every put of a table and tower.
            dtype: "float32", "float16", "bfloat16" or "int8" (with a scale per row), settled by the first put of the
                table, tower and view; the default is float16.
            view: of an image that is shown in several ways (augmentations), which of them; see ``put_views``.

        Raises:
            StoreError: bad input, nothing of which is stored; disk or map full, with nothing lost.
        """
        environment = self._writable()
        with self._lock:
            with self.reading((table, tower, view)) as (txn, (columns,)):
                count = writing.count_ids(txn, environment, tower)
            writing.put(columns, environment, count, writing.as_rows(rows), features, dtype)

    def missing(self, table: str, tower: str, rows: ArrayLike, *, view: int = 0) -> NDArray[np.bool_]:
        """Mask (n,): True where the row has no features in this table. A table that does not exist lacks all."""
        wanted = writing.as_rows(rows)
        with self.reading((table, tower, view)) as (_, (columns,)):
            return columns.missing(wanted)

    def gather(self, table: str, tower: str, rows: ArrayLike, *, view: int = 0) -> NDArray[np.float32]:
        """Features (n, d) of these rows, in their order, as one contiguous float32 array that belongs to the caller.

        ``feature_store.torch.gather`` does it for several tables at once, faster, and into tensors.

        Raises:
            StoreError: a row has no features, or its block is damaged.
        """
        wanted = writing.as_rows(rows)
        with self.reading((table, tower, view)) as (txn, (columns,)):
            return columns.gather(txn, wanted)

    def put_views(self, view: int, rows: ArrayLike, names: Sequence[str], parameters: ArrayLike) -> None:
        """Store how view number ``view`` of these images was made: (n, k) numbers, for example of the crop.

        They lie in a table of their own, ``VIEWS``, in float32.

        Args:
            view: 1 or more; view 0 is the plain image.
            rows: row numbers (n,) of the images.
            names: what the k numbers are; the same in every call.
            parameters: finite floats (n, k).

        Raises:
            StoreError: other names than before, or bad input.
        """
        self._writable()
        known = self.view_names()
        if known and known != list(names):
            raise StoreError(f"views are described by {', '.join(known)}, not by {', '.join(names)}")
        if np.shape(parameters)[1:] != (len(names),):
            raise StoreError(f"{len(names)} names came with parameters of shape {np.shape(parameters)}")
        if not known:
            self.describe(VIEWS, names=list(names))
        self.put(VIEWS, "image", rows, parameters, dtype="float32", view=view)

    def view_names(self) -> list[str]:
        """What the columns of ``gather(VIEWS, "image", rows, view=k)`` are; empty if no view was described."""
        environment = self._ready()
        with environment.read() as txn:
            raw = txn.get(f"facts/{VIEWS}".encode(), db=environment.database("meta"))
            return [] if raw is None else list(json.loads(bytes(raw)).get("names", []))

    def describe(self, table: str, **facts: Json) -> None:
        """Store small facts about a table beside it; a fact of the same name is replaced."""
        environment = self._writable()
        key = f"facts/{writing.check_name(table)}".encode()

        def work(txn: Any) -> None:
            meta = environment.database("meta")
            known = json.loads(bytes(txn.get(key, db=meta) or b"{}"))
            txn.put(key, json.dumps(known | facts, sort_keys=True, allow_nan=False).encode(), db=meta)

        try:
            with self._lock:
                environment.write(work)
        except (TypeError, ValueError) as problem:
            raise StoreError(f"a fact cannot be written as JSON: {problem}", where=f"table {table}") from problem

    def tables(self) -> list[TableInfo]:
        """Every table and tower that has features, sorted by name and tower."""
        environment = self._ready()
        with environment.read() as txn:
            return table_infos(environment, txn)

    def info(self) -> StoreInfo:
        """Sums over the tables, numbers of ids, and the size of the file."""
        environment = self._ready()
        tables = tuple(self.tables())
        with environment.read() as txn:
            ids = {tower: writing.count_ids(txn, environment, tower) for tower in TOWERS}
        return StoreInfo(
            version=FORMAT,
            rows=sum(table.rows for table in tables),
            bytes=sum(table.bytes for table in tables),
            bytes_raw=sum(table.bytes_raw for table in tables),
            file_bytes=environment.data_file.stat().st_size,
            ids=ids,
            tables=tables,
        )

    def verify(self, root: str = "") -> list[Damage]:
        """Read everything, compare it with its digests, and name each damaged part. An empty list is a sound store.

        The file is read without LMDB, page by page, because a damaged page can make LMDB crash. Holds one transaction.

        Args:
            root: of a sealed generation: the checksum that it was sealed with, noted elsewhere.
        """
        environment = self._ready()
        if environment.sealed:
            return verify_sealed(self.path, root)
        with environment.read() as txn:
            return verify_file(environment.data_file, txn.id()).damages

    def present(self, table: str, tower: str) -> Rows:
        """Rows that have features in this table (n,), ascending."""
        base, _ = split_tower(tower)
        return np.flatnonzero(~self.missing(table, tower, np.arange(self.info().ids[writing.check_tower(base)])))

    def ids(self, tower: str) -> NDArray[np.object_]:
        """Id of each row of the tower (n,), as strings. Reads all of them."""
        environment = self._ready()
        with environment.read() as txn:
            names: list[bytes] = []
            for _, part in parts(txn, environment.database("ids"), writing.check_tower(tower)):
                names += reversed(part.names)
        return np.array([name.decode("utf-8", "replace") for name in reversed(names)], object)

    @contextmanager
    def maintaining(self, write: bool = True) -> Iterator[Environment]:
        """For ``feature_store.keeping``: the environment, with the other calls of this handle kept out."""
        with self._lock:
            yield self._writable() if write else self._ready()

    def _follow(self, environment: Environment) -> None:
        """Forget what is known of a file that another one has replaced."""
        if self._epoch != environment.epoch:
            self._epoch, self._files = environment.epoch, FileMap(environment.data_file)
            self._columns.clear()
            self._ids.clear()

    def _column(self, table: str, tower: str, view: int) -> Columns:
        assert self._environment is not None
        name = writing.check_view(tower, view)
        columns = Columns(self._environment, self._files, writing.check_name(table), name)
        self._columns[table, tower, view] = columns
        return columns

    @contextmanager
    def reading(self, *columns: tuple[str, str, int]) -> Iterator[tuple[Any, list[Columns]]]:
        """A read transaction and, as of that transaction, the indices of these (table, tower, view)."""
        environment = self._ready()
        with self._lock, environment.read() as txn:
            self._follow(environment)
            found, commit = [self._columns.get(key) or self._column(*key) for key in columns], txn.id()
            for one in found:
                if one.commit != commit:
                    one.refresh(txn)
            yield txn, found
