"""Webdataset shards: tar files whose members belong together by name (``000017.jpg``, ``000017.txt``, ``000017.json``).

Nothing is unpacked. An image in a shard is known by a path through it, ``shard-0001.tar/000017.jpg``, which ``decode``
reads like a file: the shard's table of contents is read once per process, the image straight from its place.

Does not: read compressed shards (their members have no place to read from), or write any.
"""

from __future__ import annotations

import json
import os
import tarfile
from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from pathlib import Path, PurePosixPath

from mmkd_core.data.tables import Row, Table, as_row
from mmkd_core.errors import DataError

IMAGES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff")
_CAPTIONS = (".txt", ".caption")
_COMPRESSED = (".tar.gz", ".tgz", ".tar.bz2", ".tar.xz", ".tar.zst")

Place = tuple[int, int]
"""Offset and size in bytes."""


def is_shard(path: Path) -> bool:
    """Whether the name is that of a shard, compressed ones included."""
    return path.name.lower().endswith((".tar", *_COMPRESSED))


def read_member(path: Path) -> bytes | None:
    """Return the bytes of ``SHARD.tar/MEMBER``; None if no part of the path is a shard.

    Raises:
        DataError: the shard has no such member, or is damaged.
    """
    for shard in path.parents:
        if shard.suffix == ".tar" and shard.is_file():
            places = _contents(str(shard), shard.stat().st_mtime_ns)
            place = places.get(path.relative_to(shard).as_posix())
            if place is None:
                raise DataError("no such image in the shard", where=str(path))
            with shard.open("rb") as file:
                data = os.pread(file.fileno(), place[1], place[0])
            if len(data) != place[1]:
                raise DataError("the shard is cut off", where=str(path), next="Copy it again.")
            return data
    return None


def read_shards(files: Sequence[Path]) -> Table:
    """Make a table of shards: one row for each sample.

    A sample is an image with a ``.txt`` (the caption) or a ``.json`` (an object with ``domain``, ``label``,
    ``caption``, ``group_id``, ``split``), or both. ``domain`` is needed.

    Raises:
        DataError: a shard is compressed or damaged, or a sample lacks image, domain or text.
    """
    rows = [row for file in files for row in _rows(file)]
    source = files[0] if len(files) == 1 else files[0].parent
    if not rows:
        raise DataError("the shards hold no samples", where=str(source))
    remarks = []
    if not any(row.group_id for row in rows):
        remarks.append("no sample has a group_id: every image is its own group, so intervals may be too narrow")
    return Table(source, rows, remarks)


@lru_cache(maxsize=256)
def _contents(shard: str, modified: int) -> Mapping[str, Place]:
    """Where each member lies; a shard that was changed is read again."""
    path = Path(shard)
    if path.name.lower().endswith(_COMPRESSED):
        raise DataError("the shard is compressed", where=shard, next="Decompress it: images are compressed already.")
    try:
        with tarfile.open(path, "r:") as archive:
            return {
                member.name.removeprefix("./"): (member.offset_data, member.size)
                for member in archive
                if member.isreg()
            }
    except tarfile.TarError as error:
        raise DataError(f"the shard cannot be read: {error}", where=shard, next="Copy or make it again.") from error
    except OSError as error:
        raise DataError(f"the shard cannot be read: {error.strerror}", where=shard) from error


def samples_of(file: Path) -> dict[str, dict[str, str]]:
    """Members of a shard by sample and suffix (``{"000017": {".jpg": "000017.jpg", ...}}``).

    Raises:
        DataError: the shard is compressed or damaged.
    """
    return _samples(_contents(str(file), file.stat().st_mtime_ns))


def _rows(file: Path) -> Iterator[Row]:
    for key, parts in samples_of(file).items():
        where = f"sample {key}"
        place = f"{file.name}, {where}"
        images = [suffix for suffix in parts if suffix in IMAGES]
        if len(images) != 1:
            what = f"the sample has {len(images) or 'no'} image{'s' if images else ''}"
            raise DataError(what, where=place, next=f"One of {', '.join(IMAGES)} is needed.")
        yield as_row(where, {**_facts(file, parts, place), "image": file / parts[images[0]]}, place)


def _samples(places: Mapping[str, Place]) -> dict[str, dict[str, str]]:
    """Members by sample and suffix, as webdataset names them: all up to the first dot of the file's name is the key."""
    found: dict[str, dict[str, str]] = {}
    for name in places:
        path = PurePosixPath(name)
        stem, dot, suffix = path.name.partition(".")
        if stem and dot:
            found.setdefault(str(path.parent / stem), {})["." + suffix.lower()] = name
    return found


def _facts(file: Path, parts: Mapping[str, str], place: str) -> dict[str, object]:
    facts: dict[str, object] = {}
    try:
        if ".json" in parts:
            facts = json.loads(read_member(file / parts[".json"]) or b"")
            if not isinstance(facts, dict):
                raise DataError("the .json is no object", where=place, next='Write {"domain": ...}.')
        for suffix in _CAPTIONS:
            if suffix in parts:
                facts["caption"] = (read_member(file / parts[suffix]) or b"").decode()
    except UnicodeDecodeError as error:
        raise DataError("the caption is not UTF-8 text", where=place) from error
    except ValueError as error:
        raise DataError(f"the .json cannot be read: {error}", where=place) from error
    if not facts.get("domain"):
        near = next((name for name in ("modality", "imaging_modality") if facts.get(name)), None)
        hint = f"Rename '{near}' to 'domain'." if near else 'Write it into the .json: {"domain": "xray"}.'
        raise DataError("the sample has no domain", where=place, next=hint)
    return facts
