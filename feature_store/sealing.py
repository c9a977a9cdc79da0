"""Generations: snapshots of a store that never change, each with a manifest of all in it and one checksum over that.

    GENERATION/
      data.mdb        the store at one commit, without free pages
      manifest.json   format, uuid, number, parent, tables with facts, digest of every part and of the file, root

The folder is read-only. Its presence beside ``data.mdb`` makes the manifest the sign that a folder is sealed, so LMDB
opens it without a lock: on read-only media, on network file systems, by any number of machines. ``root`` stands for all
of it: whoever has noted those 32 digits can tell whether a copy is the same.
"""

from __future__ import annotations

import json
import os
import shutil
import uuid
from dataclasses import asdict
from hashlib import blake2b
from pathlib import Path
from typing import Any

import lmdb

from feature_store.compaction import unsound
from feature_store.environment import Environment
from feature_store.errors import StoreError
from feature_store.facts import Damage
from feature_store.files import make_read_only, sync_file, write_whole
from feature_store.layout import FORMAT
from feature_store.opening import MANIFEST
from feature_store.verification import Contents, verify_file

_LAST = b"sealed"
_BUFFER = 1 << 20


def seal(environment: Environment, folder: Path) -> dict[str, Any]:
    """Write the store as it is now to ``folder`` and return its manifest. The store goes on being written.

    Raises:
        StoreError: the folder exists, the store is damaged, or there is no room. No folder is left behind.
    """
    if folder.exists():
        raise StoreError("a generation never replaces anything", where=str(folder), next="Name a new folder")
    folder.parent.mkdir(parents=True, exist_ok=True)
    draft = folder.with_name(f".{folder.name}.{uuid.uuid4().hex[:8]}.tmp")
    try:
        draft.mkdir()
        with environment.read() as txn:
            damages = verify_file(environment.data_file, txn.id()).damages
            if damages:
                raise unsound(environment.path, damages, "sealed")
            parent = json.loads(bytes(txn.get(_LAST, db=environment.database("meta")) or b"null"))
            environment.copy(draft, txn)
        sync_file(draft / "data.mdb")
        manifest = _manifest(verify_file(draft / "data.mdb"), draft / "data.mdb", parent)
        write_whole(draft / MANIFEST, (json.dumps(manifest, indent=1, sort_keys=True) + "\n").encode())
        os.rename(draft, folder)
        make_read_only(folder)
        sync_file(folder.parent)
    except (lmdb.Error, OSError) as problem:
        raise environment.write_error(problem) from problem
    finally:
        shutil.rmtree(draft, ignore_errors=True)
    note = json.dumps({"number": manifest["number"], "root": manifest["root"]}).encode()
    environment.write(lambda txn: txn.put(_LAST, note, db=environment.database("meta")))
    return manifest


def _manifest(contents: Contents, file: Path, parent: dict[str, Any] | None) -> dict[str, Any]:
    tables = [
        {
            **asdict(state),
            "table": table,
            "tower": tower,
            "facts": contents.facts.get(table, {}),
        }
        for (table, tower), state in sorted(contents.tables.items())
    ]
    facts = {
        "format": FORMAT,
        "uuid": contents.uuid.hex(),
        "number": parent["number"] + 1 if parent else 1,
        "parent": parent["root"] if parent else None,
        "block_rows": contents.block_rows,
        "ids": contents.counts,
        "tables": tables,
        "parts": contents.digests,
        "file": {"bytes": file.stat().st_size, "blake2b": _file_digest(file)},
    }
    return facts | {"root": root_of(facts)}


def root_of(manifest: dict[str, Any]) -> str:
    """32 hex digits over everything else in a manifest."""
    facts = {key: value for key, value in manifest.items() if key != "root"}
    return blake2b(json.dumps(facts, sort_keys=True).encode(), digest_size=16).hexdigest()


def _file_digest(file: Path) -> str:
    state = blake2b(digest_size=16)
    with open(file, "rb") as source:
        while part := source.read(_BUFFER):
            state.update(part)
    return state.hexdigest()


def read_manifest(folder: Path) -> dict[str, Any]:
    """The manifest of a sealed generation.

    Raises:
        StoreError: it cannot be read, or is of another format.
    """
    path = folder / MANIFEST
    try:
        found: dict[str, Any] = json.loads(path.read_bytes())
        if found["format"] != FORMAT:
            what = f"the generation has format {found['format']}, this program reads {FORMAT}"
            raise StoreError(what, where=str(path), next="Use the version of this program that sealed it")
        found["root"], found["parts"], found["file"]["blake2b"]
    except (OSError, ValueError, TypeError, KeyError) as problem:
        what = "the manifest of a sealed generation cannot be read"
        raise StoreError(what, where=str(path), next="Restore it from another copy of the generation") from problem
    return found


def verify_sealed(folder: Path, root: str = "") -> list[Damage]:
    """Compare a sealed generation with its manifest, part by part and byte by byte, and the manifest with ``root``.

    One reading tells whether all is as it was sealed; only if it is not, the parts are searched.
    """
    manifest, file = read_manifest(folder), folder / "data.mdb"
    damages = []
    if root_of(manifest) != manifest["root"]:
        damages.append(Damage("", "", "manifest", "does not match its root checksum"))
    elif root and manifest["root"] != root:
        damages.append(Damage("", "", "manifest", f"is of a generation with root {manifest['root']}, not {root}"))
    if not file.is_file():
        return [*damages, Damage("", "", "file", "data.mdb is missing")]
    if file.stat().st_size == manifest["file"]["bytes"] and _file_digest(file) == manifest["file"]["blake2b"]:
        return damages
    contents = verify_file(file)
    damages += contents.damages
    damages += _compared(manifest, contents, {damage.part for damage in contents.damages})
    return damages or [Damage("", "", "file", "differs from what was sealed, outside of any feature")]


def _compared(manifest: dict[str, Any], contents: Contents, known: set[str]) -> list[Damage]:
    """Parts that are not those of the manifest, though each may be sound in itself."""
    names = {entry["id"]: (entry["table"], entry["tower"]) for entry in manifest["tables"]}
    names |= {state.id: key for key, state in contents.tables.items()}
    found, due = contents.digests, manifest["parts"]
    damages = []
    for part in sorted(found.keys() | due.keys()):
        if found.get(part) == due.get(part):
            continue
        kind, _, place = part.partition(" ")
        owner, _, number = place.partition("/")
        table, tower = names.get(int(owner), ("", "")) if owner else ("", "")
        name = f"{kind} {number}".strip()
        if name not in known:
            reason = "is missing" if part not in found else "was added" if part not in due else "was replaced"
            damages.append(Damage(table, tower, name, f"{reason} since the generation was sealed"))
    return damages
