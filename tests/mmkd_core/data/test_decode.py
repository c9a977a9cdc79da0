from __future__ import annotations

import io
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mmkd_core.data import decode as module
from mmkd_core.data.decode import decode
from mmkd_core.errors import DataError


def encoded(image: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("mode", "expected"),
    [("L", "L"), ("RGB", "RGB"), ("RGBA", "RGBA"), ("1", "L"), ("P", "RGB"), ("LA", "RGBA"), ("CMYK", "RGB")],
)
def test_modes_become_eight_bit(mode: str, expected: str) -> None:
    kind = "TIFF" if mode == "CMYK" else "PNG"
    assert decode(encoded(Image.new(mode, (3, 2)), kind)).mode == expected


def test_palettes_keep_their_colours_and_warn_about_nothing() -> None:
    image = Image.frombytes("P", (2, 1), b"\x00\x01")
    image.putpalette([10, 20, 30, 200, 100, 50])
    pixels = np.asarray(decode(encoded(image, transparency=b"\x00\xff")))
    assert pixels.tolist() == [[[10, 20, 30], [200, 100, 50]]]


def test_exif_turns_the_image_upright() -> None:
    image = Image.new("RGB", (4, 2))
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by 90 degrees
    assert decode(encoded(image, "JPEG", exif=exif.tobytes())).size == (2, 4)


@pytest.mark.parametrize("mode", ["I;16", "I", "F"])
def test_deep_images_are_refused(mode: str, tmp_path: Path) -> None:
    path = tmp_path / "deep.tiff"
    Image.new(mode, (3, 2)).save(path)
    with pytest.raises(DataError, match=r"more than 8 bits per channel \(.*deep.tiff\)\. Choose a window and save it"):
        decode(path)


def test_sixteen_bit_colour_is_refused_though_pillow_would_cut_it() -> None:
    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", 1, 1, 16, 2, 0, 0, 0))
    png = b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(b"\0" * 7)) + chunk(b"IEND", b"")
    with Image.open(io.BytesIO(png)) as image:
        assert image.mode == "RGB"
    with pytest.raises(DataError, match="more than 8 bits per channel"):
        decode(png)


def test_every_truncation_of_a_file_is_refused() -> None:
    whole = encoded(Image.fromarray(np.random.default_rng(0).integers(0, 255, (20, 20, 3), dtype=np.uint8)), "JPEG")
    for size in range(0, len(whole) - 30, 29):
        with pytest.raises(DataError, match=r"not an image|cannot be decoded"):
            decode(whole[:size], "cut.jpg")


def test_missing_and_foreign_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no such image file \(.*gone.png\)\."):
        decode(tmp_path / "gone.png")
    (tmp_path / "notes.png").write_text("not an image at all")
    with pytest.raises(DataError, match=r"not an image, or of an unknown format \(.*notes.png\)\."):
        decode(tmp_path / "notes.png")
    with pytest.raises(DataError, match=r"unknown format \(3 bytes\)"):
        decode(b"abc")


def test_size_is_limited_by_the_header(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_PIXELS", 99)
    with pytest.raises(DataError, match=r"has 10 x 10 pixels, the limit is 99 \(scan\). Scale it down"):
        decode(encoded(Image.new("L", (10, 10))), "scan")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 20)
    with pytest.raises(DataError, match="too large, the limit is 99 pixels"):
        decode(encoded(Image.new("L", (10, 10))), "scan")
