"""Transactions as contexts: begun and ended by the environment, and errors that say something."""

from __future__ import annotations

from types import TracebackType
from typing import TYPE_CHECKING, Any

import lmdb

from feature_store.errors import StoreError

if TYPE_CHECKING:
    from feature_store.environment import Environment


class Transaction:
    """A transaction of an environment as a context. A class, because a generator would cost each batch 3 us more.

    What a failed read means is a sentence; what a failed write means ``Environment.write`` knows.
    """

    def __init__(self, environment: Environment, write: bool) -> None:
        self._environment, self._write = environment, write

    def __enter__(self) -> Any:
        try:
            self._txn = self._environment.begin(self._write)
        except lmdb.Error as problem:
            self._explain(problem)
            raise
        return self._txn

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        try:
            self._txn.__exit__(kind, error, at)
        finally:
            self._environment.end()
        if isinstance(error, lmdb.Error):
            self._explain(error)

    def _explain(self, problem: lmdb.Error) -> None:
        if not self._write:
            raise StoreError(
                f"LMDB cannot read the store: {problem}",
                where=str(self._environment.path),
                next="Run verify() to see what is damaged",
            ) from problem
