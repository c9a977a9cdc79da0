"""Rounding against torch and against exact arithmetic; what the store says that rounding cost."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from feature_store import FeatureStore, StoreError
from feature_store.precision import DTYPES, decode, encode, overflows, rounding_loss, storage_type, width

FINITE = arrays.arrays(
    np.float32,
    st.tuples(st.integers(1, 5), st.integers(1, 9)),
    elements=st.floats(width=32, allow_nan=False, allow_infinity=False),
)
TORCH = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}


@given(FINITE, st.sampled_from(sorted(TORCH)))
def test_floats_round_as_torch_rounds_them(exact: np.ndarray, dtype: str) -> None:
    expected = torch.from_numpy(exact).to(TORCH[dtype]).float().numpy()
    assert overflows(exact, dtype) == (not np.isfinite(expected).all())
    stored = encode(exact, dtype)
    assert (stored.dtype, stored.shape) == (storage_type(dtype), (len(exact), width(dtype, exact.shape[1])))
    np.testing.assert_array_equal(decode(stored, dtype, exact.shape[1]), expected)


@given(FINITE)
def test_int8_is_off_by_at_most_half_a_step(exact: np.ndarray) -> None:
    assert overflows(exact, "int8") == bool(np.abs(exact).max() >= 3.4e38)
    if overflows(exact, "int8"):
        return
    stored = encode(exact, "int8")
    assert stored.nbytes == len(exact) * (4 * -(-exact.shape[1] // 4) + 4)
    back = decode(stored, "int8", exact.shape[1]).astype(np.float64)
    step = np.abs(exact).max(axis=1, keepdims=True).astype(np.float64) / 127
    smallest = float(np.finfo(np.float32).smallest_subnormal)
    bound = np.where(step > 1e-38, step * 0.5001, step / 2 + 127 * smallest)
    assert (np.abs(back - exact) <= bound).all()
    assert (stored[:, : exact.shape[1]] >= -127).all()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_what_is_not_finite_overflows_everything(dtype: str, value: float) -> None:
    exact = np.zeros((3, 4), np.float32)
    assert not overflows(exact, dtype)
    exact[1, 2] = value
    assert overflows(exact, dtype)


def cosine_loss(a: np.ndarray, b: np.ndarray) -> float:
    """In exact arithmetic up to the square root, of two rows that are not zero."""
    x, y = [[Fraction(float(value)) for value in row] for row in (a, b)]
    dot = sum((i * j for i, j in zip(x, y, strict=True)), Fraction(0))
    square = sum(i * i for i in x) * sum(i * i for i in y)
    if dot <= 0:
        return 1.0 + float(dot * dot / square) ** 0.5
    # 1 - sqrt(r) = (1 - r) / (1 + sqrt(r)), which does not cancel
    ratio = dot * dot / square
    return float(1 - ratio) / (1 + float(ratio) ** 0.5)


@settings(deadline=None)
@given(FINITE, st.sampled_from(DTYPES))
def test_the_loss_is_that_of_exact_arithmetic(exact: np.ndarray, dtype: str) -> None:
    if overflows(exact, dtype):
        return
    stored = encode(exact, dtype)
    back = decode(stored, dtype, exact.shape[1])
    for a, b, found in zip(exact, back, rounding_loss(exact, stored, dtype), strict=True):
        expected = cosine_loss(a, b) if a.any() and b.any() else float(bool(a.any()))
        x, y = a.astype(np.float64), b.astype(np.float64)
        moved = ((x - y) ** 2).sum() / max((x**2).sum(), 1e-300)  # float32 knows the part across x to 1e-6 of this
        assert found == pytest.approx(expected, rel=1e-4, abs=3e-15 + 1e-6 * moved)


@pytest.mark.parametrize(("dtype", "mean", "worst"), [("float16", 5e-8, 2e-7), ("bfloat16", 3e-6, 1e-5)])
def test_the_loss_of_a_table_is_recorded(tmp_path: Path, dtype: str, mean: float, worst: float) -> None:
    values = np.random.default_rng(0).standard_normal((300, 512)).astype(np.float32)
    with FeatureStore.open(tmp_path / "s", "w", block_rows=64) as store:
        rows = store.add_ids("image", [str(n) for n in range(300)])
        store.put("t", "image", rows, values, dtype=dtype)
        (table,) = store.tables()
        np.testing.assert_array_equal(
            store.gather("t", "image", rows), torch.from_numpy(values).to(TORCH[dtype]).float().numpy()
        )
    assert 0 < table.cosine_loss_mean < mean
    assert table.cosine_loss_mean < table.cosine_loss_worst < worst


def test_int8_costs_a_quarter_and_says_what_it_lost(tmp_path: Path) -> None:
    values = np.random.default_rng(0).standard_normal((128, 512)).astype(np.float32)
    with FeatureStore.open(tmp_path / "s", "w", block_rows=64) as store:
        rows = store.add_ids("text", [str(n) for n in range(128)])
        store.put("t", "text", rows, values, dtype="int8")
        (table,) = store.tables()
        got = store.gather("t", "text", rows).astype(np.float64)
        assert store.verify() == []
    assert table.bytes == 2 * (4080 + 64 * 516 + 16 + 8)
    loss = 1 - (got * values).sum(1) / np.sqrt((got**2).sum(1) * (values.astype(np.float64) ** 2).sum(1))
    assert table.cosine_loss_mean == pytest.approx(loss.mean(), rel=1e-4)
    assert table.cosine_loss_worst == pytest.approx(loss.max(), rel=1e-4)
    assert table.cosine_loss_worst < 2e-4


def test_features_that_come_in_the_stored_precision_lose_nothing(tmp_path: Path) -> None:
    values = np.random.default_rng(0).standard_normal((40, 8)).astype(np.float16)
    with FeatureStore.open(tmp_path / "s", "w", block_rows=16) as store:
        rows = store.add_ids("text", [str(n) for n in range(40)])
        store.put("t", "text", rows, values)
        (table,) = store.tables()
        np.testing.assert_array_equal(store.gather("t", "text", rows), values.astype(np.float32))
        with pytest.raises(StoreError, match=r"a feature is not finite .*row 3"):
            store.put("t", "text", [3], np.full((1, 8), np.inf, np.float16))
    assert (table.cosine_loss_mean, table.cosine_loss_worst) == (0.0, 0.0)
