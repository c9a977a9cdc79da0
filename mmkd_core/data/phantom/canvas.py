"""The drawing board of the phantom images: grids, noise fields, shapes and exposure on 64 x 64 float32 arrays.

Coordinates run from -1 to 1, x to the right and y downwards. Everything is built on grids and matrices computed once,
so that an image costs about a millisecond. Does not: know any organ or finding.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

SIZE = 64
PIXEL = 2.0 / SIZE
"""Width of one pixel in coordinates."""

Field = NDArray[np.floating[Any]]
"""An image in the making: float32 where it is cheap, wider where a scalar widened it."""
Rng = np.random.Generator
Patient = dict[str, float]
"""Anatomy and habits of one patient, drawn once and shared by all of their images."""
Truth = dict[str, Any]
"""What was drawn: numbers for later questions, and ``side``, ``size``, ``count`` words for captions."""

_AXIS = ((np.arange(SIZE) + 0.5) * PIXEL - 1.0).astype(np.float32)
X: Field = np.ascontiguousarray(np.broadcast_to(_AXIS[None, :], (SIZE, SIZE)))
Y: Field = np.ascontiguousarray(np.broadcast_to(_AXIS[:, None], (SIZE, SIZE)))


@cache
def _upsampler(cells: int) -> Field:
    """Matrix (64, cells + 3) of cubic B-spline weights: smooth interpolation of a coarse grid."""
    at = (np.arange(SIZE) + 0.5) / SIZE * cells
    left = np.floor(at).astype(int)
    t = at - left
    weights = np.stack([(1 - t) ** 3, 3 * t**3 - 6 * t**2 + 4, -3 * t**3 + 3 * t**2 + 3 * t + 1, t**3], 1) / 6
    matrix = np.zeros((SIZE, cells + 3))
    np.put_along_axis(matrix, left[:, None] + np.arange(4), weights, 1)
    return np.asarray(matrix / np.sqrt((matrix**2).sum(1, keepdims=True)), np.float32)


def field(rng: Rng, cells: int) -> Field:
    """Smooth Gaussian noise of unit variance with ``cells`` bumps across the image."""
    up = _upsampler(cells)
    return np.asarray(up @ rng.standard_normal((cells + 3, cells + 3), np.float32) @ up.T)


def grain(rng: Rng) -> Field:
    """White Gaussian noise of unit variance."""
    return rng.standard_normal((SIZE, SIZE), np.float32)


@cache
def _blur_matrix(tenths: int) -> Field:
    distance = np.subtract.outer(np.arange(SIZE), np.arange(SIZE))
    matrix = np.exp(-0.5 * (distance / (tenths / 10)) ** 2)
    return np.asarray(matrix / matrix.sum(1, keepdims=True), np.float32)


def blur(image: Field, down: float, across: float | None = None) -> Field:
    """Gaussian blur; widths in pixels (to a tenth) along y and, if different, along x. Edges keep their level."""
    rows = _blur_matrix(max(1, round(down * 10)))
    columns = rows if across is None else _blur_matrix(max(1, round(across * 10)))
    return np.asarray(rows @ image @ columns.T)


def distance(cx: float, cy: float, rx: float, ry: float | None = None, angle: float = 0.0) -> Field:
    """Normalised radius about an ellipse: 0 at its centre, 1 on its edge."""
    c, s = float(np.cos(angle)), float(np.sin(angle))
    dx, dy = X - np.float32(cx), Y - np.float32(cy)
    along, across = (dx * c + dy * s) / np.float32(rx), (dy * c - dx * s) / np.float32(rx if ry is None else ry)
    return np.asarray(np.sqrt(along * along + across * across))


def wobbly(rng: Rng, cx: float, cy: float, r: float, wobble: float, lobes: int = 5, squash: float = 1.0) -> Field:
    """Normalised radius about an irregular outline: a circle with random harmonics 2..``lobes`` of size ``wobble``."""
    dx, dy = X - np.float32(cx), (Y - np.float32(cy)) / np.float32(squash)
    theta = np.arctan2(dy, dx)
    edge = np.ones_like(theta)
    for k in range(2, lobes + 1):
        edge += np.float32(rng.normal() * wobble / np.sqrt(lobes)) * np.cos(k * theta + np.float32(rng.uniform(0, 7)))
    return np.asarray(np.sqrt(dx * dx + dy * dy) / (np.float32(r) * np.maximum(edge, np.float32(0.35))))


def inside(radius: Field, soft: float = 0.15) -> Field:
    """Mask in 0..1 of where a normalised radius is below one, with an edge ``soft`` wide."""
    return np.asarray(np.clip((1 - radius) / np.float32(soft) + np.float32(0.5), 0, 1))


def ellipse(cx: float, cy: float, rx: float, ry: float | None = None, angle: float = 0.0, soft: float = 0.15) -> Field:
    """Mask of a soft-edged ellipse."""
    return inside(distance(cx, cy, rx, ry, angle), soft)


def ramp(value: Field, width: float = PIXEL * 2) -> Field:
    """0 where ``value`` is below zero, 1 above, with a linear edge ``width`` wide."""
    return np.asarray(np.clip(value / np.float32(width) + np.float32(0.5), 0, 1))


Numbers = NDArray[Any] | float


def stamp(x: Numbers, y: Numbers, rx: Numbers, ry: Numbers, angle: Numbers = 0.0, weight: Numbers = 1.0) -> Field:
    """Sum of many small soft ellipses, each drawn in a patch just large enough. Radii in pixels."""
    values = (np.atleast_1d(np.asarray(v, np.float32)) for v in (x, y, rx, ry, angle, weight))
    x, y, rx, ry, angle, weight = (v[:, None, None] for v in np.broadcast_arrays(*values))
    px, py = (x + 1) / PIXEL - 0.5, (y + 1) / PIXEL - 0.5
    half = int(np.ceil(max(rx.max(initial=0), ry.max(initial=0)) + 0.5))
    pad, step = half + 1, np.arange(-half, half + 1)
    column = np.clip(np.rint(px).astype(np.int32), -1, SIZE) + step[None, None, :]
    row = np.clip(np.rint(py).astype(np.int32), -1, SIZE) + step[None, :, None]
    dx, dy, c, s = column - px, row - py, np.cos(angle), np.sin(angle)
    radius = np.sqrt(np.square((dx * c + dy * s) / rx) + np.square((dy * c - dx * s) / ry))
    value = np.clip((1 - radius) * np.minimum(rx, ry) + np.float32(0.5), 0, 1) * weight
    wide = SIZE + 2 * pad
    flat = np.bincount(((row + pad) * wide + column + pad).ravel(), value.ravel(), wide * wide)
    return flat.reshape(wide, wide)[pad:-pad, pad:-pad].astype(np.float32)


def trace(x: NDArray[Any], y: NDArray[Any], weight: Numbers = 1.0) -> Field:
    """Points splatted bilinearly: with points closer than a pixel, a line one pixel wide (clip and blur as needed)."""
    px, py = (x.ravel() + 1) / PIXEL - 0.5, (y.ravel() + 1) / PIXEL - 0.5
    weight = np.broadcast_to(weight, x.shape).ravel()
    ix, iy = np.floor(px).astype(int), np.floor(py).astype(int)
    fx, fy = px - ix, py - iy
    total = np.zeros(SIZE * SIZE)
    for column, row, share in (
        (ix, iy, (1 - fx) * (1 - fy)),
        (ix + 1, iy, fx * (1 - fy)),
        (ix, iy + 1, (1 - fx) * fy),
        (ix + 1, iy + 1, fx * fy),
    ):
        ok = (column >= 0) & (column < SIZE) & (row >= 0) & (row < SIZE)
        total += np.bincount(row[ok] * SIZE + column[ok], (share * weight)[ok], SIZE * SIZE)
    return total.reshape(SIZE, SIZE).astype(np.float32)


def exposure(rng: Rng) -> Patient:
    """A patient's usual brightness and contrast on this device: independent of any finding."""
    return {"level": rng.uniform(0.36, 0.6), "contrast": rng.uniform(0.13, 0.22)}


def expose(image: Field, patient: Patient, rng: Rng, mask: Field | None = None, cut: bool = True) -> NDArray[np.uint8]:
    """Automatic exposure: mean and spread (within ``mask``) are set to the patient's, so they carry no label.

    Works on gray (64, 64) and on colour (64, 64, 3) images, one gain for all channels. With ``cut`` it is
    black outside the mask.
    """
    weight = np.ones((SIZE, SIZE), np.float32) if mask is None else mask
    gray = image if image.ndim == 2 else image.mean(2)
    mean = float((gray * weight).sum() / weight.sum())
    spread = float(np.sqrt((np.square(gray - mean) * weight).sum() / weight.sum())) + 1e-6
    level = patient["level"] + rng.normal() * 0.03
    gain = patient["contrast"] * np.exp(rng.normal() * 0.1) / spread
    out = (image - np.float32(mean)) * np.float32(gain) + np.float32(level)
    if mask is not None and cut:
        out = out * (mask if image.ndim == 2 else mask[:, :, None])
    return np.asarray(np.clip(out * 255 + 0.5, 0, 255).astype(np.uint8))


def pick(rng: Rng, low: float, high: float) -> float:
    """A uniform number."""
    return float(rng.uniform(low, high))


def sign(rng: Rng) -> float:
    """-1 or 1."""
    return 1.0 if rng.random() < 0.5 else -1.0


def patient_side(x: float) -> str:
    """Radiological convention: the viewer's left is the patient's right."""
    return "right" if x < 0 else "left"


def image_side(x: float) -> str:
    """Side as the viewer sees it."""
    return "left" if x < 0 else "right"


def size_word(value: float, low: float, high: float) -> str:
    """``small``, ``medium-sized`` or ``large`` within a range."""
    return ("small", "medium-sized", "large")[min(2, max(0, int(3 * (value - low) / (high - low))))]
