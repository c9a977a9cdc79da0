"""In which numbers features are stored: four precisions, each a pair of encode and decode, and what rounding costs.

    float32   as given
    float16   half the size; range to 65504
    bfloat16  half the size; the range of float32, three digits. Stored as its 16 bits: numpy has no such type
    int8      a quarter of the size; symmetric, with one float32 scale per row, which is stored with its row

A stored row is an array of ``width`` items of ``storage_type``. For int8 it is the numbers, zeros up to a multiple of
four bytes, and the scale, so that one copy brings both.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

DTYPES = ("float32", "float16", "bfloat16", "int8")
DEFAULT = "float16"

Stored = NDArray[Any]
"""Rows as they are stored: (n, width) of ``storage_type``."""

_TYPES = {"float32": np.float32, "float16": np.float16, "bfloat16": np.uint16, "int8": np.int8}
_LIMITS = {
    "float32": np.inf,
    "float16": 65520.0,
    "bfloat16": float(np.uint32(0x7F7F8000).view(np.float32)),
    "int8": 3.4e38,  # 127 times the rounded scale must not reach infinity either
}
"""Smallest magnitude that would become infinite."""
_CHUNK = 256
"""Rows at a time: intermediate results stay in the processor's cache."""


def storage_type(dtype: str) -> np.dtype[Any]:
    """Type of the items of a stored row."""
    return np.dtype(_TYPES[dtype])


def width(dtype: str, dim: int) -> int:
    """Items of a stored row of ``dim`` features."""
    return -(-dim // 4) * 4 + 4 if dtype == "int8" else dim


def overflows(exact: NDArray[np.float32], dtype: str) -> bool:
    """Whether any number is not finite, or would not be when stored."""
    peak = max(exact.max(initial=0.0), -exact.min(initial=0.0))
    return not peak < _LIMITS[dtype]  # NaN is not below anything


def encode(exact: NDArray[np.float32], dtype: str) -> Stored:
    """Round finite float32 features (n, d) to the nearest, ties to even, as they are stored (n, width)."""
    if dtype == "float32":
        return exact
    if dtype == "float16":
        with np.errstate(over="ignore", under="ignore"):
            return exact.astype(np.float16)
    out: Stored = np.zeros((len(exact), width(dtype, exact.shape[1])), storage_type(dtype))
    one = _to_bfloat16 if dtype == "bfloat16" else _to_int8
    for first in range(0, len(exact), _CHUNK):
        one(exact[first : first + _CHUNK], out[first : first + _CHUNK])
    return out


def decode(stored: Stored, dtype: str, dim: int, out: NDArray[np.float32] | None = None) -> NDArray[np.float32]:
    """Features (n, dim) as float32, in ``out`` if it is given."""
    result = np.empty((len(stored), dim), np.float32) if out is None else out
    for first in range(0, len(stored), _CHUNK):
        part, target = stored[first : first + _CHUNK], result[first : first + _CHUNK]
        if dtype == "bfloat16":
            np.left_shift(part, 16, out=target.view(np.uint32), dtype=np.uint32)
        elif dtype == "int8":
            np.multiply(part[:, :dim], scales(part), out=target)
        else:
            target[...] = part
    return result


def scales(stored: Stored) -> NDArray[np.float32]:
    """Scale of each row of int8 (n, 1)."""
    return np.ascontiguousarray(stored[:, -4:]).view(np.float32)


def _to_bfloat16(exact: NDArray[np.float32], out: Stored) -> None:
    bits = np.ascontiguousarray(exact).view(np.uint32)
    out[...] = (bits + ((bits >> 16) & 1) + 0x7FFF) >> 16


def _to_int8(exact: NDArray[np.float32], out: Stored) -> None:
    scale = (np.abs(exact).max(axis=1, keepdims=True).astype(np.float64) / 127).astype(np.float32)
    steps = np.divide(exact, scale, out=np.zeros(exact.shape, np.float64), where=scale > 0, dtype=np.float64)
    # The scale of a row of numbers near the smallest there are is itself rounded, and may be half of what it should be.
    out[:, : exact.shape[1]] = np.clip(np.rint(steps), -127, 127)
    out[:, -4:] = scale.view(np.int8)


def rounding_loss(exact: NDArray[np.float32], stored: Stored, dtype: str) -> NDArray[np.float64]:
    """Cosine loss of each row (n,): 1 - cos(float32 row, stored row).

    A row of zeros that stays one has lost nothing; one that underflowed to zeros has lost everything.
    """
    loss = np.zeros(len(exact))
    if dtype == "float32":
        return loss
    for first in range(0, len(exact), _CHUNK):
        a = exact[first : first + _CHUNK]
        b = decode(stored[first : first + _CHUNK], dtype, exact.shape[1])
        loss[first : first + _CHUNK] = _cosine_loss(a, b)
    return loss


def _cosine_loss(a: NDArray[np.float32], b: NDArray[np.float32]) -> NDArray[np.float64]:
    """From the difference of the rows, which is small and exact, so that float32 is enough.

    |a| |b| - a.b = (|e|^2 - (|b| - |a|)^2) / 2 and |b| - |a| = e.(a + b) / (|a| + |b|), with e = b - a.
    """
    with np.errstate(over="ignore", invalid="ignore"):  # such rows are computed again below
        error = b - a
        squares, products, lengths = (
            np.einsum("ij,ij->i", left, right).astype(np.float64)
            for left, right in ((error, error), (error, a + b), (a, a))
        )
    norm_a = np.sqrt(lengths)
    with np.errstate(invalid="ignore"):
        norm_b = np.sqrt(np.maximum(lengths + products, 0.0))
        loss = _ratio(squares, products, norm_a, norm_b)
    beyond = (lengths < 1e-20) | (lengths > 1e30)  # squares of float32 underflow or overflow
    return np.where(beyond, _exact_loss(a, b), loss) if beyond.any() else loss


def _ratio(
    squares: NDArray[np.float64], products: NDArray[np.float64], a: NDArray[np.float64], b: NDArray[np.float64]
) -> NDArray[np.float64]:
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        loss = (squares - (products / (a + b)) ** 2) / (2 * a * b)
    return np.clip(np.where(b > 0, loss, 1.0), 0.0, 2.0)


def _exact_loss(a: NDArray[np.float32], b: NDArray[np.float32]) -> NDArray[np.float64]:
    x, y = a.astype(np.float64), b.astype(np.float64)
    norms = np.sqrt(np.einsum("ij,ij->i", x, x)) * np.sqrt(np.einsum("ij,ij->i", y, y))
    cosine = np.divide(np.einsum("ij,ij->i", x, y), norms, out=np.zeros(len(x)), where=norms > 0)
    return np.where((x == y).all(axis=1), 0.0, np.clip(1.0 - cosine, 0.0, 2.0))
