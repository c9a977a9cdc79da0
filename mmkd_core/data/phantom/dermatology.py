"""Dermatology photograph: skin with furrows and tone, a pigmented lesion absorbing light, hairs, uneven lighting."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from mmkd_core.data.phantom.canvas import (
    Field,
    Patient,
    Rng,
    Truth,
    X,
    Y,
    blur,
    expose,
    exposure,
    field,
    grain,
    inside,
    pick,
    size_word,
    stamp,
    trace,
    wobbly,
)

FINDINGS = ("benign nevus", "melanoma", "ring-shaped lesion", "satellite lesions", "ulcerated lesion")


def patient(rng: Rng) -> Patient:
    """Skin tone, lesion pigment, hair and furrows. Colours are drawn alike for every finding."""
    return exposure(rng) | {
        "skin_r": pick(rng, 0.5, 0.92),
        "warmth": pick(rng, 0.62, 0.82),
        "blue": pick(rng, 0.7, 0.92),
        "lesion_r": pick(rng, 0.15, 0.6),
        "lesion_g": pick(rng, 0.5, 1.1),
        "lesion_b": pick(rng, 0.5, 1.1),
        "hairs": pick(rng, 0, 6),
        "furrow": pick(rng, 0.01, 0.04),
    }


def _hairs(p: Patient, rng: Rng) -> Field:
    n = int(rng.poisson(p["hairs"]))
    if not n:
        return np.zeros_like(X)
    t = np.linspace(-0.6, 0.6, 70)[None, :]
    lean, bow = rng.uniform(0, 3.1) + rng.normal(0, 0.4, (n, 1)), rng.normal(0, 0.5, (n, 1))
    x = rng.uniform(-1, 1, (n, 1)) + t * np.cos(lean + bow * t)
    y = rng.uniform(-1, 1, (n, 1)) + t * np.sin(lean + bow * t)
    return np.minimum(trace(x, y, 1.2), 1)


def draw(finding: str, p: Patient, rng: Rng) -> tuple[NDArray[np.uint8], Truth]:
    """One close-up of a lesion; ``pigment`` is how much light the lesion takes at each pixel."""
    cx, cy = rng.normal() * 0.12, rng.normal() * 0.12
    r = pick(rng, 0.3, 0.5)
    truth: Truth = {"size": size_word(r, 0.3, 0.5), "x": cx, "y": cy, "r": r}
    crust = np.zeros_like(X)
    if finding == "melanoma":
        shape = wobbly(rng, cx, cy, r, pick(rng, 0.18, 0.3), 9, pick(rng, 0.7, 1.35))
        pigment = inside(shape, pick(rng, 0.1, 0.3)) * np.clip(0.85 + 0.2 * field(rng, 5), 0.25, 1.5)
    else:
        shape = wobbly(rng, cx, cy, r, 0.07, 5, pick(rng, 0.75, 1.3))
        pigment = inside(shape, pick(rng, 0.1, 0.35)) * (0.9 + 0.12 * field(rng, 5))
    if finding == "ring-shaped lesion":
        width = pick(rng, 0.2, 0.36)
        hole = inside(wobbly(rng, cx, cy, r * (1 - width), 0.08, 4, 1.0), 0.4)
        pigment = pigment * (1 - pick(rng, 0.6, 0.9) * hole)
    if finding == "satellite lesions":
        n = int(rng.integers(3, 7))
        t = rng.uniform(0, 2 * np.pi) + (np.arange(n) + rng.uniform(-0.3, 0.3, n)) / n * pick(rng, 2.5, 6.3)
        far = np.minimum(r * rng.uniform(1.35, 1.8, n) + 0.05, 0.85)
        size = rng.uniform(1.6, 2.8, n)
        spots = stamp(cx + far * np.cos(t), cy + far * np.sin(t), size, size * rng.uniform(0.8, 1, n))
        pigment = np.maximum(pigment, np.minimum(spots, 1) * 0.9)
        truth |= {"count": "a few" if n < 5 else "several", "n": n}
    if finding == "ulcerated lesion":
        ox, oy, wound = cx + rng.normal() * 0.05, cy + rng.normal() * 0.05, r * pick(rng, 0.42, 0.62)
        pit = wobbly(rng, ox, oy, wound, 0.35, 6)
        edge = np.clip(1.3 - np.abs(pit - 1) * wound / 0.05, 0, 1)
        pigment = pigment * (1 - 0.5 * inside(pit, 0.2)) + pick(rng, 0.25, 0.5) * edge
        crust = inside(pit, 0.2) * np.clip(field(rng, 14) * 1.2 - 0.2, 0, 1)
        pigment = pigment + 0.8 * crust
        truth |= {"wound": wound}
    n = int(rng.integers(0, 4))  # freckles in anybody
    pigment = np.maximum(pigment, 0.6 * stamp(rng.uniform(-1, 1, n), rng.uniform(-1, 1, n), 1.1, 1.1))
    pigment = blur(pigment.astype(np.float32), 0.5)

    turn = pick(rng, 0, np.pi)
    across = X * np.float32(np.cos(turn)) + Y * np.float32(np.sin(turn))
    skin = 1 + 0.04 * field(rng, 4) + p["furrow"] * np.sin(across * 40 + 2 * field(rng, 6)) + 0.02 * field(rng, 24)
    skin = skin * (1 + rng.normal() * 0.1 * X + rng.normal() * 0.1 * Y)
    tone = np.array([1.0, p["warmth"], p["warmth"] * p["blue"]], np.float32) * np.float32(p["skin_r"])
    keep = np.float32(p["lesion_r"]) * np.array([1.0, p["lesion_g"], p["lesion_b"]], np.float32)
    strength = pick(rng, 0.5, 0.9)
    image = skin[:, :, None] * tone * np.exp(np.log(keep) * strength * pigment[:, :, None])
    image = image * (1 - 0.6 * _hairs(p, rng)[:, :, None])
    image = image + 0.012 * grain(rng)[:, :, None] + 0.006 * rng.standard_normal((64, 64, 3), np.float32)
    return expose(image, {"level": p["level"] + 0.08, "contrast": p["contrast"] * 0.75}, rng), truth
