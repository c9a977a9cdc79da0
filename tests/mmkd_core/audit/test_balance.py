"""The table of domains, on numbers that can be counted by hand."""

from __future__ import annotations

import numpy as np
import pytest

from mmkd_core.audit.balance import balance

DOMAIN = np.array(["ct"] * 9 + ["xray"] * 4 + ["oct"], object)
TRAIN = np.array([True] * 13 + [False])


def test_samples_pairs_and_shares() -> None:
    first = np.arange(14) < 6
    second = (np.arange(14) < 2) | (np.arange(14) == 10)
    ct, xray = balance(DOMAIN, TRAIN, {"a": first, "b": second}, {"ct": 3.0, "xray": 1.0})
    assert (ct.domain, ct.samples, ct.taught, ct.pairs) == ("ct", 9, 6, 8)
    assert (xray.domain, xray.samples, xray.taught, xray.pairs) == ("xray", 4, 1, 1)
    assert ct.batch == pytest.approx({"natural": 9 / 13, "sqrt": 3 / 5, "uniform": 1 / 2})
    assert (ct.gradient, xray.gradient) == (0.75, 0.25)


def test_nobody_teaches_and_nothing_was_measured() -> None:
    ct, xray = balance(DOMAIN, TRAIN, {})
    assert (ct.taught, ct.pairs, ct.gradient) == (0, 0, None)
    assert xray.batch["sqrt"] == pytest.approx(2 / 5)
