"""Tables that an evaluation leaves, one parquet file each, with what is the same for all rows in its metadata."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from mmkd_core.errors import DataError
from mmkd_core.files import replacing


@dataclass(frozen=True)
class Kind:
    """What a file holds.

    Attributes:
        name: such as ``predictions``; the file says it.
        version: of the layout, written and understood.
        columns: those that a file must have.
        again: the command that makes it anew.
    """

    name: str
    version: int
    columns: tuple[str, ...]
    again: str

    @property
    def _key(self) -> bytes:
        return f"mmkd.{self.name}".encode()

    def save(self, path: Path, table: pa.Table, facts: dict[str, Any]) -> None:
        """Write the table and its facts, whole or not at all."""
        told = json.dumps({"version": self.version, **facts})
        with replacing(Path(path)) as file:
            pq.write_table(table.replace_schema_metadata({self._key: told}), file, compression="zstd")

    def load(self, path: Path) -> tuple[pa.Table, dict[str, Any]]:
        """Read what ``save`` wrote.

        Raises:
            DataError: no such file, damaged, of another kind or version, or columns are missing.
        """
        if not Path(path).is_file():
            raise DataError(f"no {self.name}", where=str(path), next=self.again)
        try:
            # Read whole and closed before parsing: a memory map would keep a file open that may be replaced.
            table = pq.read_table(pa.BufferReader(Path(path).read_bytes()))
        except (pa.ArrowException, OSError) as error:
            what = f"the {self.name} cannot be read: {error}"
            raise DataError(what, where=str(path), next=self.again) from error
        raw = (table.schema.metadata or {}).get(self._key)
        missing = [name for name in self.columns if name not in table.column_names]
        if raw is None or missing:
            what = f"the table holds no {self.name}" if raw is None else f"the {self.name} lack {', '.join(missing)}"
            raise DataError(what, where=str(path), next=self.again)
        facts: dict[str, Any] = json.loads(raw)
        if facts.get("version") != self.version:
            what = f"the {self.name} are of version {facts.get('version')}, this mmkd reads {self.version}"
            raise DataError(what, where=str(path), next=self.again)
        return table, facts
