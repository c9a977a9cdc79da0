"""A folder as people have it: images, and beside each a text file of the same name with its caption.

    images/xray/0001.png    images/xray/0001.txt

The kind of image is given for all of them, or it is the name of a folder on the way to the image. Does not: guess
patients or labels. Who knows them writes a manifest.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from mmkd_core.data.captions import DOMAINS
from mmkd_core.data.cells import encodable, lines_of, text_of
from mmkd_core.data.domains import domain_name, known_domain
from mmkd_core.data.issues import ImportLog, Problems
from mmkd_core.data.tables import UNGROUPED, Row, Table, as_row
from mmkd_core.data.volumes import DICOM
from mmkd_core.errors import DataError

IMAGES = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp", ".webp", *DICOM)
CAPTION = ".txt"
_NO_DATA = ("readme", "license", "licence", "thumbs", "desktop")  # by the name before the first dot


def files_below(folder: Path) -> list[Path]:
    """All files in a folder and below it, by name; hidden files and folders are left out."""
    found = (path for path in folder.rglob("*") if path.is_file())
    return sorted(path for path in found if not any(part.startswith(".") for part in path.relative_to(folder).parts))


def images_below(folder: Path) -> list[Path]:
    """All images in a folder and below it, by name."""
    return [path for path in files_below(folder) if path.suffix.lower() in IMAGES]


def read_folder(folder: Path, log: ImportLog, domain: str | None = None, *, caption_lines: bool = False) -> Table:
    """The images of a folder with their captions.

    Args:
        folder: where the images lie, or their folders.
        log: is told what is not read.
        domain: kind of all images; where it is left out, a folder on the way must be called so.
        caption_lines: every line of a text is a caption of its own.

    Raises:
        DataError: images have no caption, or it is not known, or told in two ways, what kind of images they are.
    """
    files = files_below(folder)
    images = [path for path in files if path.suffix.lower() in IMAGES]
    named = any(image.suffix.lower() in DICOM for image in images)  # they name their patients, as paths to them do
    source = Path("the folder") if named else folder
    _refuse_bare(images, folder, source)
    _refuse_two_domains(images, folder, domain)
    taken = {*images, *(image.with_suffix(CAPTION) for image in images)}
    for path in files:
        kind = path.suffix.lower()
        if path not in taken and path.name.lower().split(".")[0] not in _NO_DATA:
            what = "a text without an image" if kind == CAPTION else f"{kind or 'suffixless'} files, which are not read"
            log.left_out.add(what, _shown(path, folder))
    problems, rows = Problems(), list[Row]()
    for number, image in enumerate(images, start=1):
        log.rows += 1
        with problems.gathered():
            rows.append(_row(number, image, folder, domain, log, caption_lines))
    problems.refuse(str(source))
    if not named:
        log.note(UNGROUPED)
    return Table(source, rows)


def _refuse_bare(images: Sequence[Path], folder: Path, source: Path) -> None:
    bare = [image for image in images if not image.with_suffix(CAPTION).is_file()]
    if not bare:
        return
    what = f"{len(bare):,} of {len(images):,} images have no caption, the first is {_shown(bare[0], folder)}"
    text = bare[0].with_suffix(CAPTION).name.encode(errors="backslashreplace").decode()
    text = f"a {CAPTION} of its name" if bare[0].suffix.lower() in DICOM else text
    advice = f"Write {text} beside it, or a csv with the columns image and caption."
    if {image.parent for image in images} != {folder}:
        advice += " Where folders are classes, write a csv with the columns image and label."
    raise DataError(what, where=str(source), next=advice)


def _shown(path: Path, folder: Path, number: int | None = None) -> str:
    """A name that can be printed, whatever its bytes; files of DICOM are called after patients, and stay unnamed."""
    if path.suffix.lower() in DICOM or any(path.with_suffix(kind).is_file() for kind in DICOM):
        return "a DICOM file" if number is None else f"DICOM file {number} by name"
    return str(path.relative_to(folder)).encode(errors="backslashreplace").decode()


def _refuse_two_domains(images: Sequence[Path], folder: Path, domain: str | None) -> None:
    """An option that says one kind of image and folders that say another cannot both be right."""
    named = {path: _domain_of(path.relative_to(folder).parts[:-1], folder) for path in images} if domain else {}
    wanted = domain_name(domain) if domain else ""
    other = sorted({name for name in named.values() if name and name != wanted})
    if other:
        what = f"--domain {domain} contradicts folders that are named after other domains: {', '.join(other)}"
        mend = "Leave --domain out: folders say what they hold; or rename them, or import one folder at a time."
        raise DataError(what, where=str(folder), next=mend)


def _row(number: int, image: Path, folder: Path, domain: str | None, log: ImportLog, caption_lines: bool) -> Row:
    name = _shown(image, folder, number)
    place = _shown(image.with_suffix(CAPTION), folder, number)
    encodable(str(image.relative_to(folder)), "the name of the image", name)
    told = domain or _domain_of(image.relative_to(folder).parts[:-1], folder)
    if not told:
        advice = "`mmkd data import PATH --domain xray` says it for all; or call their folders so"
        raise DataError("it is not known what kind of images these are", where=name, next=f"{advice}: {_ALL}.")
    text = text_of(image.with_suffix(CAPTION).read_bytes(), "the file", place)
    captions = lines_of(text, caption_lines)
    if not captions:
        raise DataError("the caption is empty", where=place, next="Write one, or remove the image.")
    return as_row(name, {"image": image, "domain": told, "caption": captions}, place, log, ("caption",))


_ALL = ", ".join(DOMAINS)


def _domain_of(folders: Sequence[str], whole: Path) -> str | None:
    """The innermost folder that is called like a domain."""
    named = [known for name in (whole.resolve().name, *folders) if (known := known_domain(name))]
    return named[-1] if named else None
