"""Features out of a store and into one: files for other programs, and the stores of other machines.

    DIR/
      export.json                   kind, and per table and tower: dim, dtype, rows, facts, files. Written last
      0000-image-00000.parquet      columns id, feature (a list of numbers)
      0000-image-00000.safetensors  features (n, d); ids as utf-8 in one row of bytes, and offsets (n + 1) into it

float16 is written as such, every other precision as float32, which holds it exactly: what is imported again is the same
to the bit. One file's rows are in memory at a time, and the ids of a tower.

Rows are matched by id, so stores that numbered their samples differently can be merged in any order. A row that is
there already is compared, never replaced.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from feature_store.errors import StoreError
from feature_store.facts import Json
from feature_store.files import sync_file, write_whole
from feature_store.layout import Rows, split_tower
from feature_store.precision import decode, encode
from feature_store.store import FeatureStore

Kind = Literal["safetensors", "parquet"]
CONTENTS = "export.json"
_VERSION = 1
_FILE_BYTES = 64 << 20
_NAMED = 20
Features = NDArray[np.floating[Any]]


@dataclass
class Transfer:
    """What came into a store.

    Args:
        added: rows that were new.
        same: rows that were there, with the same features.
        conflicts: number of rows that were there with other features, which they keep.
        examples: the first of them, as (table, tower, id).
        facts: (table, name) of facts that say something else here; they are kept as they are.
    """

    added: int = 0
    same: int = 0
    conflicts: int = 0
    examples: list[tuple[str, str, str]] = field(default_factory=list)
    facts: list[tuple[str, str]] = field(default_factory=list)

    def add(self, other: Transfer) -> None:
        """Count another transfer into the same store as part of this one."""
        self.added, self.same = self.added + other.added, self.same + other.same
        self.conflicts += other.conflicts
        self.examples = [*self.examples, *other.examples][:_NAMED]
        self.facts += [fact for fact in other.facts if fact not in self.facts]


def export(store: FeatureStore, folder: Path, kind: Kind = "safetensors") -> dict[str, Any]:
    """Write all features to files that other programs read, and return the contents of ``export.json``.

    Raises:
        StoreError: the folder is not empty, ``kind`` does not exist, or a block is damaged.
    """
    if kind not in ("safetensors", "parquet"):
        raise StoreError(f"there is no export as {kind!r}", next='Use "safetensors" or "parquet"')
    if folder.exists() and any(folder.iterdir()):
        raise StoreError("the folder of an export must be empty", where=str(folder), next="Name a new folder")
    folder.mkdir(parents=True, exist_ok=True)
    entries, names = [], {tower: store.ids(tower) for tower in ("image", "text")}
    for number, info in enumerate(store.tables()):
        rows = store.present(info.table, info.tower)
        files: list[str] = []
        step = max(1, _FILE_BYTES // (4 * info.dim))
        for first in range(0, len(rows), step):
            part = rows[first : first + step]
            features: Features = store.gather(info.table, info.tower, part)
            if info.dtype == "float16":
                features = features.astype(np.float16)
            path = folder / f"{number:04}-{info.tower}-{len(files):05}.{kind}"
            ids = [str(name) for name in names[split_tower(info.tower)[0]][part]]
            (_write_parquet if kind == "parquet" else _write_safetensors)(path, ids, features)
            sync_file(path)
            files.append(path.name)
        facts = {"table": info.table, "tower": info.tower, "dim": info.dim, "dtype": info.dtype, "rows": len(rows)}
        entries.append({**facts, "facts": info.facts, "files": files})
    contents = {"version": _VERSION, "kind": kind, "tables": entries}
    write_whole(folder / CONTENTS, (json.dumps(contents, indent=1) + "\n").encode())
    return contents


def import_folder(store: FeatureStore, folder: Path) -> Transfer:
    """Put what ``export`` wrote into a store. Killed, it goes on when it is called again.

    Raises:
        StoreError: the export is not complete, damaged or of a newer version, or a table has other dimensions here.
    """
    contents = _contents(folder)
    done = Transfer()
    for entry in contents["tables"]:
        _check_dim(store, entry["table"], entry["tower"], entry["dim"])
    for entry in contents["tables"]:
        table, tower = entry["table"], entry["tower"]
        count = 0
        for name in entry["files"]:
            try:
                parts = _read_parquet if contents["kind"] == "parquet" else _read_safetensors
                for ids, features in parts(folder / name):
                    count += len(ids)
                    _absorb(store, table, tower, ids, features, entry["dtype"], done)
            except StoreError:
                raise
            except Exception as problem:  # each library has errors of its own
                what = f"a file of the export cannot be read: {' '.join(str(problem).split())}"
                raise StoreError(what, where=str(folder / name), next="Export again, and import that") from problem
        if count != entry["rows"]:
            what = f"the export should have {entry['rows']} rows of table {table}, tower {tower}; it has {count}"
            raise StoreError(what, where=str(folder), next="Export again, and import that")
        _describe(store, table, entry["facts"], done)
    return done


def merge(store: FeatureStore, source: FeatureStore) -> Transfer:
    """Put all features of another store into this one; rows are matched by id. Killed, it goes on when called again.

    Raises:
        StoreError: a table has other dimensions here (nothing was changed), or a block of the source is damaged.
    """
    done, names = Transfer(), {tower: source.ids(tower) for tower in ("image", "text")}
    tables = source.tables()
    for info in tables:
        _check_dim(store, info.table, info.tower, info.dim)
    for info in tables:
        rows = source.present(info.table, info.tower)
        step = max(1, _FILE_BYTES // (4 * info.dim))
        for first in range(0, len(rows), step):
            part = rows[first : first + step]
            ids = [str(name) for name in names[split_tower(info.tower)[0]][part]]
            _absorb(store, info.table, info.tower, ids, source.gather(info.table, info.tower, part), info.dtype, done)
        _describe(store, info.table, info.facts, done)
    return done


def _absorb(
    store: FeatureStore, table: str, tower: str, ids: list[str], features: Features, dtype: str, done: Transfer
) -> None:
    """Put rows that are new and compare the others."""
    rows = store.add_ids(split_tower(tower)[0], ids)
    absent = store.missing(table, tower, rows)
    if absent.any():
        known = [info for info in store.tables() if (info.table, info.tower) == (table, tower)]
        store.put(table, tower, rows[absent], features[absent], dtype=None if known else dtype)
        done.added += int(absent.sum())
    there = np.flatnonzero(~absent)
    if len(there):
        same = _equal(store, table, tower, rows[there], features[there].astype(np.float32), dtype)
        done.same += int(same.sum())
        done.conflicts += int((~same).sum())
        done.examples += [(table, tower, ids[n]) for n in there[~same][: _NAMED - len(done.examples)]]


def _equal(
    store: FeatureStore, table: str, tower: str, rows: Rows, features: NDArray[np.float32], dtype: str
) -> NDArray[np.bool_]:
    """Mask (n,): the features are those of the store, in the coarser of the two precisions."""
    ours = store.gather(table, tower, rows)
    (own,) = [info.dtype for info in store.tables() if (info.table, info.tower) == (table, tower)]
    same: NDArray[np.bool_] = (_rounded(features, own) == ours).all(axis=1)
    same |= (_rounded(ours, dtype) == features).all(axis=1)
    return same


def _rounded(features: NDArray[np.float32], dtype: str) -> NDArray[np.float32]:
    return decode(encode(features, dtype), dtype, features.shape[1])


def _check_dim(store: FeatureStore, table: str, tower: str, dim: int) -> None:
    for info in store.tables():
        if (info.table, info.tower) == (table, tower) and info.dim != dim:
            raise StoreError(
                f"features with {dim} dimensions do not fit a table with {info.dim}; nothing was changed",
                where=f"table {table}, tower {tower}",
                next="One of the two was made by another model or program: find out which before you put them together",
            )


def _describe(store: FeatureStore, table: str, facts: dict[str, Json], done: Transfer) -> None:
    known = next((info.facts for info in store.tables() if info.table == table), {})
    new = {name: value for name, value in facts.items() if name not in known}
    if new:
        store.describe(table, **new)
    odd = [(table, name) for name, value in facts.items() if name in known and known[name] != value]
    done.facts += [fact for fact in odd if fact not in done.facts]


def _contents(folder: Path) -> dict[str, Any]:
    try:
        found: dict[str, Any] = json.loads((folder / CONTENTS).read_bytes())
        version, _, _ = found["version"], found["kind"], [entry["files"] for entry in found["tables"]]
    except (OSError, ValueError, TypeError, KeyError) as problem:
        what = f"this is no complete export: {CONTENTS} is missing or cannot be read"
        raise StoreError(what, where=str(folder), next="Export again; the file is written last") from problem
    if version != _VERSION:
        what = f"the export is of version {version}, this program reads {_VERSION}"
        raise StoreError(what, where=str(folder), next="Update this program")
    return found


def _write_parquet(path: Path, ids: list[str], features: Features) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    flat = pa.array(np.ascontiguousarray(features).reshape(-1))
    columns = {"id": pa.array(ids, pa.string()), "feature": pa.FixedSizeListArray.from_arrays(flat, features.shape[1])}
    pq.write_table(pa.table(columns), path, compression="none", use_dictionary=False)


def _read_parquet(path: Path) -> Iterator[tuple[list[str], Features]]:
    import pyarrow.parquet as pq

    with pq.ParquetFile(path) as file:
        for batch in file.iter_batches():
            column = batch.column("feature")
            flat = column.flatten().to_numpy(zero_copy_only=False)
            yield batch.column("id").to_pylist(), flat.reshape(len(batch), -1)


def _write_safetensors(path: Path, ids: list[str], features: Features) -> None:
    from safetensors.numpy import save_file

    names = [name.encode() for name in ids]
    offsets = np.concatenate(([0], np.cumsum([len(name) for name in names], dtype=np.int64)))
    packed = np.frombuffer(b"".join(names), np.uint8)
    save_file({"features": np.ascontiguousarray(features), "ids": packed, "offsets": offsets}, path)


def _read_safetensors(path: Path) -> Iterator[tuple[list[str], Features]]:
    from safetensors.numpy import load_file

    found = load_file(path)
    packed, offsets = found["ids"].tobytes(), found["offsets"].tolist()
    yield [packed[first:last].decode() for first, last in pairwise(offsets)], found["features"]
