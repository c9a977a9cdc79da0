"""Brain MRI: tissue classes with T1- or T2-like contrast, a smooth bias field and Rician noise."""

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

FINDINGS = (
    "normal brain",
    "ring-enhancing lesion",
    "multiple small lesions",
    "mass with midline shift",
    "enlarged ventricles",
)


class _Pose(NamedTuple):
    """Shift and rotation of the head, and the side (-1 or 1) that a one-sided finding takes."""

    sx: float
    sy: float
    cos: np.float32
    sin: np.float32
    side: float

    def image(self, x: float, y: float) -> tuple[float, float]:
        """From the head's coordinates to the image's."""
        return float(x * self.cos - y * self.sin) + self.sx, float(x * self.sin + y * self.cos) + self.sy


class _Tissue(NamedTuple):
    """Signal of the three tissues under the sequence's weighting."""

    csf: float
    gray: float
    white: float


def patient(rng: Rng) -> Patient:
    """Head size, folds, ventricles; sequence weighting and coil."""
    return exposure(rng) | {
        "rx": pick(rng, 0.62, 0.74),
        "ry": pick(rng, 0.78, 0.88),
        "tilt": rng.normal() * 0.08,
        "cortex": pick(rng, 0.1, 0.17),
        "ventricle": pick(rng, 0.75, 1.15),
        "t2": float(rng.random() < 0.5),
        "white": pick(rng, 0.62, 0.8),
        "bias": pick(rng, 0.05, 0.2),
        "noise": pick(rng, 0.025, 0.06),
    }


def draw(finding: str, p: Patient, rng: Rng) -> tuple[NDArray[np.uint8], Truth]:
    """One axial slice through the lateral ventricles."""
    angle = p["tilt"] + rng.normal() * 0.03
    c, n = np.float32(np.cos(angle)), np.float32(np.sin(angle))
    pose = _Pose(rng.normal() * 0.03, rng.normal() * 0.03, c, n, sign(rng))
    dx, dy = X - np.float32(pose.sx), Y - np.float32(pose.sy)
    x, y = dx * c + dy * n, dy * c - dx * n
    head = np.hypot(x / np.float32(p["rx"] + 0.12), y / np.float32(p["ry"] + 0.1))
    brain = np.hypot(x / np.float32(p["rx"]), y / np.float32(p["ry"])) + 0.015 * field(rng, 6)
    kind = _Tissue(1.0, 0.7, p["white"] / 1.4) if p["t2"] else _Tissue(0.22, 0.55, p["white"])

    scale, pushed, truth = p["ventricle"], x, Truth()
    if finding == "mass with midline shift":
        pushed, truth = _push(pose, rng, x, y)
    if finding == "enlarged ventricles":
        scale *= pick(rng, 1.8, 2.4)
        truth = {"scale": scale}
    tissue = _anatomy(p, kind, rng, 1 - brain, pushed, y)
    tissue = tissue + (kind.csf - tissue) * inside(_ventricles(pushed, y, scale), 0.35)
    tissue = tissue + pick(rng, 0, 0.25) * stamp(rng.uniform(-0.5, 0.5, 2), rng.uniform(-0.6, 0.6, 2), 0.9, 0.9)
    if finding == "mass with midline shift":
        mass = wobbly(rng, truth["x"], truth["y"], truth["r"], 0.15)
        oedema = np.clip(inside(mass * 0.72, 0.5) - inside(mass, 0.3), 0, 1)
        tissue = tissue + (kind.csf - tissue) * 0.45 * oedema
        tissue = tissue + (kind.gray + 0.09 * field(rng, 10) - tissue) * inside(mass, 0.2)
    if finding == "ring-enhancing lesion":
        tissue, truth = _ring(kind, pose, rng, tissue)
    if finding == "multiple small lesions":
        tissue, truth = _foci(p, pose, rng, tissue)

    scalp: Field = 0.9 * inside(head, 0.05) * (head > 0.9) * pick(rng, 0.4, 1.0)
    signal: Field = scalp + (tissue - scalp) * inside(brain, 0.05)
    signal = blur((signal * np.exp(p["bias"] * field(rng, 2))).astype(np.float32), 0.55)
    rician = np.hypot(signal + p["noise"] * grain(rng), p["noise"] * grain(rng))
    return expose(rician, p, rng, inside(head, 0.05), cut=False), truth


def _anatomy(p: Patient, kind: _Tissue, rng: Rng, depth: Field, x: Field, y: Field) -> Field:
    """Cortex and sulci by depth below the skull, white matter, deep nuclei, the midline fissure."""
    folds = np.abs(field(rng, 8))
    depth = depth + 0.09 * (folds - 0.8)
    tissue = np.where(depth > p["cortex"], np.float32(kind.white), np.float32(kind.gray)) + 0.03 * field(rng, 12)
    tissue = np.where((folds < 0.13) & (depth < p["cortex"] * 1.5), np.float32(kind.csf), tissue)
    nuclei = np.hypot((np.abs(x) - 0.24) / 0.1, (y - 0.02) / 0.16)
    tissue = tissue + (kind.gray - tissue) * inside(nuclei, 0.4)
    fissure = np.clip(1.3 - np.abs(x) / 0.022, 0, 1) * (np.abs(y) > 0.34)
    return np.asarray(tissue + (kind.csf - tissue) * fissure * 0.8)


def _ventricles(x: Field, y: Field, scale: float) -> Field:
    """Normalised radius of the lateral ventricles: frontal and occipital horns either side of the midline."""
    best = np.full_like(x, 9)
    for s in (-1.0, 1.0):
        for cx, cy, rx, ry, a in ((0.1, -0.16, 0.05, 0.19, 0.4), (0.12, 0.2, 0.05, 0.2, -0.5)):
            c, n = np.float32(np.cos(a * s)), np.float32(np.sin(a * s))
            dx, dy = x - np.float32(s * cx * (0.6 + 0.4 * scale)), y - np.float32(cy)
            u, v = (
                (dx * c + dy * n) / np.float32(rx * scale),
                (dy * c - dx * n) / np.float32(ry * (0.55 + 0.45 * scale)),
            )
            best = np.minimum(best, np.sqrt(u * u + v * v))
    return best


def _push(pose: _Pose, rng: Rng, x: Field, y: Field) -> tuple[Field, Truth]:
    """Coordinates in which the midline is displaced by a mass, and the mass."""
    r, my, push = pick(rng, 0.2, 0.3), pick(rng, -0.3, 0.3), pick(rng, 0.11, 0.18)
    gx, gy = pose.image(pose.side * pick(rng, 0.34, 0.4), my)
    warped = x + np.float32(pose.side * push) * np.exp(-np.square(x / 0.45) - np.square((y - my) / 0.5))
    words = {"side": patient_side(pose.side), "size": size_word(r, 0.2, 0.3)}
    return warped.astype(np.float32), words | {"r": r, "shift": push, "x": gx, "y": gy}


def _ring(kind: _Tissue, pose: _Pose, rng: Rng, tissue: Field) -> tuple[Field, Truth]:
    """One lesion with a bright rim and a centre between tissue and fluid."""
    r, t = pick(rng, 0.13, 0.22), pick(rng, -1.1, 1.1)
    gx, gy = pose.image(pose.side * 0.38 * float(np.cos(t)), 0.48 * float(np.sin(t)))
    edge = wobbly(rng, gx, gy, r, 0.12)
    tissue = tissue + (0.8 * kind.gray + 0.2 * kind.csf - tissue) * inside(edge, 0.2)
    rim = np.clip(1.5 - np.abs(edge - 0.9) * np.float32(r / 0.03), 0, 1)
    tissue = tissue + (kind.gray + pick(rng, 0.3, 0.42) - tissue) * rim
    return tissue, {"side": patient_side(pose.side), "size": size_word(r, 0.13, 0.22), "r": r, "x": gx, "y": gy}


def _foci(p: Patient, pose: _Pose, rng: Rng, tissue: Field) -> tuple[Field, Truth]:
    """Five to ten small bright lesions in both hemispheres."""
    n = int(rng.integers(5, 11))
    t, reach = rng.uniform(0, 2 * np.pi, n), rng.uniform(0.25, 0.75, n)
    x, y = reach * p["rx"] * np.cos(t) + pose.sx, reach * p["ry"] * np.sin(t) + pose.sy
    spots = stamp(x, y, rng.uniform(1.2, 2.2, n), rng.uniform(1.0, 1.8, n), rng.uniform(0, 3, n))
    truth = {"count": "several" if n < 8 else "many", "n": n}
    return tissue + np.float32(pick(rng, 0.3, 0.42)) * np.minimum(spots, 1), truth
