"""Abdominal CT: one axial slice of organs in Hounsfield units, reconstruction noise and streaks, a display window."""

from __future__ import annotations

from typing import NamedTuple

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
    distance,
    ellipse,
    expose,
    exposure,
    field,
    grain,
    inside,
    patient_side,
    pick,
    sign,
    size_word,
    stamp,
    wobbly,
)

FINDINGS = ("no finding", "liver cyst", "liver metastases", "kidney stone", "ascites")


class _Slice(NamedTuple):
    """Where things lie in this slice."""

    sx: float
    sy: float
    outer: Field
    """Normalised radius of the skin."""
    cavity: Field
    """Normalised radius of the abdominal cavity."""


def patient(rng: Rng) -> Patient:
    """Girth, fat, organ sizes and the phase of the contrast agent."""
    return exposure(rng) | {
        "girth": pick(rng, 0.86, 0.97),
        "flat": pick(rng, 0.68, 0.82),
        "fat": pick(rng, 0.05, 0.13),
        "liver": pick(rng, 0.9, 1.08),
        "liver_hu": pick(rng, 60, 120),
        "kidney_hu": pick(rng, 60, 150),
        "aorta_hu": pick(rng, 40, 220),
        "gallbladder": pick(rng, 0.0, 1.0),
        "noise": pick(rng, 8, 20),
        "tilt": rng.normal() * 0.06,
    }


def _paint(hu: Field, mask: Field, value: float | Field) -> Field:
    return np.asarray(hu + mask * (value - hu))


def draw(finding: str, p: Patient, rng: Rng) -> tuple[NDArray[np.uint8], Truth]:
    """One slice at the level of liver and kidneys; the patient's right is on the viewer's left."""
    sx, sy = rng.normal() * 0.03, rng.normal() * 0.03
    girth, deep = p["girth"], p["girth"] * p["flat"]
    inner = p["fat"] + 0.07
    outer = distance(sx, sy, girth, deep, p["tilt"])
    at = _Slice(sx, sy, outer, distance(sx, sy, girth - inner, deep - inner, p["tilt"]))
    hu = _wall_and_bowel(p, at, rng)
    shrink, truth = 1.0, Truth()
    if finding == "ascites":
        depth = pick(rng, 0.1, 0.2)
        shrink, truth = 1 - depth * 0.8, {"size": size_word(depth, 0.1, 0.2), "depth": depth}
        rim = np.clip((at.cavity - (1 - depth) + 0.05 * field(rng, 5)) / 0.06 + 0.5, 0, 1) * inside(at.cavity, 0.06)
        hu = _paint(hu, rim * (0.42 + sy > Y), pick(rng, 0, 18))
    within = inside(at.cavity * (1.04 / shrink), 0.1)
    size = p["liver"] * shrink
    lobes = np.minimum(
        wobbly(rng, -0.36 + sx, -0.08 + sy, 0.38 * size, 0.06, 4, 1.12),
        distance(-0.08 + sx, -0.24 + sy, 0.32 * size, 0.16 * size, 0.2),
    )
    liver = inside(lobes, 0.12) * within
    vessels = np.clip(1.5 - np.abs(field(rng, 5)) * 14, 0, 1)
    hu = _paint(hu, liver, p["liver_hu"] + 9 * field(rng, 7) + pick(rng, -20, 35) * vessels)
    spleen = ellipse(0.56 * shrink + sx, 0.02 + sy, 0.15 * size, 0.27 * size, 0.25, 0.15) * within
    hu = _paint(hu, spleen, p["liver_hu"] + 12)
    hu = _spine_and_vessels(p, at, rng, hu)
    kidneys = {}
    for s in (-1.0, 1.0):
        kx, ky = s * 0.4 + sx + rng.normal() * 0.02, 0.36 + sy + rng.normal() * 0.03
        kidneys[s] = (kx, ky)
        hu = _paint(hu, ellipse(kx, ky, 0.15, 0.19, s * 0.5, 0.15), p["kidney_hu"])
        hu = _paint(hu, ellipse(kx - s * 0.05, ky, 0.07, 0.09, s * 0.5, 0.5), -40)
    if finding == "kidney stone":
        hu, truth = _stone(rng, hu, kidneys)
    if finding in ("liver cyst", "liver metastases"):
        hu, truth = _liver_lesion(finding, p, at, rng, hu, liver)
    return _scan(p, at, rng, hu), truth


def _wall_and_bowel(p: Patient, at: _Slice, rng: Rng) -> Field:
    """Fat, muscle, mesentery, loops of bowel and a stomach with air."""
    sx, sy = at.sx, at.sy
    muscle = distance(sx, sy, p["girth"] - p["fat"], p["girth"] * p["flat"] - p["fat"], p["tilt"])
    hu = _paint(np.full_like(X, -900), inside(at.outer, 0.06), -100)
    hu = _paint(hu, inside(muscle, 0.06), 50)
    hu = _paint(hu, inside(at.cavity, 0.06), -90)
    loops = np.clip(field(rng, 9) * 2 + 0.9, 0, 1)
    hu = _paint(hu, inside(at.cavity, 0.1) * loops, 35 + 12 * field(rng, 8))
    hu = _paint(hu, ellipse(0.34 + sx, -0.28 + sy, 0.2, 0.13, 0.5, 0.2), 30)
    return _paint(hu, ellipse(0.36 + sx, -0.36 + sy, 0.13 * pick(rng, 0.5, 1.1), 0.05, 0, 0.5), -700)


def _spine_and_vessels(p: Patient, at: _Slice, rng: Rng, hu: Field) -> Field:
    sx, sy = at.sx, at.sy
    if p["gallbladder"] > 0.4:
        hu = _paint(hu, ellipse(-0.12 + sx, 0.08 + sy + rng.normal() * 0.02, 0.075, 0.12, 0.5, 0.2), 12)
    hu = _paint(hu, ellipse(sx, 0.42 + sy, 0.14, 0.12, 0, 0.2), 260 + 80 * field(rng, 14))
    hu = _paint(hu, ellipse(sx, 0.57 + sy, 0.045, 0.12, 0, 0.3), 420)
    hu = _paint(hu, ellipse(sx, 0.45 + sy, 0.05, soft=0.3), 40)
    hu = _paint(hu, ellipse(0.06 + sx, 0.22 + sy, 0.065, soft=0.25), p["aorta_hu"])
    hu = _paint(hu, ellipse(-0.1 + sx, 0.22 + sy, 0.06, 0.05, soft=0.25), p["aorta_hu"] * 0.7)
    if rng.random() < 0.4:  # a calcified aorta: bright and small like a stone, elsewhere
        hu = _paint(hu, np.minimum(stamp(0.1 + sx, 0.2 + sy, 1.0, 1.3), 1), 500)
    return hu


def _stone(rng: Rng, hu: Field, kidneys: dict[float, tuple[float, float]]) -> tuple[Field, Truth]:
    s = sign(rng)
    kx, ky = kidneys[s]
    x, y, r = kx + rng.normal() * 0.04, ky + rng.normal() * 0.055, pick(rng, 1.5, 2.5)
    mask = np.minimum(stamp(x, y, r, r * pick(rng, 0.7, 1.0), pick(rng, 0, 3)), 1)
    truth = {"side": patient_side(s), "size": size_word(r, 1.5, 2.5), "x": x, "y": y, "r": r}
    return _paint(hu, mask, pick(rng, 450, 900)), truth


def _liver_lesion(finding: str, p: Patient, at: _Slice, rng: Rng, hu: Field, liver: Field) -> tuple[Field, Truth]:
    """One smooth cavity of water, or several ragged soft deposits, in the right lobe."""
    if finding == "liver cyst":
        r, x, y = _place(p, at, rng, 0.12, 0.19)
        mask = inside(distance(x, y, r, r * pick(rng, 0.9, 1.1)), 0.15)
        return _paint(hu, mask * liver, pick(rng, -5, 12)), {"size": size_word(r, 0.12, 0.19), "x": x, "y": y, "r": r}
    count = int(rng.integers(3, 7))
    spots = np.zeros_like(X)
    for _ in range(count):
        r, x, y = _place(p, at, rng, 0.055, 0.1)
        spots = np.maximum(spots, inside(wobbly(rng, x, y, r, 0.25), 0.5))
    hu = _paint(hu, spots * liver, p["liver_hu"] - pick(rng, 50, 85) + 10 * field(rng, 12))
    return hu, {"count": "a few" if count < 5 else "many", "n": count}


def _place(p: Patient, at: _Slice, rng: Rng, low: float, high: float) -> tuple[float, float, float]:
    """Radius and centre of a lesion within the right lobe of the liver."""
    r = pick(rng, low, high)
    turn, reach = pick(rng, 0, 2 * np.pi), (0.33 * p["liver"] - r) * np.sqrt(pick(rng, 0, 1))
    return r, -0.36 + at.sx + reach * float(np.cos(turn)), -0.08 + at.sy + reach * float(np.sin(turn))


def _scan(p: Patient, at: _Slice, rng: Rng, hu: Field) -> NDArray[np.uint8]:
    """Resolution, noise, streaks across a random direction, and the display window."""
    turn = pick(rng, 0, np.pi)
    across = X * np.float32(np.cos(turn)) + Y * np.float32(np.sin(turn))
    streaks = pick(rng, 0, 14) * np.sin(across * np.float32(pick(rng, 30, 70)) + 3 * field(rng, 2))
    noise = p["noise"] * (0.7 * grain(rng) + 2.4 * blur(grain(rng), 0.9))
    low, high = pick(rng, -150, -110), pick(rng, 220, 300)
    return expose(np.clip(blur(hu, 0.5) + noise + streaks, low, high), p, rng, inside(at.outer, 0.06))
