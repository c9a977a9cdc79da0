"""Features go into the store from a thread of their own, so that a disk that syncs keeps no teacher waiting.

Every batch is one durable commit, in order. At most ``DEPTH`` batches wait; a failed write stops the run.
"""

from __future__ import annotations

from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType
from typing import Any

import numpy as np

from feature_store import FeatureStore

DEPTH = 4
Array = np.ndarray[Any, Any]


class Writer:
    """Context manager around the thread. Leaving it writes what waits, also after Ctrl-C or an error."""

    def __init__(self, store: FeatureStore) -> None:
        self._store = store
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="store")
        self._pending: deque[Future[None]] = deque()

    def put(self, table: str, tower: str, rows: Array, features: Array) -> None:
        """Store a batch soon.

        Raises:
            StoreError: an earlier batch could not be written.
        """
        while self._pending and (len(self._pending) >= DEPTH or self._pending[0].done()):
            self._pending.popleft().result()
        self._pending.append(self._pool.submit(self._store.put, table, tower, rows, features))

    def __enter__(self) -> Writer:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._pool.shutdown()
        if kind is None:
            for done in self._pending:
                done.result()
