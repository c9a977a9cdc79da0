"""Images that lie in no plain file (arrays, DICOM, slices of volumes) are kept as PNGs named by their content."""

from __future__ import annotations

import os
from pathlib import Path

from PIL import Image

from mmkd_core.data.manifest import image_id


def keep_png(image: Image.Image, folder: Path) -> tuple[str, Path]:
    """Write one PNG unless it is there, so that a run that was killed goes on; return the image's id and its path."""
    name = image_id(image)
    path = folder / name[:2] / f"{name}.png"
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        fresh = path.with_name(f".{name}.{os.getpid()}.tmp")
        image.save(fresh, format="PNG")
        os.replace(fresh, path)
    return name, path
