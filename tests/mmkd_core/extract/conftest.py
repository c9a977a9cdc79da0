"""Extraction as on a machine that is slow at bfloat16, so that what a teacher is asked depends on no machine."""

from __future__ import annotations

import pytest

from mmkd_core.extract import precision


@pytest.fixture(autouse=True)
def plain_processor(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(precision, "_processor", lambda: "")
