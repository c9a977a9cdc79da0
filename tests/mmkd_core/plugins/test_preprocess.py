from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from mmkd_core.contract import ImageSpec
from mmkd_core.errors import DataError
from mmkd_core.plugins.loaders.preprocess import preprocess

MEAN, STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
SIZES = [(32, 32), (33, 32), (17, 90), (90, 17), (64, 48), (100, 100), (45, 31), (5, 5), (31, 32)]


def spec(**changes) -> ImageSpec:
    return ImageSpec(size=32, mean=MEAN, std=STD, **changes)


def picture(size, mode, seed=0) -> Image.Image:
    channels = {"L": (), "RGB": (3,), "RGBA": (4,), "LA": (2,)}.get(mode, (3,))
    pixels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], *channels), dtype=np.uint8)
    image = Image.fromarray(pixels)
    return image if image.mode == mode else image.convert(mode)


@pytest.mark.parametrize("mode", ["RGB", "L", "RGBA", "LA", "P", "1"])
@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear"])
@pytest.mark.parametrize("resize", ["shortest", "longest", "squash"])
def test_it_equals_open_clip_bit_for_bit(resize, interpolation, mode):
    import open_clip

    theirs = open_clip.image_transform(
        32, is_train=False, mean=MEAN, std=STD, resize_mode=resize, interpolation=interpolation
    )
    for seed, size in enumerate(SIZES):
        image = picture(size, mode, seed)
        ours = preprocess(image, spec(resize=resize, interpolation=interpolation))
        assert ours.shape == (3, 32, 32)
        assert ours.dtype == torch.float32
        assert torch.equal(ours, theirs(image)), (size, mode)


def test_the_order_of_conversion_matters_and_can_be_chosen():
    image = picture((64, 48), "RGBA")
    before, after = preprocess(image, spec(convert="before")), preprocess(image, spec())
    assert torch.equal(before, preprocess(image.convert("RGB"), spec()))
    assert (before - after).abs().max() > 1


def test_a_literal_pixel():
    image = Image.new("RGB", (32, 32), (255, 0, 51))
    values = preprocess(image, ImageSpec(size=32, mean=(0.5, 0.0, 0.1), std=(0.5, 1.0, 0.2)))
    assert values[:, 3, 4].tolist() == pytest.approx([1.0, 0.0, 0.5])


def test_a_very_long_image_keeps_one_pixel():
    assert preprocess(Image.new("L", (900, 2)), spec(resize="longest")).shape == (3, 32, 32)


@pytest.mark.parametrize("mode", ["I;16", "I", "F"])
def test_deep_images_are_refused_instead_of_clipped(mode):
    with pytest.raises(DataError) as caught:
        preprocess(Image.new(mode, (40, 40)), spec())
    assert str(caught.value) == (
        f"image has more than 8 bits per channel (mode {mode}). Window it to 8 bits first: clipping would turn it white"
    )


def test_an_empty_image_is_refused():
    with pytest.raises(DataError, match="image of 0 x 5 pixels is empty"):
        preprocess(Image.new("L", (0, 5)), spec())
