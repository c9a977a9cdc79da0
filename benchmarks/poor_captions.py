"""The real images with captions that are poor on purpose, where ``MMKD_POOR_CAPTIONS=1`` asks for them.

Half of the captions then say only what kind of image it is and 15 % name another finding, as in public image-text
pairs. By default captions are what an import makes of the labels.
"""

from __future__ import annotations

import csv
import os
from pathlib import Path

import numpy as np

from mmkd_core.data.captions import label_caption
from mmkd_core.data.phantom.generate import POOR_CAPTIONS


def real_name() -> str:
    """A name for workspaces of the real images, another one where captions are poor."""
    return "real-poor" if _poor() else "real"


def _poor() -> bool:
    return os.environ.get("MMKD_POOR_CAPTIONS") == "1"


def real_manifest(folder: Path) -> Path:
    """The manifest of the real images, or one with poor captions that is written to ``folder``."""
    source = Path(os.environ["MMKD_SHARED_DATA"], "biomed", "manifest.csv")
    if not _poor():
        return source
    with source.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "manifest.csv").open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, [*rows[0], "caption"])
        writer.writeheader()
        writer.writerows(_spoilt(rows, source.parent))
    return folder / "manifest.csv"


def _spoilt(rows: list[dict[str, str]], folder: Path) -> list[dict[str, str]]:
    classes: dict[str, list[str]] = {}
    for row in rows:
        classes.setdefault(row["domain"], []).append(row["label"])
    classes = {domain: sorted(set(labels)) for domain, labels in classes.items()}
    rng, silent, made = np.random.default_rng(0), POOR_CAPTIONS["plain_captions"], []
    for row in rows:
        named, others = [row["label"]], [label for label in classes[row["domain"]] if label != row["label"]]
        chance = rng.random()
        if chance < silent:
            named = []
        elif chance < silent + POOR_CAPTIONS["wrong_captions"] and others:
            named = [others[rng.integers(len(others))]]
        caption = label_caption(row["domain"], named, classes[row["domain"]], row["image"])
        made.append({**row, "image": str(folder / row["image"]), "caption": caption})
    return made
