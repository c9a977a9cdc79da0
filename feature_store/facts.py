"""What the store says about itself: plain frozen records, nothing that touches a file."""

from __future__ import annotations

from dataclasses import dataclass, field

Json = None | bool | int | float | str | list["Json"] | dict[str, "Json"]


@dataclass(frozen=True)
class TableInfo:
    """One table (a teacher's fingerprint) in one tower.

    ``rows`` counts distinct rows that have features. ``bytes`` are the payload, headers and row lists that the table
    holds, replaced rows included; they depend on what was put and in which order, not on how LMDB laid out its pages
    nor, while no row is put twice, on how rows were grouped into puts. ``bytes_raw`` is the rows as bare float32.
    ``cosine_loss_*`` is 1 - cos(float32 row, stored row), over every row ever put.
    """

    table: str
    tower: str
    dim: int
    dtype: str
    rows: int
    bytes: int
    bytes_raw: int
    cosine_loss_mean: float
    cosine_loss_worst: float
    facts: dict[str, Json]


@dataclass(frozen=True)
class StoreInfo:
    """The whole store: sums over its tables, and ``file_bytes``, the size of LMDB's file (free pages included)."""

    version: int
    rows: int
    bytes: int
    bytes_raw: int
    file_bytes: int
    ids: dict[str, int]
    tables: tuple[TableInfo, ...]


@dataclass(frozen=True)
class Repair:
    """What ``repair`` took away from one table and tower.

    ``rows`` have no features any more, nor have ``unknown`` more whose numbers could not be read; ``missing`` tells.
    """

    table: str
    tower: str
    parts: tuple[str, ...]
    rows: tuple[int, ...] = field(repr=False)
    unknown: int = 0


@dataclass(frozen=True)
class Damage:
    """One damaged part.

    ``part`` is ``"block 3"``, ``"index 3"``, ``"tail 17"`` or ``"rows"`` (how many) of a table and tower;
    ``"ids 4096"`` (those from row 4096) of a tower; ``"bookkeeping"``, ``"page 17"``, ``"file"`` or ``"manifest"`` of
    the store. ``rows`` are the rows whose features cannot be trusted, as far as the store can still tell.
    """

    table: str
    tower: str
    part: str
    reason: str
    rows: tuple[int, ...] = field(default=(), repr=False)

    def __str__(self) -> str:
        where = [f"table {self.table}"] * bool(self.table) + [f"tower {self.tower}"] * bool(self.tower)
        return f"{', '.join([*where, self.part])}: {self.reason}"
