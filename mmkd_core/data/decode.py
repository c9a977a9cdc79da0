"""From a file or bytes to an 8-bit PIL image, or to one sentence that says why not.

Does not: guess a window for 16-bit images, fill up truncated files, or read further frames than the first.
"""

from __future__ import annotations

import io
import re
from pathlib import Path

from PIL import Image, ImageOps, UnidentifiedImageError

from mmkd_core.data.issues import ImportLog
from mmkd_core.data.shards import read_member
from mmkd_core.errors import DataError

MAX_PIXELS = 64 * 1024 * 1024
"""Larger images are refused before they are decoded: 200 MB as RGB, and a tiny file can claim any size."""

_FRAMES = "mmkd:frames"
_DEEP_MODES = ("I", "F", "I;16", "I;16B", "I;16L", "I;16N")
# Pillow opens 16-bit colour as RGB and drops the low byte in silence; only the tile's raw mode tells.
_DEEP_RAW = re.compile(r";(16[BLNS]|32|64)")


def decode(source: Path | str | bytes, name: str | None = None) -> Image.Image:
    """Return the image in mode L, RGB or RGBA, upright according to its EXIF data.

    Args:
        source: a path, which may lead into a shard (``shards``), or the bytes of an encoded image.
        name: what to call the image in an error; the path by default.

    Raises:
        DataError: missing, not an image, truncated, deeper than 8 bits, or above ``MAX_PIXELS``.
    """
    where = name or (f"{len(source)} bytes" if isinstance(source, bytes) else str(source))
    if not isinstance(source, bytes) and ".tar" in str(source):
        source = read_member(Path(source)) or source
    try:
        with Image.open(io.BytesIO(source) if isinstance(source, bytes) else source) as image:
            _check(image, where)
            image.load()
            plain = _eight_bit(ImageOps.exif_transpose(image))
            plain.info[_FRAMES] = getattr(image, "n_frames", 1)
            return plain
    except (DataError, MemoryError):
        raise
    except FileNotFoundError:
        raise DataError("no such image file", where=where) from None
    except UnidentifiedImageError:
        raise DataError("the file is not an image, or of an unknown format", where=where) from None
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise DataError(f"the image is too large, the limit is {MAX_PIXELS} pixels", where=where) from error
    except Exception as error:  # on damaged files Pillow's decoders raise nearly anything
        raise DataError(f"the image cannot be decoded: {str(error).rstrip('.')}", where=where) from error


def frames(image: Image.Image) -> int:
    """Return how many pages or frames the file of a decoded image has; the first was read."""
    return int(image.info.get(_FRAMES, 1))


def note_frames(pages: int, where: str, log: ImportLog) -> None:
    """Count a file of several pages, of which one was read."""
    if pages > 1:
        log.issues.add("files of several pages or frames, of which the first is read", f"{where}, {pages} pages")


def _check(image: Image.Image, where: str) -> None:
    """Refuse by header alone, before any pixel is decoded."""
    if image.width * image.height > MAX_PIXELS:
        what = f"the image has {image.width} x {image.height} pixels, the limit is {MAX_PIXELS}"
        raise DataError(what, where=where, next="Scale it down or cut it into tiles.")
    if image.mode in _DEEP_MODES or any(_DEEP_RAW.search(str(tile.args)) for tile in getattr(image, "tile", ())):
        what = "the image has more than 8 bits per channel"
        raise DataError(what, where=where, next="Choose a window and save it as 8-bit PNG: mmkd does not guess one.")


def _eight_bit(image: Image.Image) -> Image.Image:
    if image.mode in ("L", "RGB", "RGBA"):
        return image
    if image.mode == "1":
        return image.convert("L")
    if image.mode in ("LA", "La", "PA", "RGBa"):
        return image.convert("RGBA")
    if image.mode == "P" and "transparency" in image.info:
        return image.convert("RGBA").convert("RGB")  # the direct way warns about transparency given as bytes
    return image.convert("RGB")
