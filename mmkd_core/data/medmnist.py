"""MedMNIST files (Yang et al., Scientific Data 2023) become PNGs and a corpus.

Does not: import volumes, or download.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from mmkd_core.data.domains import domain_name
from mmkd_core.data.issues import ImportLog
from mmkd_core.data.manifest import SPLITS
from mmkd_core.data.medmnist_file import MedmnistFile, flag_of, opened
from mmkd_core.data.medmnist_sets import FLAGS, SEVERAL
from mmkd_core.data.pngs import keep_png
from mmkd_core.data.tables import Row, Table
from mmkd_core.errors import DataError
from mmkd_core.progress import Progress, Silent


def read_medmnist(
    files: Sequence[Path], out_root: Path, log: ImportLog, domain: str | None = None, progress: Progress = Silent()
) -> Table:
    """Unpack MedMNIST ``.npz`` files; PNGs are written below ``out_root/images``.

    MedMNIST names no patients, so every image is its own group. Where it holds the same image twice
    it is kept once (test before val before train); the log counts how many were left out.

    Args:
        files: of different sets.
        out_root: folder of the corpus.
        log: is told what was left out.
        domain: of sets that are none of the published ones.
        progress: who watches.

    Raises:
        DataError: no such files, damaged, volumes, one set in two sizes, or a set that is of another domain.
    """
    images: list[_Unpacked] = []
    order: dict[str, list[str]] = {}
    for flag, file in _by_flag(files).items():
        new, kind, names = _unpack(file, flag, out_root, domain, progress)
        images += new
        order[kind] = [*order.get(kind, []), *(name for name in names if name not in order.get(kind, []))]
    log.rows += len(images)
    kept = _once(images, log)
    log.note("MedMNIST names no patients: every image is its own group, so intervals may be too narrow")
    source = files[0] if len(files) == 1 else files[0].parent
    ids = {image.row.image: image.image_id for image in kept}
    return Table(source, [image.row for image in kept], order, ids)


@dataclass(frozen=True)
class _Unpacked:
    """One image that was written, and its row."""

    image_id: str
    row: Row


def _by_flag(files: Sequence[Path]) -> dict[str, Path]:
    flags: dict[str, Path] = {}
    for file in files:
        flag = flag_of(file)
        if flag in flags:
            what = f"{flag} is there twice: {flags[flag].name} and {file.name}"
            raise DataError(what, where=str(file.parent), next="Name one of the files, or keep one size in the folder.")
        flags[flag] = file
    return flags


def _once(images: Sequence[_Unpacked], log: ImportLog) -> list[_Unpacked]:
    """Return every image once, in the order given."""
    best: dict[str, int] = {}
    for split in reversed(SPLITS):  # test first
        for i, image in enumerate(images):
            if image.row.split == split:
                best.setdefault(image.image_id, i)
    for i, image in enumerate(images):
        kept = images[best[image.image_id]].row
        if best[image.image_id] != i:
            log.left_out.add("copies (test was kept before val before train)", f"{image.row.where}, of {kept.where}")
            if (image.row.label, image.row.labels) != (kept.label, kept.labels):
                pair = f"{image.row.where} {_named(image.row)}, {kept.where} {_named(kept)}"
                log.issues.add("images with different labels in two rows", pair)
    return [images[i] for i in sorted(best.values())]


def _named(row: Row) -> str:
    return repr(row.label if row.labels is None else "|".join(row.labels))


def _unpack(
    path: Path, flag: str, root: Path, domain: str | None, progress: Progress
) -> tuple[list[_Unpacked], str, list[str]]:
    """Write the images of one file as PNGs named by their hash; return them, the domain and the class names."""
    unpacked: list[_Unpacked] = []
    with opened(path) as file:
        kind, names = classes_of(file, domain)
        several = file.labels["train"].shape[1] > 1
        for split, values in file.labels.items():
            with progress.task(f"unpack {flag} {split}", len(values), "images") as advance:
                for i, pixels in enumerate(file.images(split)):
                    name, png = keep_png(Image.fromarray(pixels), root / "images" / flag)
                    findings = tuple(n for n, yes in zip(names, values[i], strict=True) if yes) if several else None
                    label = None if several else names[int(values[i, 0])]
                    where, group = f"{split}_images[{i}]", f"{flag}-{name}"
                    row = Row(where, png, kind, label, None, group, split, labels=findings)
                    unpacked.append(_Unpacked(name, row))
                    advance(1)
    return unpacked, kind, names


def classes_of(file: MedmnistFile, told: str | None = None) -> tuple[str, list[str]]:
    """Domain and class names of a file: the published ones, or ``told`` (else the flag) and ``class 0``, ``class 1``.

    Raises:
        DataError: a label beyond the published classes, or another domain than the published one.
    """
    flag, every = flag_of(file.path), [values for values in file.labels.values() if values.size]
    several = file.labels["train"].shape[1] > 1
    most = file.labels["train"].shape[1] if several else 1 + max((int(values.max()) for values in every), default=-1)
    own = domain_name(told) if told else f"{flag.replace('_', '-')}"
    domain, known = (SEVERAL if several else FLAGS).get(flag, (own, ()))
    if told and own != domain:
        raise DataError(
            f"{flag} is of the domain {domain}, not {own}", where=file.path.name, next="Leave --domain out."
        )
    names = list(known) or [f"class {k}" for k in range(most)]
    if most > len(names):
        what = f"label {most - 1} is beyond the {len(names)} classes of {flag}"
        raise DataError(what, where=file.path.name)
    return domain if told else domain_name(domain, file.path.name), names
