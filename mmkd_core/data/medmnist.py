"""MedMNIST files (Yang et al., Scientific Data 2023) become PNGs and a corpus.

Does not: import multi-label sets (ChestMNIST; ``medmnist_eval`` makes evaluation sets of them) or volumes, or download.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from mmkd_core.data.assemble import ImportReport, assemble
from mmkd_core.data.manifest import SPLITS, Corpus
from mmkd_core.data.medmnist_file import MedmnistFile, flag_of, opened
from mmkd_core.data.medmnist_sets import FLAGS, SEVERAL
from mmkd_core.data.pngs import keep_png
from mmkd_core.data.tables import Row, Table
from mmkd_core.errors import DataError
from mmkd_core.progress import Progress, Silent

_SCOPE = "To evaluate on it run `mmkd data import-set FILE`; training needs one label for each image."


def import_medmnist(
    source: Path | Sequence[Path],
    out_root: Path,
    *,
    seed: int = 0,
    progress: Progress | None = None,
) -> tuple[Corpus, ImportReport]:
    """Import MedMNIST ``.npz`` files, or all of a folder; PNGs are written below ``out_root/images``.

    MedMNIST names no patients, so every image is its own group. Where it holds the same image twice
    it is kept once (test before val before train); the report says how many were left out.

    Raises:
        DataError: no such files, damaged, multi-label, volumes, or one set in two sizes.
    """
    files = _files(Path(source)) if isinstance(source, (str, Path)) else [Path(file) for file in source]
    images: list[_Unpacked] = []
    order: dict[str, list[str]] = {}
    for flag, file in _by_flag(files).items():
        new, domain, names = _unpack(file, flag, Path(out_root), progress or Silent())
        images += new
        order[domain] = [*order.get(domain, []), *(name for name in names if name not in order.get(domain, []))]
    kept = _once(images)
    remarks = ["MedMNIST names no patients: every image is its own group, so intervals may be too narrow"]
    if dropped := len(images) - len(kept):
        remarks.append(
            f"{dropped} of {len(images)} images repeat another: each was kept once, test before val before train"
        )
    table = Table(files[0] if len(files) == 1 else files[0].parent, [image.row for image in kept], remarks)
    ids = {image.row.image: image.image_id for image in kept}
    return assemble(table, Path(out_root), seed=seed, order=order, ids=ids, progress=progress)


@dataclass(frozen=True)
class _Unpacked:
    """One image that was written, and its row."""

    image_id: str
    row: Row


def _files(path: Path) -> list[Path]:
    files = [path] if path.is_file() else sorted(path.glob("*.npz"))
    if not files:
        raise DataError("no .npz files", where=str(path), next="Give a MedMNIST file or a folder of them.")
    return files


def _by_flag(files: Sequence[Path]) -> dict[str, Path]:
    flags: dict[str, Path] = {}
    for file in files:
        flag = flag_of(file)
        if flag in flags:
            what = f"{flag} is there twice: {flags[flag].name} and {file.name}"
            raise DataError(what, where=str(file.parent), next="Name one of the files, or keep one size in the folder.")
        flags[flag] = file
    return flags


def _once(images: Sequence[_Unpacked]) -> list[_Unpacked]:
    """Return every image once, in the order given."""
    best: dict[str, int] = {}
    for split in reversed(SPLITS):  # test first
        for i, image in enumerate(images):
            if image.row.split == split:
                best.setdefault(image.image_id, i)
    return [images[i] for i in sorted(best.values())]


def _unpack(path: Path, flag: str, root: Path, progress: Progress) -> tuple[list[_Unpacked], str, list[str]]:
    """Write the images of one file as PNGs named by their hash; return them, the domain and the class names."""
    unpacked: list[_Unpacked] = []
    with opened(path) as file:
        if (each := file.labels["train"].shape[1]) > 1:
            raise DataError(f"the images have {each} labels each", where=path.name, next=_SCOPE)
        domain, names = classes_of(file)
        for split, values in file.labels.items():
            with progress.task(f"unpack {flag} {split}", len(values), "images") as advance:
                for i, pixels in enumerate(file.images(split)):
                    name, png = keep_png(Image.fromarray(pixels), root / "images" / flag)
                    label = names[int(values[i, 0])]
                    row = Row(f"{split}_images[{i}]", png, domain, label, None, f"{flag}-{name}", split)
                    unpacked.append(_Unpacked(name, row))
                    advance(1)
    return unpacked, domain, names


def classes_of(file: MedmnistFile) -> tuple[str, list[str]]:
    """Domain and class names of a file: the published ones, or the flag and ``class 0``, ``class 1``.

    Raises:
        DataError: a label beyond the published classes.
    """
    flag, every = flag_of(file.path), [values for values in file.labels.values() if values.size]
    several = file.labels["train"].shape[1] > 1
    most = file.labels["train"].shape[1] if several else 1 + max((int(values.max()) for values in every), default=-1)
    domain, known = (SEVERAL if several else FLAGS).get(flag, (flag.replace("_", "-"), ()))
    names = list(known) or [f"class {k}" for k in range(most)]
    if most > len(names):
        what = f"label {most - 1} is beyond the {len(names)} classes of {flag}"
        raise DataError(what, where=file.path.name)
    return domain, names
