from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mmkd_core.data import images as module
from mmkd_core.data.images import load_pixels, to_square
from mmkd_core.data.manifest import Corpus
from mmkd_core.errors import DataError
from mmkd_core.files import forget_hashes, is_whole
from mmkd_core.progress import Silent


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
    assert len(list(cache.glob("*.npy"))) == 5

    def never(*args: object) -> None:
        raise AssertionError("decoded again")

    monkeypatch.setattr(module, "_squares", never)
    assert np.array_equal(load_pixels(corpus, [0, 1], 8, cache=cache), first)


def test_a_cache_that_is_not_as_it_was_written_is_made_again(corpus: Corpus, tmp_path: Path) -> None:
    load_pixels(corpus, size=8, cache=tmp_path / "cache")
    path = next((tmp_path / "cache").glob("*.npy"))
    good = path.read_bytes()
    flipped = good[:-9] + bytes([good[-9] ^ 1]) + good[-8:]
    for damaged in (flipped, good[: len(good) // 2], b"", bytes([good[0] ^ 1]) + good[1:]):
        path.write_bytes(damaged)
        forget_hashes()
        said = Heard()
        assert np.array_equal(
            load_pixels(corpus, size=8, cache=tmp_path / "cache", progress=said), load_pixels(corpus, size=8)
        )
        assert "damaged; it is made again" in said.lines[0]
        assert path.read_bytes() == good
    path.with_name(f"{path.name}.xxh3").unlink()  # a kill between the two files
    assert len(load_pixels(corpus, size=8, cache=tmp_path / "cache")) == len(corpus)
    assert is_whole(path)


def test_an_image_that_changed_since_its_import_is_never_shown_under_its_old_name(
    corpus: Corpus, tmp_path: Path
) -> None:
    Image.new("RGB", (16, 16), (1, 2, 3)).save(corpus.path(2))
    with pytest.raises(
        DataError, match=r"the image changed since it was imported \(.*2\.png\)\. Put the old file back"
    ):
        load_pixels(corpus, size=8, cache=tmp_path / "cache")
    assert list((tmp_path / "cache").iterdir()) == []
    with pytest.raises(DataError, match="changed since it was imported"):
        corpus.open(2)
    assert corpus.open(1).size


class Heard(Silent):
    """A ``Progress`` that keeps what was said."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def say(self, line: str) -> None:
        self.lines.append(line)


def test_a_broken_image_leaves_no_cache(corpus: Corpus, tmp_path: Path) -> None:
    corpus.path(2).write_bytes(b"broken")
    with pytest.raises(DataError, match=r"not an image.*2\.png"):
        load_pixels(corpus, size=8, cache=tmp_path / "cache")
    assert list((tmp_path / "cache").iterdir()) == []


def test_no_images(corpus: Corpus, tmp_path: Path) -> None:
    assert load_pixels(corpus, [], 8).shape == (0, 8, 8, 3)
    assert load_pixels(corpus, [], 8, cache=tmp_path).shape == (0, 8, 8, 3)
