"""For all tests: no network, few threads, no display; and where the real images are."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

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
