"""One image pipeline, driven by ``ImageSpec``: the same numbers as open_clip's evaluation transform, bit for bit.

Rounding, the side that gives way and the moment of conversion to RGB all change pixels, so each follows what
open_clip 3.3 does: resize and crop in the image's own mode, then convert (``convert="after"``). Converting first
changes images with an alpha channel by up to four standard deviations.

Does not: accept more than 8 bits per channel. ``convert("RGB")`` would clip them to white without a word.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from PIL import Image, ImageOps

from mmkd_core.contract.spec import ImageSpec
from mmkd_core.errors import DataError

if TYPE_CHECKING:
    from torch import Tensor

_FILTERS = {"bicubic": Image.Resampling.BICUBIC, "bilinear": Image.Resampling.BILINEAR}
_DEEP_MODES = ("I", "F")  # "I", "I;16", "I;16B", "F", ...


def preprocess(image: Image.Image, spec: ImageSpec) -> Tensor:
    """Turn one image into a float32 tensor (3, size, size), normalised.

    Raises:
        DataError: the image has no pixels, or more than 8 bits per channel.
    """
    import numpy as np
    import torch

    require_8_bits(image)
    if spec.convert == "before":
        image = image.convert("RGB")
    image = _resized(image, spec).convert("RGB")
    # In numpy, which uses one thread: many images are prepared at once, and torch would start its threads for each.
    pixels = np.asarray(image).transpose(2, 0, 1).astype(np.float32, order="C")  # (3, H, W)
    mean, std = (np.array(values, np.float32).reshape(3, 1, 1) for values in (spec.mean, spec.std))
    pixels /= np.float32(255)
    pixels -= mean
    pixels /= std
    return torch.from_numpy(pixels)


def require_8_bits(image: Image.Image) -> None:
    """Raise DataError for an image that has no pixels, or more than 8 bits per channel."""
    if image.mode.startswith(_DEEP_MODES):
        raise DataError(
            f"image has more than 8 bits per channel (mode {image.mode})",
            next="Window it to 8 bits first: clipping would turn it white",
        )
    if not all(image.size):
        raise DataError(f"image of {image.width} x {image.height} pixels is empty")


def _resized(image: Image.Image, spec: ImageSpec) -> Image.Image:
    size = spec.size
    width, height = image.size
    if spec.resize == "squash":
        return _scale(image, size, size, spec)
    if spec.resize == "shortest":
        return short_side_and_crop(image, size, spec)
    ratio = max(width / size, height / size)
    scaled = _scale(image, max(1, round(width / ratio)), max(1, round(height / ratio)), spec)
    return _centre(_padded(scaled, size), size)


def short_side_and_crop(image: Image.Image, side: int, spec: ImageSpec) -> Image.Image:
    """The image with a short side of ``side`` pixels, and of that the middle ``spec.size`` x ``spec.size``."""
    short = min(image.size)
    # Torchvision truncates here, open_clip's ResizeKeepRatio (above) rounds.
    scaled = _scale(image, int(side * image.width / short), int(side * image.height / short), spec)
    return _centre(scaled, spec.size)


def _scale(image: Image.Image, width: int, height: int, spec: ImageSpec) -> Image.Image:
    return image if image.size == (width, height) else image.resize((width, height), _FILTERS[spec.interpolation])


def _padded(image: Image.Image, size: int) -> Image.Image:
    """Black borders; the odd pixel goes right and below."""
    right, below = max(0, size - image.width), max(0, size - image.height)
    if not right and not below:
        return image
    return ImageOps.expand(image, border=(right // 2, below // 2, (right + 1) // 2, (below + 1) // 2), fill=0)


def _centre(image: Image.Image, size: int) -> Image.Image:
    left, top = (round((side - size) / 2.0) for side in image.size)
    return image if image.size == (size, size) else image.crop((left, top, left + size, top + size))
