"""What is sound to the bit and yet looks wrong: collapsed teachers, mixed norms, numbers that are none.

Reads every feature once, in chunks; per table it keeps eight bytes and a norm for each row.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from feature_store.facts import TableInfo
from feature_store.store import FeatureStore

Severity = Literal["error", "warning", "note"]
_CHUNK = 4096
_UNIT = 0.01
"""A norm within this of 1 is a unit norm: float16 and int8 round it by less."""
_SPREAD = 10.0
"""Largest norm over the median, or median over the smallest, that features of one model show."""
_SAME = 0.01
"""Share of rows with one and the same vector above which a model answers the same to different inputs."""


@dataclass(frozen=True)
class Finding:
    """One thing to look at: "error" makes features useless, "warning" may, "note" is worth knowing."""

    severity: Severity
    what: str
    where: str
    next: str


def examine(store: FeatureStore) -> list[Finding]:
    """Look at the features of every table and tower. An empty list is a store without anything odd."""
    found: list[Finding] = []
    kinds: dict[str, list[str]] = {}
    for info in store.tables():
        norms, prints, broken = _measure(store, info)
        found += _numbers(info, norms, broken)
        found += _duplicates(info, prints)
        if len(norms):
            kinds.setdefault("unit" if _is_unit(norms).mean() > 0.5 else "raw", []).append(_place(info))
    if len(kinds) == 2:
        some = kinds["unit" if len(kinds["unit"]) <= len(kinds["raw"]) else "raw"]
        what = f"{len(kinds['unit'])} tables have unit norm and {len(kinds['raw'])} have raw norms"
        following = "Compare features as directions, or normalise each teacher (mmkd does)"
        found.append(Finding("note", what, "; ".join(some[:3]), following))
    return found


def _place(info: TableInfo) -> str:
    name = info.facts.get("teacher", info.table)
    return f"table {info.table}, tower {info.tower}" + (f" ({name})" if name != info.table else "")


def _is_unit(norms: NDArray[np.float64]) -> NDArray[np.bool_]:
    return np.abs(norms - 1) < _UNIT


def _measure(store: FeatureStore, info: TableInfo) -> tuple[NDArray[np.float64], NDArray[np.uint64], int]:
    """Norm and fingerprint of each row's vector, and how many rows hold a number that is not finite."""
    rows = store.present(info.table, info.tower)
    norms, prints, broken = np.zeros(len(rows)), np.zeros(len(rows), np.uint64), 0
    factors = np.random.default_rng(0).integers(1, 2**63, info.dim, np.uint64) | np.uint64(1)
    for first in range(0, len(rows), _CHUNK):
        part = store.gather(info.table, info.tower, rows[first : first + _CHUNK])
        broken += int((~np.isfinite(part).all(axis=1)).sum())
        norms[first : first + _CHUNK] = np.sqrt(np.einsum("ij,ij->i", part, part, dtype=np.float64))
        prints[first : first + _CHUNK] = part.view(np.uint32).astype(np.uint64) @ factors
    return norms, prints, broken


def _numbers(info: TableInfo, norms: NDArray[np.float64], broken: int) -> Iterator[Finding]:
    again = f"Look at {info.facts.get('teacher', 'the teacher')} and at these inputs, then extract them again"
    if broken:
        yield Finding("error", f"{broken} of {len(norms)} rows hold NaN or infinity", _place(info), again)
    zero = int((norms == 0).sum())
    if zero:
        yield Finding("error", f"{zero} of {len(norms)} rows are all zeros", _place(info), again)
    sane = norms[np.isfinite(norms) & (norms > 0)]
    if not len(sane):
        return
    unit, middle = _is_unit(sane), float(np.median(sane))
    if 0 < unit.sum() < len(sane) and not np.allclose(sane, 1, atol=0.5) and unit.mean() > _SAME:
        what = f"{unit.sum()} of {len(sane)} rows have unit norm, the others do not (median {middle:.3g})"
        following = "They were stored in two ways: extract this table again, raw"
        yield Finding("warning", what, _place(info), following)
    elif sane.max() > _SPREAD * middle or sane.min() * _SPREAD < middle:
        what = f"norms differ strongly: {sane.min():.3g} to {sane.max():.3g}, median {middle:.3g}"
        yield Finding("warning", what, _place(info), again)


def _duplicates(info: TableInfo, prints: NDArray[np.uint64]) -> Iterator[Finding]:
    _, counts = np.unique(prints, return_counts=True)
    most = int(counts.max(initial=0))
    if most < 3 or most <= _SAME * len(prints):
        return
    severity: Severity = "error" if most > len(prints) / 2 else "warning"
    what = f"{most} of {len(prints)} rows have the same vector"
    yield Finding(severity, what, _place(info), "Different inputs must differ: look at the teacher's preprocessing")
