"""All pixels of a corpus as one array, decoded once: an epoch of student training then costs no decoding.

Does not: normalise, augment, or preprocess for teachers (each has its own preprocessing).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from hashlib import blake2b
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from mmkd_core.data.manifest import Corpus
from mmkd_core.files import is_whole, sealing
from mmkd_core.progress import Progress, Silent

Resize = Literal["squash", "shortest"]
SLOW = 4 * 2**30
"""Bytes of a cache from which on reading it takes more than a moment."""


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
        cache: folder for one ``.npy`` per set of images, size and resize; the result is then a read-only memory map. It
            is checked before its first use in a process, and made again if it is damaged.
        progress: who watches.

    Raises:
        DataError: an image is missing, unreadable, or changed since its import.
    """
    chosen = corpus if index is None else corpus.take(index)
    watch = progress or Silent()
    if cache is None:
        pixels = np.empty((len(chosen), size, size, 3), dtype=np.uint8)
        for i, square in enumerate(_squares(chosen, size, resize, watch)):
            pixels[i] = square
        return pixels
    path = Path(cache) / f"pixels-{_key(chosen, size, resize)}.npy"
    if not (path.exists() and _is_whole(path, watch)):
        _write(path, chosen, size, resize, watch)
    return np.load(path, mmap_mode="r", allow_pickle=False)  # type: ignore[no-any-return]


def to_square(image: Image.Image, size: int, resize: Resize) -> Image.Image:
    """Return the image as RGB of ``size`` x ``size``.

    Transparency is dropped after resizing and the crop is rounded as torchvision rounds it, so that a student sees the
    pixels that open_clip shows it once it is exported.
    """
    if resize == "squash":
        return image.resize((size, size), Image.Resampling.BICUBIC).convert("RGB")
    short = min(image.size)
    width, height = (size if side == short else int(size * side / short) for side in image.size)
    left, top = round((width - size) / 2), round((height - size) / 2)
    resized = image.resize((width, height), Image.Resampling.BICUBIC)
    return resized.crop((left, top, left + size, top + size)).convert("RGB")


def _key(corpus: Corpus, size: int, resize: Resize) -> str:
    """Hash what the array depends on: images in order, not captions or splits."""
    digest = blake2b(f"{size} {resize}\n".encode(), digest_size=16)
    for name in corpus.image_id:
        digest.update(name.encode())
    return digest.hexdigest()


def _squares(corpus: Corpus, size: int, resize: Resize, progress: Progress) -> Iterator[NDArray[np.uint8]]:
    with progress.task("decode images", len(corpus), "images") as advance:
        for i in range(len(corpus)):
            yield np.asarray(to_square(corpus.open(i), size, resize))
            advance(1)


def _is_whole(path: Path, progress: Progress) -> bool:
    """Whether a cache is as it was written; says so where that takes long, or where it is not."""
    if (size := path.stat().st_size) > SLOW:
        progress.say(f"reading {size / 2**30:.0f} GiB of decoded images once, to see that they are whole")
    whole = is_whole(path)
    if not whole:
        progress.say(f"the cache of decoded images is damaged; it is made again ({path})")
    return whole


def _write(path: Path, corpus: Corpus, size: int, resize: Resize, progress: Progress) -> None:
    """Write image after image; not through a map, where a full disk would be a SIGBUS and not an error."""
    with sealing(path) as file:
        header = {"descr": "|u1", "fortran_order": False, "shape": (len(corpus), size, size, 3)}
        np.lib.format.write_array_header_1_0(file, header)
        for square in _squares(corpus, size, resize, progress):
            file.write(square.tobytes())
