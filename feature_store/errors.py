"""The one exception of the feature store. It reads like those of ``mmkd_core``, which this package does not know."""

from __future__ import annotations


class StoreError(Exception):
    """What failed, where it failed, and what to do next.

    Args:
        what: one sentence, without a full stop at the end.
        where: folder, table, tower or row; empty if ``what`` says it.
        next: the call or the change that mends it.
    """

    def __init__(self, what: str, *, where: str = "", next: str = "") -> None:
        super().__init__(what)
        self.what, self.where, self.next = what, where, next

    def __str__(self) -> str:
        text = f"{self.what} ({self.where})" if self.where else self.what
        return f"{text}. {self.next}" if self.next else f"{text}."

    def __reduce__(self) -> tuple[object, ...]:
        # The keyword-only arguments would be lost on the way out of a worker process.
        return _rebuild, (type(self), self.what, self.where, self.next)


def _rebuild(kind: type[StoreError], what: str, where: str, following: str) -> StoreError:
    return kind(what, where=where, next=following)
