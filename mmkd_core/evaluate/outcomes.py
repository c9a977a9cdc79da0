"""Per-sample outcomes of a task, in memory and as parquet: what a model said, never what a figure makes of it.

Every task of this room is two pure halves: one turns features into ``Outcomes``, the other turns ``Outcomes`` into
figures. So each published figure can be computed again from the file, and two models are compared row by row.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from mmkd_core.errors import DataError
from mmkd_core.evaluate.parquet import Kind

_FILE = Kind("outcomes", 2, ("sample_id", "group_id"), "Evaluate again with `mmkd eval set`.")


@dataclass(frozen=True, eq=False)
class Outcomes:
    """n rows of what one model said in one task.

    Attributes:
        protocol: name and version of the task, such as ``mmkd/linear-probe@2``.
        columns: by name (n,) or (n, C) arrays; always ``sample_id`` and ``group_id``.
        facts: what the figures need beside the rows (classes, horizon, thresholds), as plain JSON.

    Raises:
        DataError: no rows, no ids, columns of different lengths, or logits that are not finite.
    """

    protocol: str
    columns: dict[str, NDArray[Any]]
    facts: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if missing := [name for name in ("sample_id", "group_id") if name not in self.columns]:
            raise DataError(f"outcomes without {', '.join(missing)}")
        if len({len(column) for column in self.columns.values()}) != 1:
            raise DataError(f"columns of outcomes differ in length: { {k: len(c) for k, c in self.columns.items()} }")
        if not len(self):
            what = f"{self.protocol} has nothing to measure: no sample of the test split has what it needs"
            raise DataError(what, next="Put labelled samples into the test split.")
        for name, column in self.columns.items():
            if column.dtype.kind == "f" and not np.isfinite(column).all():
                raise DataError(f"{name} holds NaN or infinity", next="Check the features with `mmkd store verify`.")

    def __len__(self) -> int:
        return len(self.columns["sample_id"])

    def __getitem__(self, name: str) -> NDArray[Any]:
        return self.columns[name]

    def take(self, index: NDArray[Any]) -> Outcomes:
        """The rows at ``index`` (integers or a mask)."""
        return Outcomes(self.protocol, {name: column[index] for name, column in self.columns.items()}, self.facts)

    def save(self, path: Path) -> None:
        """Write one parquet file; ``load`` gives back the same bits in the same order."""
        table = pa.table({name: _stored(column) for name, column in self.columns.items()})
        _FILE.save(path, table, {"protocol": self.protocol, "facts": self.facts})

    @classmethod
    def load(cls, path: Path) -> Outcomes:
        """Read what ``save`` wrote.

        Raises:
            DataError: no such file, not outcomes, damaged, or of another version.
        """
        table, found = _FILE.load(path)
        columns = {name: _read(table.column(name)) for name in table.column_names}
        return cls(found["protocol"], columns, found["facts"])


def _stored(column: NDArray[Any]) -> pa.Array:
    if column.dtype.kind in "OU":
        return pa.array([str(value) for value in column], pa.string())
    if column.ndim == 2:
        return pa.FixedSizeListArray.from_arrays(pa.array(column.ravel()), column.shape[1])
    return pa.array(column)


def _read(column: pa.ChunkedArray) -> NDArray[Any]:
    if pa.types.is_string(column.type):
        values = np.empty(len(column), dtype=object)
        values[:] = column.to_pylist()
        return values
    if pa.types.is_fixed_size_list(column.type):
        flat = column.combine_chunks().flatten().to_numpy(zero_copy_only=False)
        return np.asarray(flat.reshape(-1, column.type.list_size))
    return np.asarray(column.to_numpy())
