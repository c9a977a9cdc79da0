from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mmkd_core.data.manifest import Corpus, image_id

MakeImage = Callable[..., Image.Image]


@pytest.fixture
def make_image() -> MakeImage:
    """Make a small random RGB image; every key is another image."""

    def make(key: int, size: tuple[int, int] = (12, 10), mode: str = "RGB") -> Image.Image:
        pixels = np.random.default_rng(key).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
        return Image.fromarray(pixels).convert(mode)

    return make


@pytest.fixture
def picture_folder(tmp_path: Path, make_image: MakeImage) -> Path:
    """Make ``raw/`` with 0.png to 11.png."""
    folder = tmp_path / "raw"
    folder.mkdir()
    for key in range(12):
        make_image(key).save(folder / f"{key}.png")
    return folder


@pytest.fixture
def corpus(tmp_path: Path, make_image: MakeImage) -> Corpus:
    """Make a saved corpus of 12 images: two domains, two classes each, a group of two images, all splits."""
    root = tmp_path / "corpus"
    (root / "images").mkdir(parents=True)
    rows: list[dict[str, str | None]] = []
    for key in range(12):
        make_image(key).save(root / "images" / f"{key}.png")
        domain, label = ("xray", "mri")[key % 2], f"finding {(key // 2) % 2}"
        rows.append({
            "image": f"images/{key}.png",
            "image_id": image_id(make_image(key)),
            "caption": f"caption {key}",
            "domain": domain,
            "label": label,
            "group_id": f"patient {key // 4}",
            "split": ("train", "val", "test")[key // 4],
        })  # fmt: skip
    prompts = {
        d: {f"finding {k}": (f"{d} with finding {k}", f"finding {k}: {d}") for k in (1, 0)} for d in ("xray", "mri")
    }
    return Corpus.build(root, rows, prompts).save(root)
