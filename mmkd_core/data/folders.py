"""A folder as people have it: images, and beside each a text file of the same name with its caption.

    images/xray/0001.png    images/xray/0001.txt

The kind of image is given for all of them, or it is the name of a folder on the way to the image. Does not: guess
patients. Who knows them writes a manifest.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from mmkd_core.data.captions import DOMAINS
from mmkd_core.data.tables import UNGROUPED, Row, Table, as_row
from mmkd_core.errors import DataError

IMAGES = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp", ".webp")
CAPTION = ".txt"


def images_below(folder: Path) -> list[Path]:
    """All images in a folder and below it, by name; hidden files and folders are left out."""
    found = (path for path in folder.rglob("*") if path.suffix.lower() in IMAGES and path.is_file())
    return sorted(path for path in found if not any(part.startswith(".") for part in path.relative_to(folder).parts))


def read_folder(folder: Path, domain: str | None = None) -> Table:
    """The images of a folder with their captions.

    Args:
        folder: where the images lie, or their folders.
        domain: kind of all images; where it is left out, a folder on the way must be called so.

    Raises:
        DataError: an image has no caption, or it is not known what kind of image it is.
    """
    images = images_below(folder)
    bare = [image for image in images if not image.with_suffix(CAPTION).is_file()]
    if bare:
        what = f"{len(bare):,} of {len(images):,} images have no caption, the first is {bare[0].relative_to(folder)}"
        advice = f"Write {bare[0].with_suffix(CAPTION).name} beside it, or a csv with the columns image and caption."
        raise DataError(what, where=str(folder), next=advice)
    return Table(folder, [_row(image, folder, domain) for image in images], [UNGROUPED])


def _row(image: Path, folder: Path, domain: str | None) -> Row:
    text, name = image.with_suffix(CAPTION), str(image.relative_to(folder))
    try:
        caption = " ".join(text.read_text(encoding="utf-8-sig").split())
    except UnicodeDecodeError as error:
        raise DataError("the file is not UTF-8 text", where=str(text), next="Save it as UTF-8.") from error
    cells = {"image": image, "domain": domain or _domain_of(image.relative_to(folder).parts[:-1], folder)}
    return as_row(name, {**cells, "caption": caption}, str(text), ("caption",))


def _domain_of(folders: Sequence[str], whole: Path) -> str:
    """The innermost folder that is called like a domain."""
    known = [name.lower() for name in (whole.resolve().name, *folders) if name.lower() in DOMAINS]
    if known:
        return known[-1]
    advice = f"`mmkd data import PATH --domain xray` says it for all; or call their folders so: {', '.join(DOMAINS)}."
    raise DataError("it is not known what kind of images these are", where=str(whole.joinpath(*folders)), next=advice)
