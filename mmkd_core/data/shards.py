"""Webdataset shards: tar files whose members belong together by name (``000017.jpg``, ``000017.txt``, ``000017.json``).

Nothing is unpacked. An image in a shard is known by a path through it, ``shard-0001.tar/000017.jpg``, which ``decode``
reads like a file: the shard's table of contents is read once per process, the image straight from its place.

Does not: read compressed shards (their members have no place to read from), or write any.
"""

from __future__ import annotations

import os
import tarfile
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path, PurePosixPath

from mmkd_core.data.cells import json_object, lines_of, text_of
from mmkd_core.data.domains import domain_name
from mmkd_core.data.issues import ImportLog, Problems
from mmkd_core.data.labels import LabelColumns
from mmkd_core.data.tables import Row, Table, as_row, refuse_misspelt
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


def read_shards(
    files: Sequence[Path],
    log: ImportLog,
    domain: str | None = None,
    labels_from: Sequence[str] = (),
    *,
    caption_lines: bool = False,
) -> Table:
    """Make a table of shards: one row for each sample.

    A sample is an image with a ``.txt`` (the caption) or a ``.json`` (an object with the columns of ``tables``), or
    both; other members are counted as not read.

    Args:
        files: tar files.
        log: is told what is not read.
        domain: kind of all images, where their ``.json`` does not say it.
        labels_from: see ``tables.read_table``; keys of the ``.json``.
        caption_lines: every line of a ``.txt`` is a caption of its own.

    Raises:
        DataError: a shard is compressed or damaged, or samples lack image, domain or text.
    """
    rows, problems = list[Row](), Problems()
    for file in files:
        for key, parts in samples_of(file).items():
            log.rows += 1
            with problems.gathered():
                rows.append(_row(file, key, parts, log, domain, labels_from, caption_lines))
    source = files[0] if len(files) == 1 else files[0].parent
    problems.refuse(str(source))
    if not rows:
        raise DataError("the shards hold no samples", where=str(source))
    if not any(row.group_id for row in rows):
        log.note("no sample has a group_id: every image is its own group, so intervals may be too narrow")
    return Table(source, rows, dict.fromkeys({row.domain for row in rows}, labels_from) if labels_from else {})


@lru_cache(maxsize=256)
def _contents(shard: str, modified: int) -> Mapping[str, Place]:
    """Where each member lies; a shard that was changed is read again."""
    path = Path(shard)
    if path.name.lower().endswith(_COMPRESSED):
        raise DataError("the shard is compressed", where=shard, next="Decompress it: images are compressed already.")
    places: dict[str, Place] = {}
    twice: list[str] = []
    try:
        with tarfile.open(path, "r:") as archive:
            for member in archive:
                name = member.name.removeprefix("./")
                if member.isreg():
                    twice += [name] * (name in places)
                    places[name] = member.offset_data, member.size
            _check_end(path, archive.offset)
    except tarfile.TarError as error:
        raise DataError(f"the shard cannot be read: {error}", where=shard, next="Copy or make it again.") from error
    except OSError as error:
        raise DataError(f"the shard cannot be read: {error.strerror}", where=shard) from error
    if twice:
        what = f"{len(twice)} members stand twice in the shard, the first is {twice[0]}: a path can name one of them"
        raise DataError(what, where=shard, next="Make it again, with a key of its own for every sample.")
    return places


def _check_end(shard: Path, offset: int) -> None:
    """Refuse a shard that was cut off between two samples, or goes on behind its end.

    A tar file ends with blocks of zeros (two, by POSIX); its reader takes the end of the file for one as well.
    """
    with shard.open("rb") as file:
        file.seek(offset)
        if file.read(512).strip(b"\0") or file.tell() < offset + 512:
            mend = "Copy it again, or make it again: nothing can tell what is missing."
            raise DataError("the shard is cut off: the mark at its end is missing", where=str(shard), next=mend)
        while block := file.read(1 << 20):
            if block.strip(b"\0"):
                what = "the shard goes on behind the mark at its end, as if two were written one behind the other"
                raise DataError(what, where=str(shard), next="Make one shard of each, or one of both with `tar -A`.")


def samples_of(file: Path) -> dict[str, dict[str, str]]:
    """Members of a shard by sample and suffix (``{"000017": {".jpg": "000017.jpg", ...}}``).

    Raises:
        DataError: the shard is compressed or damaged.
    """
    return _samples(_contents(str(file), file.stat().st_mtime_ns))


def _row(
    file: Path,
    key: str,
    parts: Mapping[str, str],
    log: ImportLog,
    domain: str | None,
    labels_from: Sequence[str],
    caption_lines: bool,
) -> Row:
    where = f"sample {key}"
    place = f"{file.name}, {where}"
    images = [suffix for suffix in parts if suffix in IMAGES]
    if len(images) != 1:
        what = f"the sample has {len(images) or 'no'} image{'s' if images else ''}"
        raise DataError(what, where=place, next=f"One of {', '.join(IMAGES)} is needed.")
    for suffix in parts:
        if suffix not in (*IMAGES, *_CAPTIONS, ".json"):
            log.left_out.add(f"{suffix} members, which are not read", f"{file.name}, {parts[suffix]}")
    values = _values(file, parts, place, caption_lines)
    refuse_misspelt([name for name in values if name.lower() != "image"], place)
    own = values.get("domain")
    if own and domain and domain_name(str(own), place) != domain_name(domain):
        mend = "Leave --domain out: the .json files say it themselves."
        raise DataError(f"the sample's domain is {own!r}, --domain says {domain!r}", where=place, next=mend)
    if not (own or domain):
        near = next((name for name in ("modality", "imaging_modality") if values.get(name)), None)
        hint = f"Rename '{near}' to 'domain'." if near else 'Write it into the .json: {"domain": "xray"}.'
        raise DataError("the sample has no domain", where=place, next=f"{hint} Or say it for all with --domain.")
    whole = {**values, "domain": own or domain, "image": file / parts[images[0]]}
    return as_row(where, whole, place, log, labels=LabelColumns.among(labels_from, list(values), place))


def _samples(places: Mapping[str, Place]) -> dict[str, dict[str, str]]:
    """Members by sample and suffix, as webdataset names them: all up to the first dot of the file's name is the key."""
    found: dict[str, dict[str, str]] = {}
    for name in places:
        path = PurePosixPath(name)
        stem, dot, suffix = path.name.partition(".")
        if stem and dot:
            found.setdefault(str(path.parent / stem), {})["." + suffix.lower()] = name
    return found


def _values(file: Path, parts: Mapping[str, str], place: str, caption_lines: bool) -> dict[str, object]:
    """Cells of a sample: of its ``.json``, and the captions of its texts before those that the ``.json`` repeats."""

    def text(suffix: str, what: str) -> str:
        return text_of(read_member(file / parts[suffix]) or b"", what, place)

    values = json_object(text(".json", "the .json"), "the .json", place) if ".json" in parts else {}
    told = values.get("caption")
    captions: list[object] = []
    for suffix in _CAPTIONS:
        if suffix in parts:
            captions += lines_of(text(suffix, "the caption"), caption_lines)
    if captions:
        repeated = told if isinstance(told, list) else [] if told is None else [told]
        whole = " ".join(map(str, captions)).split()
        captions += [other for other in repeated if not isinstance(other, str) or other.split() != whole]
        values["caption"] = captions
    return values
