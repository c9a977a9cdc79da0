"""Retinal OCT: reflectivity of layers by depth between two surfaces, a foveal pit, attenuation and speckle."""

from __future__ import annotations

from dataclasses import dataclass

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
    image_side,
    pick,
    ramp,
    size_word,
    stamp,
)

FINDINGS = ("normal layers", "cystoid spaces", "drusen", "subretinal fluid", "epiretinal membrane")
# (depth, log reflectivity) at the edges of the layers; depth 0 is the inner surface, 0.92 the photoreceptors' end
_LAYERS = np.array(
    [
        (-9, -2.2), (-0.02, -2.2), (0, 0.6), (0.14, 0.6), (0.17, 0), (0.36, 0), (0.4, -0.7), (0.5, -0.7), (0.53, 0.1),
        (0.6, 0.1), (0.63, -0.9), (0.84, -0.9), (0.87, 0.7), (0.91, 0.7), (0.94, 1), (1.06, 1), (1.1, 0.1), (1.5, -0.6),
        (9, -1.6),
    ],
)  # fmt: skip
_END = 0.92
_ROW = X[0]


@dataclass
class _Surfaces:
    """Heights of the surfaces in each column (64,), and what lies between them."""

    fovea: float
    rpe: Field
    """Pigment epithelium without bumps."""
    pit: Field
    thick: Field
    bump: Field
    fluid: Field
    line: Field | None = None
    """Height of a membrane; its mask is ``reach`` about ``centre``."""
    centre: float = 0.0
    reach: float = 0.0

    @property
    def base(self) -> Field:
        """Pigment epithelium."""
        return self.rpe - self.bump

    @property
    def outer(self) -> Field:
        """End of the neural retina, lifted by fluid."""
        return self.base - self.fluid

    @property
    def inner(self) -> Field:
        """Surface towards the vitreous: follows what lies below, smoothed."""
        smooth = blur(np.broadcast_to(self.bump, X.shape), 1, 4)[0]
        inner: Field = self.rpe - 0.4 * smooth - 0.7 * self.fluid - self.thick + self.pit
        return inner


def patient(rng: Rng) -> Patient:
    """Retinal thickness, pit, curvature, layer contrast and signal strength."""
    return exposure(rng) | {
        "top": pick(rng, -0.5, -0.1),
        "thick": pick(rng, 0.52, 0.7),
        "pit": pick(rng, 0.12, 0.3),
        "pit_width": pick(rng, 0.22, 0.36),
        "curve": pick(rng, -0.08, 0.22),
        "contrast_layers": pick(rng, 0.6, 1.0),
        "haze": pick(rng, 0.05, 0.14),
    }


def draw(finding: str, p: Patient, rng: Rng) -> tuple[NDArray[np.uint8], Truth]:
    """One B-scan: inner retina above, choroid below."""
    at = _healthy(p, rng)
    truth = _change(finding, at, rng)
    inner, outer, base = at.inner, at.outer, at.base
    depth = (Y - inner) / np.maximum(outer - inner, 0.15) * _END
    below = _END + (Y - base) / p["thick"]
    depth = np.where(outer < Y, np.maximum(below, _END), depth)
    light = np.interp(depth, *_LAYERS.T).astype(np.float32) * np.float32(p["contrast_layers"])
    light = light + (-1.9 - light) * ramp(Y - outer) * ramp(base - Y - 0.02) * (at.fluid > 0.02)
    light = light + (0.1 - light) * ramp(Y - base - 0.05) * ramp(at.rpe - Y) * (at.bump > 0.03) * 0.8
    light = light + 0.12 * field(rng, 10) + 0.35 * field(rng, 14) * (below > 1.12)
    if finding == "cystoid spaces":
        n = int(rng.integers(3, 8))
        x = at.fovea + rng.normal(0, 0.28, n)
        y = np.interp(x, _ROW, inner) + np.interp(x, _ROW, outer - inner) * rng.uniform(0.28, 0.7, n)
        holes = stamp(x, y, rng.uniform(1.6, 3.6, n), rng.uniform(1.6, 2.8, n))
        light = light + (-1.9 - light) * np.minimum(holes, 1)
        truth = {"count": "a few" if n < 5 else "many", "n": n}
    light = _nuisance(light, depth, inner, rng)
    if at.line is not None:
        on = np.clip(1.3 - np.abs(Y - at.line) / 0.03, 0, 1) * ramp(at.reach - np.abs(X - at.centre), 0.1)
        light = light + (1.25 - light) * np.minimum(on, 1)
    speckle = np.hypot(blur(grain(rng), 0.45, 0.7), blur(grain(rng), 0.45, 0.7))
    power = np.exp(light) * (0.35 + 0.65 * speckle / speckle.mean()) + p["haze"] * (1 + 0.5 * grain(rng))
    return expose(np.log(np.maximum(power, 0.04)), p, rng), truth


def _healthy(p: Patient, rng: Rng) -> _Surfaces:
    """A retina as it lies in this scan; three scans in ten miss the fovea and show no pit."""
    x, fovea = _ROW, pick(rng, -0.35, 0.35)
    rpe = p["top"] + p["thick"] + p["curve"] * x**2 + rng.normal() * 0.12 * x + field(rng, 3)[0] * 0.02
    pit = p["pit"] * np.exp(-np.square((x - fovea) / p["pit_width"])) * (rng.random() > 0.3)
    nothing = np.zeros_like(x)
    return _Surfaces(
        fovea, rpe + rng.normal() * 0.04, pit, nothing + p["thick"] + rng.normal() * 0.02, nothing, nothing
    )


def _change(finding: str, at: _Surfaces, rng: Rng) -> Truth:
    """Deform the surfaces as the finding does."""
    x = _ROW
    if finding == "cystoid spaces":
        at.thick = at.thick + pick(rng, 0.04, 0.12) * np.exp(-np.square((x - at.fovea) / 0.4))
        at.pit = at.pit * 0.4
    if finding == "drusen":
        n = int(rng.integers(3, 7))
        centres = np.linspace(-0.85, 0.85, n) + rng.normal(0, 0.08, n)
        highs, wides = rng.uniform(0.07, 0.14, n), rng.uniform(0.06, 0.13, n)
        bumps = highs[:, None] * np.exp(-np.square((x - centres[:, None]) / wides[:, None]))
        at.bump = bumps.max(0).astype(np.float32)
        return {"count": "a few" if n < 5 else "many", "n": n}
    if finding == "subretinal fluid":
        cx, high, wide = at.fovea + rng.normal() * 0.1, pick(rng, 0.13, 0.24), pick(rng, 0.3, 0.55)
        at.fluid = high * np.clip(1 - np.square((x - cx) / wide), 0, 1)
        return {"size": size_word(high, 0.13, 0.24), "side": image_side(cx), "x": cx, "height": high}
    if finding == "epiretinal membrane":
        at.pit = at.pit * pick(rng, 0.0, 0.5)
        at.thick = (
            at.thick + pick(rng, 0.02, 0.04) * np.sin(x * pick(rng, 18, 28) + pick(rng, 0, 6)) + pick(rng, 0, 0.08)
        )
        at.centre, at.reach, gap = at.fovea + rng.normal() * 0.2, pick(rng, 0.45, 0.9), pick(rng, 0.05, 0.09)
        at.line = at.inner - gap * (0.5 + 0.5 * np.sin(x * 9 + at.centre * 5))
        return {"size": size_word(at.reach, 0.45, 0.9)}
    return {}


def _nuisance(light: Field, depth: Field, inner: Field, rng: Rng) -> Field:
    """Shadows of vessels and bright specks, in every class."""
    for _ in range(rng.integers(1, 4)):
        shade = np.clip(1 - np.abs(X - pick(rng, -0.9, 0.9)) / pick(rng, 0.04, 0.08), 0, 1) * ramp(depth - 0.1, 0.1)
        light = light - pick(rng, 0.2, 0.7) * shade
    n = int(rng.integers(0, 3))
    x = rng.uniform(-0.9, 0.9, n)
    return light + 0.8 * stamp(x, np.interp(x, _ROW, inner) + rng.uniform(0.1, 0.4, n), 0.8, 0.8)
