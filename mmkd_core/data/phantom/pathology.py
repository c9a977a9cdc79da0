"""H&E histology: nuclei, cytoplasm and fibres as stain densities, mixed by optical density (Beer-Lambert).

Stain vectors after Ruifrok and Johnston (2001), varied by slide. The mean and spread of both stains are those of
the slide, whatever the tissue, so that neither colour nor darkness gives the finding away.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from mmkd_core.data.phantom.canvas import (
    PIXEL,
    Field,
    Patient,
    Rng,
    Truth,
    X,
    Y,
    blur,
    exposure,
    field,
    grain,
    image_side,
    pick,
    ramp,
    stamp,
)

FINDINGS = ("normal glands", "dense lymphocytes", "tumour sheets", "necrosis", "fibrosis")
_HEMATOXYLIN = np.array([0.65, 0.70, 0.29], np.float32)
_EOSIN = np.array([0.12, 0.95, 0.25], np.float32)


def patient(rng: Rng) -> Patient:
    """The slide: stain strength and hue, thickness, gland size."""
    return exposure(rng) | {
        "hematoxylin": pick(rng, 0.28, 0.5),
        "eosin": pick(rng, 0.22, 0.45),
        "spread_h": pick(rng, 0.4, 0.75),
        "spread_e": pick(rng, 0.3, 0.75),
        "bend_h": rng.normal() * 0.25,
        "bend_e": rng.normal() * 0.25,
        "hue_h": rng.normal() * 0.06,
        "hue_e": rng.normal() * 0.06,
        "gland": pick(rng, 0.22, 0.32),
        "nucleus": pick(rng, 1.25, 1.6),
    }


def _scatter(rng: Rng, gap: float) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Points on a jittered grid, about ``gap`` pixels apart."""
    n = int(64 / gap) + 1
    axis = (np.arange(n) + 0.5) * gap * PIXEL - 1
    x, y = np.meshgrid(axis, axis)
    jitter = gap * PIXEL * 0.38
    return x.ravel() + rng.uniform(-jitter, jitter, n * n), y.ravel() + rng.uniform(-jitter, jitter, n * n)


def _sample(values: Field, x: NDArray[np.float64], y: NDArray[np.float64]) -> NDArray[np.float32]:
    column, row = (np.clip((v + 1) / PIXEL, 0, 63).astype(int) for v in (x, y))
    return np.asarray(values[row, column])


def _glands(p: Patient, rng: Rng) -> tuple[Field, Field]:
    """Rings of nuclei about pale lumens in a loose stroma: (hematoxylin, eosin)."""
    ox, oy = rng.uniform(-0.3, 0.3, 2)
    pitch = p["gland"] * 2.5
    i, j = (v.ravel() for v in np.meshgrid(np.arange(-3, 4), np.arange(-3, 4)))
    cx = ox + (i + 0.5 * (j % 2)) * pitch + rng.normal(0, 0.05, i.size)
    cy = oy + j * pitch * 0.87 + rng.normal(0, 0.05, i.size)
    near = np.maximum(np.abs(cx), np.abs(cy)) < 1.1 + 0.5 * p["gland"]
    cx, cy, n = cx[near], cy[near], int(near.sum())
    r, squash = p["gland"] * rng.uniform(0.75, 1.1, n), rng.uniform(0.65, 1.0, n)
    turn, lumen = rng.uniform(0, 3.1, n), rng.uniform(0.35, 0.6, n)
    size = r / PIXEL
    cells = np.minimum(stamp(cx, cy, 1.1 * size, 1.1 * size * squash, turn), 1)
    holes = np.minimum(stamp(cx, cy, lumen * size, lumen * size * squash, turn), 1)
    e = 0.45 + 0.12 * field(rng, 7) + 0.4 * cells - 0.85 * holes
    around = int(2 * np.pi * p["gland"] / PIXEL / 3.2)
    t = (np.arange(around) / around * 2 * np.pi)[None, :] + rng.normal(0, 0.08, (n, around))
    u, v = 0.95 * r[:, None] * np.cos(t), 0.95 * (r * squash)[:, None] * np.sin(t)
    c, s = np.cos(turn)[:, None], np.sin(turn)[:, None]
    x, y = (cx[:, None] + u * c - v * s).ravel(), (cy[:, None] + u * s + v * c).ravel()
    seen = np.maximum(np.abs(x), np.abs(y)) < 1.05
    lean = (t + turn[:, None]).ravel()[seen]
    h = stamp(x[seen], y[seen], p["nucleus"] * 1.15, p["nucleus"] * 0.85, lean)
    x, y = _scatter(rng, 11)
    return h + stamp(x, y, p["nucleus"] * 1.2, p["nucleus"] * 0.6, rng.uniform(0, 3.1, x.size)), e


def _region(rng: Rng, low: float, high: float) -> tuple[Field, Truth]:
    """Part of the field that the finding takes over: a half plane with a ragged edge, in any direction."""
    turn, share = pick(rng, 0, 2 * np.pi), pick(rng, low, high)
    c, s = np.float32(np.cos(turn)), np.float32(np.sin(turn))
    mask = ramp(share - 1 - (X * c + Y * s) + 0.22 * field(rng, 4), 0.12)
    return mask, {"side": image_side(-float(c)), "share": share / 2}


def draw(finding: str, p: Patient, rng: Rng) -> tuple[NDArray[np.uint8], Truth]:
    """One field of view of a section."""
    h, e = _glands(p, rng)
    truth: Truth = {}
    if finding != "normal glands":
        region, truth = _region(rng, 0.6, 1.1)
        new_h, new_e = _TISSUES[finding](p, rng, region)
        h, e = h * (1 - region) + new_h, e + (new_e - e) * region
    n = int(rng.integers(5, 26))  # stray lymphocytes and a small aggregate are in every tissue
    x, y = np.concatenate([rng.uniform(-1, 1, (2, 6)), rng.uniform(-0.8, 0.8, (2, 1)) + rng.normal(0, 0.13, (2, n))], 1)
    h = np.clip(h + stamp(x, y, p["nucleus"], p["nucleus"]), 0, 1.15)
    h = blur(h * (1 + 0.12 * grain(rng)), 0.5) + 0.08 * field(rng, 5) + 0.03 * grain(rng)
    e = blur(e.astype(np.float32), 0.5) + 0.09 * field(rng, 16) + 0.03 * grain(rng)
    stain_h = _HEMATOXYLIN + np.array([p["hue_h"], 0, -p["hue_h"]], np.float32)
    stain_e = _EOSIN + np.array([p["hue_e"], -p["hue_e"], p["hue_e"]], np.float32)
    od = _stain(h, p, "h", p["hematoxylin"], rng)[:, :, None] * stain_h
    od = od + _stain(e, p, "e", p["eosin"], rng)[:, :, None] * stain_e
    lamp = 0.93 + 0.04 * np.tanh(rng.normal())
    return np.asarray((255 * lamp * np.exp(-od)).astype(np.uint8)), truth


def _stain(density: Field, p: Patient, which: str, strength: float, rng: Rng) -> Field:
    """Density with the mean, the spread and (by a bend) the skewness of the slide's stain."""
    strength = strength * float(np.exp(rng.normal() * 0.08))
    z = (density - density.mean()) / (density.std() + 1e-6)
    bent = np.expm1(np.clip(p["bend_" + which] * z, -2, 2)) / (p["bend_" + which] + 1e-6)
    out = (bent - bent.mean()) / (bent.std() + 1e-6) * (p["spread_" + which] * strength) + strength
    return np.asarray(np.clip(out, 0, 2.2))


def _lymphocytes(p: Patient, rng: Rng, region: Field) -> tuple[Field, Field]:
    x, y = _scatter(rng, 3.9)
    r = p["nucleus"] * rng.uniform(0.9, 1.15, x.size)
    keep = _sample(region, x, y) > 0.5
    return stamp(x[keep], y[keep], r[keep], r[keep]), 0.5 + 0.1 * field(rng, 8)


def _tumour(p: Patient, rng: Rng, region: Field) -> tuple[Field, Field]:
    x, y = _scatter(rng, 6.2)
    r = p["nucleus"] * rng.uniform(1.25, 2.1, x.size)
    weight = (_sample(region, x, y) > 0.5) * rng.uniform(0.6, 1.0, x.size)
    h = stamp(x, y, r, r * rng.uniform(0.65, 1.0, x.size), rng.uniform(0, 3.1, x.size), weight)
    h = np.minimum(h, 1) * (0.85 + 0.15 * field(rng, 20))
    return h, 0.65 + 0.1 * field(rng, 10)


def _necrosis(p: Patient, rng: Rng, region: Field) -> tuple[Field, Field]:
    x, y = _scatter(rng, 5.5)
    weight = (_sample(region, x, y) > 0.5) * (rng.random(x.size) < 0.55) * rng.uniform(0.2, 0.9, x.size)
    debris = stamp(x, y, rng.uniform(0.4, 0.9, x.size), rng.uniform(0.4, 0.8, x.size), 0.0, weight)
    ghosts = 0.1 * np.abs(field(rng, 20))
    return debris + ghosts * region, 0.6 + 0.25 * field(rng, 24) + 0.1 * grain(rng)


def _fibrosis(p: Patient, rng: Rng, region: Field) -> tuple[Field, Field]:
    turn = pick(rng, 0, np.pi)
    c, s = np.float32(np.cos(turn)), np.float32(np.sin(turn))
    wave = 0.12 * np.sin(4 * (X * c + Y * s) + pick(rng, 0, 6)) + 0.08 * field(rng, 3)
    fibres = np.sin((Y * c - X * s + wave) * np.float32(pick(rng, 24, 36)))
    x, y = _scatter(rng, 7.5)
    angle = turn + rng.normal(0, 0.15, x.size)
    weight = _sample(region, x, y) > 0.5
    return stamp(x, y, p["nucleus"] * 2.1, p["nucleus"] * 0.5, angle, weight), 0.62 + 0.2 * fibres


_TISSUES = {
    "dense lymphocytes": _lymphocytes,
    "tumour sheets": _tumour,
    "necrosis": _necrosis,
    "fibrosis": _fibrosis,
}
