"""Fundus photograph: pigment, optic disc and cup, a branching vessel tree from the disc, vignetting, camera colour."""

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
    distance,
    expose,
    exposure,
    field,
    grain,
    inside,
    pick,
    ramp,
    sign,
    size_word,
    stamp,
    trace,
)

FINDINGS = ("normal retina", "microaneurysms", "exudate ring", "cupped disc", "vein occlusion")


def patient(rng: Rng) -> Patient:
    """Pigment, camera colour, disc and the course of the vessels."""
    return exposure(rng) | {
        "red": pick(rng, 0.75, 1.05),
        "green": pick(rng, 0.36, 0.62),
        "blue": pick(rng, 0.1, 0.36),
        "pigment": pick(rng, 0.02, 0.09),
        "disc": pick(rng, 0.2, 0.26),
        "cup": pick(rng, 0.2, 0.42),
        "vessel": pick(rng, 0.22, 0.4),
        "arch": pick(rng, 0.5, 0.75),
        "view": pick(rng, 0.9, 1.0),
    }


def _tree(p: Patient, rng: Rng, dx: float, dy: float, s: float) -> tuple[Field, NDArray[np.float64]]:
    """Four arcades from the disc with side branches: (mask, the (n, 2) points of the arcades)."""
    t = np.linspace(0, 1, 60)
    xs, ys, weights, arcades = [], [], [], []
    for up in (-1.0, 1.0):
        for away in (-1.0, 1.0):  # temporal arcades bend round the macula, nasal ones leave the image
            length = pick(rng, 1.25, 1.6) if away < 0 else pick(rng, 0.5, 0.8)
            bend = p["arch"] * pick(rng, 0.85, 1.15)
            wave = 0.03 * np.sin(t * pick(rng, 8, 14) + pick(rng, 0, 6))
            x = dx + s * away * length * t**1.3
            y = dy + up * (bend * np.sin(np.minimum(t * 2.2, 2.6)) * (0.9 if away < 0 else 0.7)) + wave
            arcades.append(np.stack([x, y], 1))
            xs.append(x)
            ys.append(y)
            weights.append(1.5 * (1 - 0.6 * t))
            for _ in range(3):
                at = int(rng.integers(12, 50))
                side, reach = sign(rng), pick(rng, 0.2, 0.5)
                direction = np.arctan2(y[at] - y[at - 3], x[at] - x[at - 3]) + side * pick(rng, 0.4, 0.9)
                xs.append(x[at] + reach * t * np.cos(direction + side * 0.5 * t))
                ys.append(y[at] + reach * t * np.sin(direction + side * 0.5 * t))
                weights.append(0.7 * (1 - 0.6 * t))
    x, y, weight = np.stack(xs), np.stack(ys), np.stack(weights)
    gap = np.hypot(np.diff(x, prepend=x[:, :1]), np.diff(y, prepend=y[:, :1])) / PIXEL
    mask = trace(x, y, weight * np.minimum(gap, 1.5))
    return np.clip(blur(mask, 0.5) * 1.5, 0, 1), np.concatenate(arcades)


def draw(finding: str, p: Patient, rng: Rng) -> tuple[NDArray[np.uint8], Truth]:
    """One macula- or disc-centred photograph of a right or left eye."""
    s = sign(rng)
    dx, dy = s * pick(rng, 0.3, 0.55), rng.normal() * 0.06
    mx, my = dx - s * pick(rng, 0.62, 0.72), dy + 0.05
    truth: Truth = {"eye": "right" if s > 0 else "left"}
    view = ramp(p["view"] - np.hypot(X, Y), 0.05)
    vessels, arcades = _tree(p, rng, dx, dy, s)

    light = 0.6 + p["pigment"] * field(rng, 5) + 0.03 * field(rng, 16)
    light = light - 0.12 * np.exp(-np.square(distance(mx, my, 0.2))) - pick(rng, 0.1, 0.3) * (X * X + Y * Y)
    r = p["disc"] * pick(rng, 0.95, 1.05)
    disc = distance(dx, dy, r, r * pick(rng, 1.0, 1.15))
    ratio = p["cup"] + rng.normal() * 0.02
    if finding == "cupped disc":
        ratio = pick(rng, 0.68, 0.84)
        truth |= {"ratio": ratio}
    glow = pick(rng, 0.18, 0.28)
    light = light + glow * inside(disc, 0.15)
    cup = inside(distance(dx, dy, r * ratio, r * ratio * pick(rng, 1.0, 1.15)), 0.25)
    light = light + pick(rng, 0.2, 0.3) * cup
    blood = p["vessel"] * vessels * (1 - 0.55 * cup)
    yellow = np.zeros_like(X)
    n = int(rng.integers(0, 5))  # a few drusen and a speck of pigment in anybody
    yellow = yellow + 0.12 * stamp(rng.uniform(-0.8, 0.8, n), rng.uniform(-0.8, 0.8, n), 1.0, 1.0)
    blood = blood + 0.25 * stamp(rng.uniform(-0.7, 0.7, 2), rng.uniform(-0.7, 0.7, 2), 0.9, 0.9)
    if finding == "microaneurysms":
        n = int(rng.integers(10, 22))
        t, reach = rng.uniform(0, 2 * np.pi, n), 0.8 * np.sqrt(rng.uniform(0, 1, n))
        size = rng.uniform(0.75, 1.3, n)
        blood = blood + 0.3 * np.minimum(stamp(reach * np.cos(t), reach * np.sin(t), size, size), 1)
        truth |= {"count": "several" if n < 15 else "many", "n": n}
    if finding == "exudate ring":
        n, ring = int(rng.integers(9, 15)), pick(rng, 0.22, 0.36)
        cx, cy = mx + rng.normal() * 0.08, my + rng.normal() * 0.12
        t = (np.arange(n) + rng.uniform(-0.3, 0.3, n)) / n * pick(rng, 4.6, 6.3) + pick(rng, 0, 6)
        rr = ring * rng.uniform(0.88, 1.12, n)
        spots = stamp(cx + rr * np.cos(t), cy + rr * np.sin(t), rng.uniform(0.9, 1.7, n), rng.uniform(0.8, 1.3, n))
        yellow = yellow + pick(rng, 0.15, 0.25) * np.minimum(spots, 1)
        truth |= {"size": size_word(ring, 0.22, 0.36), "x": cx, "y": cy}
    if finding == "vein occlusion":
        up = sign(rng)
        near = arcades[((arcades[:, 1] - dy) * up > 0.05) & (np.hypot(arcades[:, 0], arcades[:, 1]) < 0.85)]
        n = int(rng.integers(10, 20))
        at = near[rng.integers(0, len(near), n)] + rng.normal(0, 0.11, (n, 2))
        angle = np.arctan2(at[:, 1] - dy, at[:, 0] - dx) + rng.normal(0, 0.15, n)
        flames = stamp(at[:, 0], at[:, 1], rng.uniform(2.2, 4.2, n), rng.uniform(0.6, 1.1, n), angle)
        blood = blood + pick(rng, 0.22, 0.34) * np.minimum(flames, 1.1)
        truth |= {"place": "upper" if up < 0 else "lower", "n": n}

    light = light + 0.018 * grain(rng)
    image = np.empty((64, 64, 3), np.float32)
    image[:, :, 0] = p["red"] * (light - 0.35 * blood + 0.6 * yellow)
    image[:, :, 1] = p["green"] * (light - 1.25 * blood + 1.3 * yellow) + 0.12 * (light - 0.6)
    image[:, :, 2] = p["blue"] * (light - 0.8 * blood + 0.4 * yellow)
    image = image + 0.012 * rng.standard_normal((64, 64, 3), np.float32)
    return expose(image, {"level": p["level"], "contrast": p["contrast"] * 0.65}, rng, view), truth
