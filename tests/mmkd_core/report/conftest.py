"""An invented but plausible run: four teachers, eight domains, two releases. No number here was measured."""

from __future__ import annotations

import copy
import math
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

sys.path.append(str(Path(__file__).parent))  # for chromium.py

DOMAINS = ("xray", "ct", "mri", "ultrasound", "pathology", "dermatology", "fundus", "oct")
TEACHERS = {
    "phantom-radio": ("xray", "ct"),
    "phantom-lens": ("fundus", "oct"),
    "phantom-tissue": ("pathology", "dermatology"),
    "phantom-sono": ("mri", "ultrasound"),
}


def _around(value: float, half: float) -> list[float]:
    return [round(value - half, 5), round(min(1.0, value + half), 5)]


def _scores(
    rng: np.random.Generator, own: dict[str, tuple[float, float]], base: float, spread: float
) -> dict[str, Any]:
    auc = {d: round(float(rng.normal(base, spread)), 5) for d in DOMAINS}
    auc |= {d: round(float(rng.uniform(*bounds)), 5) for d, bounds in own.items()}
    return {
        "mean_auc": round(float(np.mean(list(auc.values()))), 5),
        "auc": auc,
        "interval": {d: _around(v, 0.032 - 0.03 * (v - 0.5)) for d, v in auc.items()},
    }


def _student(rng: np.random.Generator, levels: tuple[float, ...], **facts: Any) -> dict[str, Any]:
    own = {d: (level, level) for d, level in zip(DOMAINS, levels, strict=True)}
    scores = _scores(rng, own, 0.5, 0.0)
    return {**facts, **scores, "mean_interval": _around(scores["mean_auc"], 0.009)}


def _trust(teachers: dict[str, Any]) -> dict[str, Any]:
    cells: dict[str, Any] = {}
    for name, own in TEACHERS.items():
        cells[name] = {}
        for d in DOMAINS:
            accuracy = min(0.985, max(0.2, 2 * teachers[name]["auc"][d] - 0.985 + (0.12 if d in own else 0)))
            admitted = 600 if accuracy >= 0.9 else (143 if d in own else (2 if d == "ct" else 0))
            reason = {
                600: f"right on {accuracy:.1%} of 100, at least 90 %",
                0: "right on too few; sure and right of no sample",
            }.get(admitted, "domain below 90 %; only samples of which it is sure and right")
            cells[name][d] = {
                "accuracy": accuracy,
                "balanced": accuracy - 0.01,
                "lower": accuracy - 0.05,
                "n": 100,
                "admitted": admitted,
                "of": 600,
                "trusted": admitted == 600,
                "reason": reason,
            }
    sentences = [{"says": "The 90 % rule: so and so.", "teachers": list(TEACHERS)}]
    return {"rule": "90", "threshold": 0.9, "sentences": sentences, "undecided": [], "teachers": cells}


def _forgetting(parent: dict[str, Any], candidate: dict[str, Any]) -> dict[str, Any]:
    rows = {}
    for i, d in enumerate(DOMAINS):
        delta = candidate["auc"][d] - parent["auc"][d]
        half = 0.006 + 0.0012 * i
        rows[d] = {
            "delta": delta,
            "lower": delta - half,
            "upper": delta + half,
            "n": 200,
            "groups": 80,
            "verdict": "PASS",
            "needed": None,
        }
    return rows


def _make() -> dict[str, Any]:
    rng = np.random.default_rng(20)
    teachers = {
        name: {
            "title": f"Specialist for {own[0]} and {own[1]}",
            "package": "mmkd-phantom",
            "version": "0.1.0",
            "license": "Apache-2.0",
            "embed_dim": dim,
            "domains": list(own),
            "fingerprint": f"{i + 10:x}" * 32,
            **_scores(rng, dict.fromkeys(own, (0.88, 0.98)), 0.53, 0.05),
            "added": name == "phantom-sono",
        }
        for i, ((name, own), dim) in enumerate(zip(TEACHERS.items(), (96, 128, 64, 112), strict=True))
    }
    stage_1 = _student(rng, (0.71, 0.74, 0.66, 0.63, 0.83, 0.77, 0.72, 0.79))
    first = _student(
        rng,
        (0.87, 0.89, 0.68, 0.64, 0.95, 0.88, 0.9, 0.93),
        parent=None,
        teachers=list(TEACHERS)[:3],
        recipe="mmkd",
        steps=900,
        current=False,
    )
    second = _student(
        rng,
        (0.872, 0.884, 0.84, 0.81, 0.951, 0.883, 0.902, 0.929),
        parent="0001",
        teachers=list(TEACHERS),
        recipe="mmkd",
        steps=1140,
        current=True,
    )
    rows = dict.fromkeys(DOMAINS, 600)
    tables = [
        {
            "teacher": n,
            "tower": tower,
            "rows": r,
            "dim": t["embed_dim"],
            "dtype": "float16",
            "bytes": r * t["embed_dim"] * 2,
        }
        for n, t in teachers.items()
        for tower, r in (("image", 7200), ("text", 2140))
    ]
    return {
        "schema": "mmkd.summary/v1",
        "mmkd": "0.1.0",
        "name": "phantom",
        "seed": 0,
        "profile": "default",
        "data": {
            "samples": 7200,
            "splits": {"train": 4800, "val": 800, "test": 1600},
            "domains": {
                d: {
                    "train": n,
                    "val": 100,
                    "test": 200,
                    "groups_test": 80,
                    "labels": ["normal", "mass", "effusion", "line"],
                }
                for d, n in rows.items()
            },
        },
        "teachers": teachers,
        "trust": _trust(teachers),
        "stage_1": {**stage_1, "parent": None, "teachers": [], "recipe": "clip", "steps": 500, "current": False},
        "releases": {"0001": first, "0002": second},
        "integration": {
            "teacher": "phantom-sono",
            "parent": "0001",
            "candidate": "0002",
            "gain": {d: second["auc"][d] - first["auc"][d] for d in DOMAINS},
            "forgetting": _forgetting(first, second),
            "mean": {"delta": 0.0414, "lower": 0.0352, "upper": 0.0479},
            "margin": 0.02,
            "verdict": "PASS",
            "promoted": True,
            "cost_ratio": {
                "steps": 0.844,
                "samples": 0.211,
                "seconds": 0.248,
                "basis": "1,140 steps on all four teachers reach the same mean AUC",
            },
        },
        "store": {
            "rows": 9340,
            "bytes": sum(t["bytes"] for t in tables),
            "bytes_raw": 2 * sum(t["bytes"] for t in tables),
            "tables": tables,
        },
        "seconds": {
            "data": 14.2,
            "extract": 31.9,
            "trust": 0.8,
            "pretrain": 58.0,
            "distill": 71.3,
            "incremental": 33.7,
            "audit": 6.4,
        },
    }


def _curve(steps: int, terms: dict[str, tuple[float, float]], seed: int) -> list[dict[str, float]]:
    rng = np.random.default_rng(seed)
    rows: list[dict[str, float]] = []
    for step in range(1, steps + 1):
        row: dict[str, float] = {"step": step}
        for name, (start, end) in terms.items():
            level = end + (start - end) * math.exp(-4 * step / steps)
            row[name] = level * float(rng.lognormal(0, 0.08))
        rows.append(row)
    return rows


@pytest.fixture(scope="session")
def _made() -> dict[str, Any]:
    return _make()


@pytest.fixture
def summary(_made: dict[str, Any]) -> dict[str, Any]:
    """A summary that a test may change."""
    return copy.deepcopy(_made)


@pytest.fixture(scope="session")
def curves() -> dict[str, list[dict[str, float]]]:
    """Loss curves of the three phases."""
    stage_2 = {"loss": (6.4, 1.9), "fd": (1.9, 0.31), "icl": (3.4, 1.2), "clip": (3.1, 2.2), "relation": (0.9, 0.02)}
    pretrain = [{**row, "clip": row["loss"]} for row in _curve(500, {"loss": (4.2, 2.6)}, 1)]
    return {"pretrain": pretrain, "distill": _curve(900, stage_2, 2), "incremental": _curve(240, stage_2, 3)}
