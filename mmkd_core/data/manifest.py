"""The corpus: a table of samples (``manifest.parquet``) and the sentences of each class (``prompts.yaml``).

Identity comes from content: ``image_id`` is a hash of decoded pixels, ``text_id`` of a text, ``sample_id`` of both, so
a renamed file or a re-encoded PNG is the same image, and a feature computed once is found again.

Does not: copy images, decode them on load, or import torch or (before it is needed) pyarrow.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from functools import cached_property
from hashlib import blake2b
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from xxhash import xxh3_128

from mmkd_core import advice
from mmkd_core.data.prompts_file import Prompts, prompts_yaml, read_prompts
from mmkd_core.errors import DataError
from mmkd_core.files import replacing

if TYPE_CHECKING:
    from PIL.Image import Image
    from pyarrow import Table

VERSION = 2
"""Version of ``manifest.parquet``, kept in its metadata under ``mmkd.corpus``."""

SPLITS = ("train", "val", "test")
MANIFEST, PROMPTS = "manifest.parquet", "prompts.yaml"

Column = NDArray[np.object_]
_VERSION_KEY = b"mmkd.corpus"
_NULLABLE = ("label", "labels")
_LISTS = ("more_captions", "labels")


def image_id(image: Image) -> str:
    """Return 32 hex digits: XXH3 of mode, size and bytes of the decoded pixels, without channels that say nothing.

    A picture with full opacity everywhere is the one without an alpha channel, and one with three equal channels is a
    grey one: common tools write any of them, and every model is shown the same.
    """
    mode, pixels = image.mode, np.asarray(image)
    if mode == "RGBA" and (pixels[..., 3] == 255).all():
        mode, pixels = "RGB", pixels[..., :3]
    if mode == "RGB" and (pixels[0] == pixels[0, :, :1]).all() and (pixels == pixels[..., :1]).all():  # a row: cheap
        mode, pixels = "L", pixels[..., 0]
    digest = xxh3_128(f"{mode} {image.width}x{image.height}\n".encode())
    digest.update(np.ascontiguousarray(pixels).data)
    return digest.hexdigest()


def decode_as(path: Path, name: str) -> Image:
    """Decode the image that was imported under the id ``name``.

    Raises:
        DataError: the file is missing or unreadable, or holds other pixels than at its import.
    """
    from mmkd_core.data.decode import decode

    image = decode(path)
    if image_id(image) != name:
        next = "Put the old file back, or import the data again; `mmkd data check` names all that changed"
        raise DataError("the image changed since it was imported", where=str(path), next=next)
    return image


def text_id(text: str) -> str:
    """Return 32 hex digits: BLAKE2b of the text in UTF-8."""
    return blake2b(text.encode(), digest_size=16).hexdigest()


def sample_id(image_id: str, caption: str, *more: str) -> str:
    """Return 32 hex digits that name an image together with its captions, in their order.

    It hashes the image's id and not its pixels, so that a new caption costs no decoding.
    """
    digest = blake2b(f"{image_id}\n{caption}".encode(), digest_size=16)
    for text in more:
        digest.update(b"\xff" + text.encode())  # a byte that no UTF-8 holds: ("a", "b") is not ("ab",)
    return digest.hexdigest()


@dataclass(frozen=True, eq=False)
class Corpus:
    """N samples as columns: numpy object arrays of N strings, or of N tuples of strings.

    An image of a domain has one of several classes (``label``), or any number of findings (``labels``): a domain uses
    one of the two columns.

    Raises:
        DataError: columns of different lengths, or a split that is not train, val or test.
    """

    root: Path
    sample_id: Column
    image_id: Column
    text_id: Column
    image: Column
    """Path relative to ``root``, or absolute."""
    caption: Column
    """The first caption of a sample, of which ``text_id`` is the id."""
    more_captions: Column
    """Tuples of further captions, mostly empty."""
    domain: Column
    label: Column
    """Class within the domain, or None."""
    labels: Column
    """Tuples of findings in class order, empty where none of the domain's is there, or None: unlabelled."""
    group_id: Column
    """Patient, slide or article: what splits and resampling must not tear apart."""
    split: Column
    prompts: Prompts = field(default_factory=dict)

    def __post_init__(self) -> None:
        lengths = {name: len(getattr(self, name)) for name in COLUMNS}
        if len(set(lengths.values())) > 1:
            raise DataError(f"columns of a corpus differ in length: {lengths}")
        if odd := sorted({str(split) for split in self.split} - set(SPLITS)):
            raise DataError(f"unknown split {', '.join(map(repr, odd))}", next=f"Use {', '.join(SPLITS)}.")

    @classmethod
    def build(cls, root: Path, rows: Sequence[Mapping[str, Any]], prompts: Prompts) -> Corpus:
        """Make a corpus from rows with the keys image, image_id, caption, domain, group_id, split.

        ``label``, ``labels`` and ``more_captions`` are optional; ``text_id`` and ``sample_id`` are computed.
        """
        columns: dict[str, list[Any]] = {name: [row.get(name) for row in rows] for name in COLUMNS}
        columns["more_captions"] = more = [tuple(row.get("more_captions", ())) for row in rows]
        columns["text_id"] = [text_id(str(row["caption"])) for row in rows]
        columns["sample_id"] = [
            sample_id(str(row["image_id"]), str(row["caption"]), *texts) for row, texts in zip(rows, more, strict=True)
        ]
        return cls(Path(root), prompts=prompts, **{name: _column(values) for name, values in columns.items()})

    def __len__(self) -> int:
        return len(self.sample_id)

    @property
    def domains(self) -> list[str]:
        """The domains that occur, in alphabetical order."""
        return sorted(set(self.domain))

    def classes(self, domain: str) -> list[str]:
        """Return the labels of a domain in class order; empty where the domain has no prompts."""
        return list(self.prompts.get(domain, {}))

    def captions(self, i: int) -> tuple[str, ...]:
        """Return all captions of sample ``i``, the first one first."""
        return (str(self.caption[i]), *self.more_captions[i])

    @cached_property
    def owners(self) -> NDArray[np.int64]:
        """(M,) the sample of each caption: first those of ``caption``, then the further ones, sample after sample."""
        counts = np.fromiter(map(len, self.more_captions), dtype=np.int64, count=len(self))
        samples = np.arange(len(self))
        return np.concatenate([samples, np.repeat(samples, counts)])

    @cached_property
    def texts(self) -> list[str]:
        """All M captions, in the order of ``owners``."""
        return [*map(str, self.caption), *(text for more in self.more_captions for text in more)]

    @cached_property
    def text_ids(self) -> Column:
        """(M,) their ids."""
        return np.concatenate([self.text_id, _column([text_id(text) for text in self.texts[len(self) :]])])

    @cached_property
    def _multilabel(self) -> frozenset[str]:
        return frozenset(str(d) for d, labels in zip(self.domain, self.labels, strict=True) if labels is not None)

    def multilabel(self, domain: str) -> bool:
        """Return True where the images of a domain have findings (``labels``), False where they have one class each."""
        return domain in self._multilabel

    def findings(self, rows: NDArray[np.int64], domain: str) -> NDArray[np.bool_]:
        """Return (n, C) for samples ``rows`` of a multi-label domain: True where a finding, in class order, is there.

        Rows of unlabelled samples are False; ``labelled`` tells them apart.
        """
        place = {label: c for c, label in enumerate(self.classes(domain))}
        there = np.zeros((len(rows), len(place)), dtype=bool)
        for i, labels in enumerate(self.labels[rows]):
            there[i, [place[label] for label in labels or ()]] = True
        return there

    def named(self, i: int) -> tuple[str, ...] | None:
        """Return the class of sample ``i`` as the only one, or its findings; None where it is unlabelled."""
        if self.labels[i] is not None:
            return tuple(self.labels[i])
        return None if self.label[i] is None else (str(self.label[i]),)

    @cached_property
    def labelled(self) -> NDArray[np.bool_]:
        """(N,) True where the class or the findings of a sample are known."""
        either = (a is not None or b is not None for a, b in zip(self.label, self.labels, strict=True))
        return np.fromiter(either, dtype=bool, count=len(self))

    def where(self, split: str | None = None, domains: Collection[str] | None = None) -> NDArray[np.int64]:
        """Return the rows (ascending) of one split, of some domains, or of both."""
        keep = np.ones(len(self), dtype=bool)
        if split is not None:
            keep &= self.split == split
        if domains is not None:
            keep &= np.fromiter((domain in domains for domain in self.domain), dtype=bool, count=len(self))
        return np.flatnonzero(keep).astype(np.int64)

    def take(self, index: NDArray[Any] | Sequence[int]) -> Corpus:
        """Return the samples at ``index`` (integers in any order, or a mask of N); prompts stay whole."""
        chosen = np.asarray(index)
        chosen = chosen.astype(np.int64) if chosen.size == 0 else chosen
        return replace(self, **{name: getattr(self, name)[chosen] for name in COLUMNS})

    def path(self, i: int) -> Path:
        """Return where the image of sample ``i`` lies."""
        return Path(self.root, self.image[i])

    def open(self, i: int) -> Image:
        """Decode the image of sample ``i`` and compare it with its id.

        Raises:
            DataError: the file is missing, unreadable, or changed since its import.
        """
        return decode_as(self.path(i), self.image_id[i])

    @cached_property
    def fingerprint(self) -> str:
        """32 hex digits over all samples in order and the prompts; where the images lie does not matter."""
        digest = blake2b(digest_size=16)
        for name in ("sample_id", "more_captions", "domain", "label", "labels", "group_id", "split"):
            for value in getattr(self, name):
                if isinstance(value, tuple):
                    digest.update(b"%d;" % len(value))
                # A length before each value keeps ("ab", "c") and ("a", "bc") apart; None is not "".
                for text in value if isinstance(value, tuple) else (value,):
                    raw = b"" if text is None else str(text).encode()
                    digest.update(b"%d:" % (-1 if text is None else len(raw)) + raw)
        digest.update(repr([(d, list(c.items())) for d, c in sorted(self.prompts.items())]).encode())
        return digest.hexdigest()

    def save(self, root: Path) -> Corpus:
        """Write ``prompts.yaml`` and then ``manifest.parquet`` to ``root``; return the corpus that lies there.

        Images stay where they are: those outside the new root are recorded by absolute path.
        """
        import pyarrow as pa
        import pyarrow.parquet as pq

        root = Path(root)
        moved = replace(self, root=root, image=_column([_relative(self.path(i), root) for i in range(len(self))]))
        types = {name: pa.list_(pa.string()) if name in _LISTS else pa.string() for name in COLUMNS}
        schema = pa.schema([pa.field(name, kind, nullable=name in _NULLABLE) for name, kind in types.items()])
        schema = schema.with_metadata({_VERSION_KEY: str(VERSION)})
        table = pa.table({name: pa.array(getattr(moved, name), kind) for name, kind in types.items()}, schema=schema)
        with replacing(root / PROMPTS) as file:
            file.write(prompts_yaml(self.prompts))
        with replacing(root / MANIFEST) as file:  # last: its presence says that the corpus is whole
            pq.write_table(table, file, compression="zstd")
        return moved

    @classmethod
    def load(cls, path: Path) -> Corpus:
        """Read the corpus in folder ``path``.

        Raises:
            DataError: no such folder, not a corpus, damaged, or written by a newer version.
        """
        path = Path(path)
        if not path.is_dir():
            raise DataError("no such folder", where=str(path), next=_HOW)
        if not (path / MANIFEST).is_file():
            raise DataError(f"the folder is not a corpus: it has no {MANIFEST}", where=str(path), next=_HOW)
        columns = _read_columns(path / MANIFEST)
        return cls(path, prompts=read_prompts(path / PROMPTS, _HOW), **columns)


COLUMNS = tuple(f.name for f in fields(Corpus) if f.name not in ("root", "prompts"))
_HOW = "Make a corpus with `mmkd data import PATH` or `mmkd data phantom`."


def _column(values: Sequence[Any]) -> Column:
    column = np.empty(len(values), dtype=object)
    for i, value in enumerate(values):  # one by one: numpy takes a list of tuples of one length for a matrix
        column[i] = value
    return column


def _relative(path: Path, root: Path) -> str:
    """Return ``path`` relative to ``root`` if it lies below it, else absolute."""
    path, root = path.absolute(), root.absolute()
    return path.relative_to(root).as_posix() if path.is_relative_to(root) else str(path)


def _read_columns(path: Path) -> dict[str, Column]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(path) as file:
            _check_version((file.schema_arrow.metadata or {}).get(_VERSION_KEY), path)
            if missing := [name for name in COLUMNS if name not in file.schema_arrow.names]:
                raise DataError(f"the manifest lacks {', '.join(missing)}", where=str(path), next=_HOW)
            table = file.read(columns=list(COLUMNS))
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"the manifest cannot be read: {error}", where=str(path), next=_HOW) from error
    return {name: _column(_values(table, name)) for name in COLUMNS}


def _values(table: Table, name: str) -> list[Any]:
    values: list[Any] = table.column(name).to_pylist()
    return [None if value is None else tuple(value) for value in values] if name in _LISTS else values


def _check_version(found: bytes | None, path: Path) -> None:
    if found is None:
        raise DataError("the table was not written by mmkd", where=str(path), next=f"Import it. {_HOW}")
    if found != b"%d" % VERSION:
        what = f"the corpus is of version {found.decode(errors='replace')}, this mmkd reads {VERSION}"
        old = found.isdigit() and int(found) < VERSION
        raise DataError(what, where=str(path), next=_HOW if old else advice.NEWER)
