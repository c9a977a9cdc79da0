"""Chest x-ray: line integrals of soft tissue, air, bone and heart through Beer-Lambert, with quantum noise."""

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
    ramp,
    sign,
    size_word,
    stamp,
)

FINDINGS = ("no finding", "nodule", "pleural effusion", "pneumothorax", "enlarged heart")


class _Pose(NamedTuple):
    """Where the patient stands in this image, and the side (-1 or 1) that a one-sided finding takes."""

    shift: float
    lift: float
    x: Field
    y: Field
    side: float


def patient(rng: Rng) -> Patient:
    """Habitus: lung size and place, heart, diaphragm, ribs, tube settings."""
    return exposure(rng) | {
        "width": pick(rng, 0.3, 0.38),
        "height": pick(rng, 0.6, 0.74),
        "gap": pick(rng, 0.4, 0.48),
        "top": pick(rng, -0.15, 0.02),
        "heart": pick(rng, 0.22, 0.29),
        "axis": pick(rng, 0.3, 0.8),
        "dome": pick(rng, 0.32, 0.55),
        "ribs": pick(rng, 9.5, 13.0),
        "bone": pick(rng, 0.15, 0.4),
        "fat": pick(rng, 0.2, 0.7),
        "dose": pick(rng, 250, 800),
    }


def draw(finding: str, p: Patient, rng: Rng) -> tuple[NDArray[np.uint8], Truth]:
    """One frontal chest radiograph: attenuation ``mu`` is summed along the beam, then exposed."""
    shift, lift = rng.normal() * 0.05, rng.normal() * 0.05
    pose = _Pose(shift, lift, X - np.float32(shift), Y - np.float32(lift), sign(rng))
    dome = p["dome"] + rng.normal() * 0.04 + 0.5 * (np.abs(pose.x) - p["gap"]) ** 2
    dome = dome + 0.03 * np.sign(pose.x) + 0.03 * field(rng, 3)
    right, left = (_lung(p, pose, s) for s in (-1.0, 1.0))
    air: Field = (inside(right) + inside(left)) * ramp(dome - pose.y, 0.1)
    markings = 0.10 * np.abs(field(rng, 14)) + 0.05 * field(rng, 6)
    size, truth = p["heart"] + rng.normal() * 0.01, Truth()
    if finding == "pneumothorax":
        markings, truth = _pneumothorax(p, pose, rng, air * (pose.x * pose.side > 0), markings)
    if finding == "pleural effusion":
        air, truth = _effusion(p, pose, rng, air)
    if finding == "enlarged heart":
        size *= pick(rng, 1.4, 1.75)
        truth = {"ratio": size / (p["gap"] + p["width"])}
    heart = ellipse(0.09 + shift, p["dome"] - 0.12 + lift, size * 1.15, size * 0.9, p["axis"], 0.25)
    heart = np.maximum(heart, ellipse(0.02 + shift, -0.2 + lift, 0.13, 0.5, 0, 0.4) * 0.8)

    mu = _thorax(p, pose, rng) - air * (0.72 - markings) * (1 - 0.92 * heart) + 0.16 * heart
    dots = rng.integers(1, 5)  # vessels seen end on, in every class
    mu = mu + 0.2 * stamp(rng.uniform(-0.75, 0.75, dots), rng.uniform(-0.6, 0.4, dots), 1.1, 1.1)
    if finding == "nodule":
        shadow, truth = _nodule(p, pose, rng)
        mu = mu + shadow
    counts = p["dose"] * np.exp(-blur(mu.astype(np.float32), 0.7))
    noisy = np.maximum(counts + np.sqrt(counts) * grain(rng), 1)  # Poisson in its normal limit
    return expose(-np.log(noisy), p, rng), truth


def _lung(p: Patient, pose: _Pose, s: float) -> Field:
    return distance(s * p["gap"] + pose.shift, p["top"] + pose.lift, p["width"], p["height"], -0.12 * s)


def _thorax(p: Patient, pose: _Pose, rng: Rng) -> Field:
    """Soft tissue, ribs, spine, clavicles and hila."""
    x, y, shift, lift = pose.x, pose.y, pose.shift, pose.lift
    body = np.sqrt(np.clip(1 - distance(shift, 0.3 + lift, 1.06, 1.6) ** 2, 0, 1))
    cage = inside(distance(shift, 0.1 + lift, 0.86, 1.05))
    ribs = np.sin((y + 0.55 * (np.abs(x) - 0.1) ** 2 + 0.1 * np.abs(x)) * np.float32(p["ribs"] * 1.05))
    ribs = np.clip(ribs * 2.2 - 1.1, 0, 1) * cage * (np.abs(x) > 0.09)
    spine = ramp(0.09 - np.abs(x), 0.06) * (1 + 0.15 * np.sin(np.float32(24) * y))
    clavicle = np.clip(1 - np.abs(y + 0.68 - 0.22 * np.abs(x)) / 0.06, 0, 1) * (np.abs(x) < 0.75)
    mu = 1.0 * body + p["fat"] * 0.4 * (1 - cage) * body + 0.08 * field(rng, 3)
    mu = mu + p["bone"] * 0.55 * ribs + 0.28 * spine + p["bone"] * 0.7 * clavicle
    for s in (-1.0, 1.0):
        cx, cy = s * 0.2 + shift + rng.normal() * 0.02, lift + rng.normal() * 0.05
        mu = mu + pick(rng, 0.06, 0.2) * inside(distance(cx, cy, 0.09, 0.17), 0.9)
    return np.asarray(mu)


def _pneumothorax(p: Patient, pose: _Pose, rng: Rng, lung: Field, markings: Field) -> tuple[Field, Truth]:
    """The lung has shrunk: a pleural line, and no markings between it and the chest wall."""
    depth = pick(rng, 0.17, 0.32)
    cx, cy = pose.side * (p["gap"] - depth * 0.35) + pose.shift, p["top"] + pose.lift + depth * 0.35
    edge = distance(cx, cy, p["width"] * (1 - depth), p["height"] * (1 - 0.7 * depth), -0.12 * pose.side)
    beyond = ramp(edge - 1, 0.06) * lung
    line = np.clip(1 - np.abs(edge - 1) / 0.09, 0, 1) * lung * (pose.x * pose.side > 0.25)
    truth = {"side": patient_side(pose.side), "size": size_word(depth, 0.17, 0.32), "depth": depth}
    return markings * (1 - beyond) + 0.22 * line - 0.09 * beyond, truth


def _effusion(p: Patient, pose: _Pose, rng: Rng, air: Field) -> tuple[Field, Truth]:
    """Fluid at one base: its level climbs towards the chest wall."""
    height = pick(rng, 0.14, 0.42)
    lateral = np.clip((pose.x * pose.side - p["gap"] + p["width"]) / (2 * p["width"]), 0, 1.1)
    level = p["dome"] + 0.12 - height - 0.32 * lateral**3
    fluid = ramp(pose.y - level, 0.07) * (pose.x * pose.side > 0)
    return air * (1 - fluid), {
        "side": patient_side(pose.side),
        "size": size_word(height, 0.14, 0.42),
        "height": height,
    }


def _nodule(p: Patient, pose: _Pose, rng: Rng) -> tuple[Field, Truth]:
    """A round shadow anywhere in one lung."""
    r, turn, reach = pick(rng, 0.085, 0.15), pick(rng, 0, 2 * np.pi), np.sqrt(pick(rng, 0.05, 0.55))
    middle = p["top"] + pose.lift
    cx = pose.side * (p["gap"] + 0.03) + pose.shift + 0.9 * p["width"] * reach * np.cos(turn)
    cy = max(-0.6, min(p["dome"] - 0.2, middle + p["height"] * reach * np.sin(turn)))
    shadow = pick(rng, 0.36, 0.52) * inside(distance(cx, cy, r, r * pick(rng, 0.85, 1.15)), 0.4)
    place = "upper" if cy < middle - 0.15 else "lower" if cy > middle + 0.2 else "middle"
    words = {"side": patient_side(pose.side), "size": size_word(r, 0.085, 0.15), "place": place}
    return shadow, words | {"x": cx, "y": cy, "r": r}
