"""Images that lie in no plain file (arrays, DICOM, volumes, cells of a table) are kept under the hash of their pixels.

They become PNGs, or stay the bytes that they came in.
"""

from __future__ import annotations

import io
import os
from pathlib import Path

from PIL import Image

from mmkd_core.data.decode import decode, frames, note_frames
from mmkd_core.data.issues import ImportLog
from mmkd_core.data.manifest import image_id


def keep_png(image: Image.Image, folder: Path) -> tuple[str, Path]:
    """Write one PNG unless it is there, so that a run that was killed goes on; return the image's id and its path."""
    name = image_id(image)
    path = folder / name[:2] / f"{name}.png"
    if not path.exists():
        buffer = io.BytesIO()
        image.save(buffer, format="PNG")
        _keep(buffer.getvalue(), path)
    return name, path


def keep_encoded(data: bytes, folder: Path, where: str, log: ImportLog) -> tuple[str, Path]:
    """The same of an encoded image, whose bytes are kept as they are; the log is told of pages that are not read.

    Raises:
        DataError: the bytes are no image of at most 8 bits per channel; ``where`` says which.
    """
    read = decode(data, where)
    name = image_id(read)
    note_frames(frames(read), where, log)
    with Image.open(io.BytesIO(data)) as image:
        path = folder / name[:2] / f"{name}.{(image.format or 'image').lower()}"
    if not path.exists():
        _keep(data, path)
    return name, path


def _keep(data: bytes, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    fresh = path.with_name(f".{path.stem}.{os.getpid()}.tmp")
    fresh.write_bytes(data)
    os.replace(fresh, path)
