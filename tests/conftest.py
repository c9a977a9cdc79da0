"""For all tests: no network, few threads, no display; and where the real images are."""

from __future__ import annotations

import os
import struct
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

# How long it takes to draw examples depends on what else the machine does, and says nothing about mmkd.
settings.register_profile("mmkd", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("mmkd")

# Before any test imports torch, matplotlib or huggingface_hub: they read these once.
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("OMP_NUM_THREADS", "2")
os.environ.setdefault("MPLBACKEND", "Agg")


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Return the folder of real images; for tests marked ``shared_data``."""
    beside = Path(__file__).resolve().parents[2] / "shared" / "data"
    folder = Path(os.environ.get("MMKD_SHARED_DATA", beside))
    if not folder.is_dir():
        pytest.skip(f"no real images at {folder}: set MMKD_SHARED_DATA")
    return folder


@pytest.fixture
def write_sentencepiece() -> Callable[..., None]:
    """Call with a file and pieces (text, score, kind): a SentencePiece unigram model that replaces no characters."""

    def varint(number: int) -> bytes:
        low = bytes([number & 0x7F | (0x80 if number > 0x7F else 0)])
        return low + varint(number >> 7) if number > 0x7F else low

    def message(field: int, body: bytes) -> bytes:
        return varint(field << 3 | 2) + varint(len(body)) + body

    def write(file: Path, pieces: list[tuple[str, float, int]], trainer: bytes = b"\x18\x01") -> None:
        table = [
            message(1, text.encode()) + b"\x15" + struct.pack("<f", score) + b"\x18" + varint(kind)
            for text, score, kind in pieces
        ]
        file.write_bytes(b"".join([*(message(1, piece) for piece in table), message(2, trainer), message(3, b"")]))

    return write
