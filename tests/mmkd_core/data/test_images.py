from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mmkd_core.data import images as module
from mmkd_core.data.images import load_pixels, to_square
from mmkd_core.data.manifest import Corpus
from mmkd_core.errors import DataError


def test_squash_is_pillows_bicubic(corpus: Corpus) -> None:
    pixels = load_pixels(corpus, np.array([4, 1]), 8)
    assert pixels.shape == (2, 8, 8, 3)
    assert pixels.dtype == np.uint8
    with Image.open(corpus.path(4)) as image:
        assert np.array_equal(pixels[0], np.asarray(image.resize((8, 8), Image.Resampling.BICUBIC)))


def test_shortest_crops_the_centre() -> None:
    image = Image.fromarray(np.repeat(np.arange(30, dtype=np.uint8)[None], 10, axis=0))
    square = np.asarray(to_square(image, 10, "shortest"))
    assert square.shape == (10, 10, 3)
    assert square[0, :, 0].tolist() == list(range(10, 20))
    assert to_square(Image.new("L", (7, 300)), 5, "shortest").size == (5, 5)


def test_the_cache_is_used_and_keyed_by_images_size_and_resize(
    corpus: Corpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = tmp_path / "cache"
    first = load_pixels(corpus, [0, 1], 8, cache=cache)
    assert np.array_equal(first, load_pixels(corpus, [0, 1], 8))
    assert isinstance(first, np.memmap)
    assert not first.flags.writeable
    for index, size, resize in (
        ([1, 0], 8, "squash"),
        ([0, 1], 9, "squash"),
        ([0, 1], 8, "shortest"),
        (None, 8, "squash"),
    ):
        load_pixels(corpus, index, size, resize, cache)  # type: ignore[arg-type]
    assert len(list(cache.iterdir())) == 5

    def never(*args: object) -> None:
        raise AssertionError("decoded again")

    monkeypatch.setattr(module, "_squares", never)
    assert np.array_equal(load_pixels(corpus, [0, 1], 8, cache=cache), first)


def test_a_broken_image_leaves_no_cache(corpus: Corpus, tmp_path: Path) -> None:
    corpus.path(2).write_bytes(b"broken")
    with pytest.raises(DataError, match=r"not an image.*2\.png"):
        load_pixels(corpus, size=8, cache=tmp_path / "cache")
    assert list((tmp_path / "cache").iterdir()) == []


def test_no_images(corpus: Corpus, tmp_path: Path) -> None:
    assert load_pixels(corpus, [], 8).shape == (0, 8, 8, 3)
    assert load_pixels(corpus, [], 8, cache=tmp_path).shape == (0, 8, 8, 3)
