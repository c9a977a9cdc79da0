"""Abdominal ultrasound: echogenicity in a sector, attenuation and shadows along the beam, speckle, log compression.

Speckle is the envelope of complex Gaussian noise filtered by a point spread wider across the beam than along it.
"""

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
    expose,
    exposure,
    field,
    grain,
    image_side,
    inside,
    pick,
    ramp,
    sign,
    size_word,
    wobbly,
)

FINDINGS = ("normal tissue", "simple cyst", "solid mass", "gallstone", "fluid collection")
_PROBE = -0.97
"""Height at which the probe's face cuts the sector."""


class _Sector(NamedTuple):
    """Polar coordinates about the apex of the sector; ``depth`` counts from the probe."""

    ax: float
    ay: float
    r: Field
    theta: Field
    depth: Field
    wall: Field

    def polar(self, x: float, y: float) -> tuple[float, float]:
        """Angle and radius of a point."""
        return float(np.arctan2(x - self.ax, y - self.ay)), float(np.hypot(x - self.ax, y - self.ay))

    def behind(self, x: float, y: float, size: float, start: float, soft: float = 0.05) -> Field:
        """Mask of what the beam meets after passing a body ``size`` wide, from ``start`` below its centre."""
        angle, far = self.polar(x, y)
        return ramp(size / far - np.abs(self.theta - angle), soft) * ramp(self.r - far - start, soft)


def patient(rng: Rng) -> Patient:
    """Probe and body wall: opening angle, depth of the apex, attenuation, tissue texture."""
    return exposure(rng) | {
        "apex": pick(rng, -1.5, -1.15),
        "opening": pick(rng, 0.5, 0.68),
        "wall": pick(rng, 0.1, 0.24),
        "decay": pick(rng, 0.1, 0.8),
        "texture": pick(rng, 0.1, 0.32),
        "range": pick(rng, 2.6, 3.8),
    }


def draw(finding: str, p: Patient, rng: Rng) -> tuple[NDArray[np.uint8], Truth]:
    """One B-mode sector image; log echogenicity is summed, then speckled and compressed."""
    ax = rng.normal() * 0.03
    dx, dy = X - np.float32(ax), Y - np.float32(p["apex"])
    r, theta = np.sqrt(dx * dx + dy * dy), np.arctan2(dx, dy)
    near = np.float32(_PROBE - p["apex"])
    at = _Sector(ax, p["apex"], r, theta, r - near, p["wall"] + 0.03 * field(rng, 4))
    view = ramp(p["opening"] - np.abs(theta), 0.03) * ramp(r - near, 0.03) * ramp(0.98 - p["apex"] - r, 0.03)
    echo = _tissue(p, at, rng)
    truth: Truth = {}
    x, y = _within(rng, p, 0.65, 1.25)
    if finding in ("normal tissue", "solid mass") and rng.random() < 0.3:  # a gallbladder without a stone
        echo = _gallbladder(rng, echo, *_within(rng, p, 0.65, 1.25))[0]
    if finding == "gallstone":
        echo, truth = _gallstone(at, rng, echo, x, y)
    if finding == "simple cyst":
        echo, truth = _cyst(at, rng, echo, x, y)
    if finding == "solid mass":
        echo, truth = _mass(at, rng, echo, x, y)
    if finding == "fluid collection":
        echo, truth = _collection(at, rng, echo)

    width = 0.7 + 0.9 * pick(rng, 0.3, 0.8)
    looks = [np.square(blur(grain(rng), 0.6, width)) for _ in range(4)]  # two complex looks, compounded
    speckle = np.sqrt(sum(looks, np.zeros_like(X)))
    electronic = np.float32(pick(rng, 0.03, 0.09)) * np.hypot(grain(rng), grain(rng))
    envelope = np.log(np.exp(echo) * speckle / speckle.mean() + electronic)
    top = float(np.sort(envelope[view > 0.5])[-40])
    return expose(np.clip(envelope, top - p["range"], top), p, rng, view), truth


def _tissue(p: Patient, at: _Sector, rng: Rng) -> Field:
    """Parenchyma, body wall, diaphragm and, in every class, up to two small dark vessels."""
    echo = p["texture"] * field(rng, 6) + 0.15 * field(rng, 16) - p["decay"] * (at.depth - 0.8)
    echo = echo + 0.7 * np.clip(1 - np.abs(at.depth - at.wall) / 0.05, 0, 1) + 0.4 * (at.depth < at.wall)
    arc = np.abs(at.depth - pick(rng, 1.5, 1.75) - 0.1 * field(rng, 3))
    echo = echo + pick(rng, 0.3, 1.2) * np.clip(1 - arc / 0.07, 0, 1)
    for _ in range(rng.integers(0, 3)):
        tube = distance(*_within(rng, p, 0.5, 1.6), pick(rng, 0.04, 0.14), pick(rng, 0.03, 0.05), pick(rng, 0, 3.1))
        echo = echo - pick(rng, 1.0, 2.0) * inside(tube, 0.6)
    return np.asarray(echo)


def _gallbladder(rng: Rng, echo: Field, x: float, y: float) -> tuple[Field, tuple[float, float, float]]:
    """A long dark pear with a bright wall: (echo, its (long half axis, short half axis, angle))."""
    long, short, turn = pick(rng, 0.26, 0.36), pick(rng, 0.12, 0.17), pick(rng, -0.6, 0.6)
    radius = distance(x, y, long, short, turn)
    wall = np.clip(1 - np.abs(radius - 1.1) / 0.15, 0, 1)
    return echo - pick(rng, 1.6, 2.4) * inside(radius, 0.3) + 0.6 * wall, (long, short, turn)


def _gallstone(at: _Sector, rng: Rng, echo: Field, x: float, y: float) -> tuple[Field, Truth]:
    """A bright front in a gallbladder, and a shadow behind."""
    echo, (long, short, turn) = _gallbladder(rng, echo, x, y)
    along, size = pick(rng, -0.5, 0.5) * long, pick(rng, 0.06, 0.1)
    sx, sy = x + along * float(np.cos(turn)), y + along * float(np.sin(turn)) + short * 0.55
    front = inside(distance(sx, sy, size, size * 0.7), 0.5) * (at.r < at.polar(sx, sy)[1] + 0.3 * size)
    echo = echo + 3.2 * front - pick(rng, 1.4, 2.2) * at.behind(sx, sy, size * 1.05, 0.2 * size)
    return echo, {"size": size_word(size, 0.06, 0.1), "x": sx, "y": sy, "r": size}


def _cyst(at: _Sector, rng: Rng, echo: Field, x: float, y: float) -> tuple[Field, Truth]:
    """Round and echo-free; the sound behind it is less attenuated than beside it."""
    size = pick(rng, 0.14, 0.25)
    cyst = inside(distance(x, y, size, size * pick(rng, 0.88, 1.12)), 0.3)
    fade = np.exp(-np.clip(at.r - at.polar(x, y)[1], 0, 2))
    echo = echo - pick(rng, 1.6, 2.4) * cyst
    echo = echo + pick(rng, 0.5, 0.9) * at.behind(x, y, size * 0.9, 0.75 * size) * (1 - cyst) * fade
    return echo, {"size": size_word(size, 0.14, 0.25), "side": image_side(x), "x": x, "y": y, "r": size}


def _mass(at: _Sector, rng: Rng, echo: Field, x: float, y: float) -> tuple[Field, Truth]:
    """Darker than its surroundings but not empty, with a ragged margin and a faint shadow."""
    size = pick(rng, 0.17, 0.27)
    mass = inside(wobbly(rng, x, y, size, 0.3, 7, pick(rng, 0.8, 1.3)), 0.25)
    echo = echo - (pick(rng, 1.05, 1.45) + 0.3 * field(rng, 12)) * mass
    echo = echo - pick(rng, 0.1, 0.6) * at.behind(x, y, size * 0.8, 0.8 * size, 0.1)
    return echo, {"size": size_word(size, 0.17, 0.27), "side": image_side(x), "x": x, "y": y, "r": size}


def _collection(at: _Sector, rng: Rng, echo: Field) -> tuple[Field, Truth]:
    """A lens of fluid between layers, with pointed ends."""
    s, thick = sign(rng), pick(rng, 0.1, 0.18)
    level = at.wall + pick(rng, 0.1, 0.9) + s * at.theta * pick(rng, 0.2, 0.9) + 0.06 * field(rng, 4)
    span = np.clip(1 - np.square((at.theta - s * pick(rng, 0.0, 0.25)) / pick(rng, 0.32, 0.5)), 0, 1)
    pool = ramp(thick * span - np.abs(at.depth - level), 0.05) * (span > 0)
    echo = echo - pick(rng, 1.6, 2.4) * pool + 0.3 * field(rng, 16) * pool
    return echo, {"size": size_word(thick, 0.1, 0.18), "thick": thick}


def _within(rng: Rng, p: Patient, low: float, high: float) -> tuple[float, float]:
    """A point in the sector between two depths below the probe."""
    depth, angle = pick(rng, low, high) + _PROBE - p["apex"], pick(rng, -0.62, 0.62) * p["opening"]
    return depth * float(np.sin(angle)), p["apex"] + depth * float(np.cos(angle))
