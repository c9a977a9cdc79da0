"""All pixels of a corpus as one array, decoded once: an epoch of student training then costs no decoding.

Does not: normalise, augment, or preprocess for teachers (each has its own preprocessing).
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Sequence
from contextlib import suppress
from hashlib import blake2b
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from mmkd_core.data.manifest import Corpus
from mmkd_core.progress import Progress, Silent

Resize = Literal["squash", "shortest"]


def load_pixels(
    corpus: Corpus,
    index: NDArray[Any] | Sequence[int] | None = None,
    size: int = 64,
    resize: Resize = "squash",
    cache: Path | None = None,
    progress: Progress | None = None,
) -> NDArray[np.uint8]:
    """Return the images at ``index`` as uint8 (N, size, size, 3), RGB.

    Args:
        corpus: where the images lie.
        index: rows in any order; all by default.
        size: side in pixels.
        resize: ``squash`` both sides to ``size``, or the ``shortest`` side and crop the centre; bicubic.
        cache: folder for one ``.npy`` per set of images, size and resize; the result is then a read-only memory map.
            Images are known by their hash at import: a file that changes afterwards is not noticed (``check`` does).
        progress: who watches.

    Raises:
        DataError: an image is missing or unreadable.
    """
    chosen = corpus if index is None else corpus.take(index)
    watch = progress or Silent()
    if cache is None:
        pixels = np.empty((len(chosen), size, size, 3), dtype=np.uint8)
        _fill(pixels, chosen, size, resize, watch)
        return pixels
    path = Path(cache) / f"pixels-{_key(chosen, size, resize)}.npy"
    if not path.exists():
        _write(path, chosen, size, resize, watch)
    return np.load(path, mmap_mode="r", allow_pickle=False)  # type: ignore[no-any-return]


def to_square(image: Image.Image, size: int, resize: Resize) -> Image.Image:
    """Return the image as RGB of ``size`` x ``size``."""
    image = image.convert("RGB")
    if resize == "squash":
        return image.resize((size, size), Image.Resampling.BICUBIC)
    scale = size / min(image.size)
    width, height = (max(size, round(side * scale)) for side in image.size)
    left, top = (width - size) // 2, (height - size) // 2
    return image.resize((width, height), Image.Resampling.BICUBIC).crop((left, top, left + size, top + size))


def _key(corpus: Corpus, size: int, resize: Resize) -> str:
    """Hash what the array depends on: images in order, not captions or splits."""
    digest = blake2b(f"{size} {resize}\n".encode(), digest_size=16)
    for name in corpus.image_id:
        digest.update(name.encode())
    return digest.hexdigest()


def _fill(pixels: NDArray[np.uint8], corpus: Corpus, size: int, resize: Resize, progress: Progress) -> None:
    with progress.task("decode images", len(corpus), "images") as advance:
        for i in range(len(corpus)):
            pixels[i] = np.asarray(to_square(corpus.open(i), size, resize))
            advance(1)


def _write(path: Path, corpus: Corpus, size: int, resize: Resize, progress: Progress) -> None:
    """Fill a map under a temporary name and rename it, so that a file under its name is whole."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.stem}.", suffix=".tmp")
    os.close(handle)
    try:
        if len(corpus):
            pixels = np.lib.format.open_memmap(name, mode="w+", dtype=np.uint8, shape=(len(corpus), size, size, 3))
            _fill(pixels, corpus, size, resize, progress)
            pixels.flush()
            del pixels
        else:  # a map of nothing cannot be made
            with open(name, "wb") as file:
                np.save(file, np.empty((0, size, size, 3), dtype=np.uint8), allow_pickle=False)
        os.replace(name, path)
    except BaseException:
        with suppress(FileNotFoundError):
            os.unlink(name)
        raise
