"""Evaluations that were kept: what is told where there are none can be typed."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from mmkd_core.errors import DataError
from mmkd_core.integrate.evaluations import kept_outcomes
from mmkd_core.integrate.workspace import Config, Workspace


def test_the_command_that_is_missing_can_be_typed_whatever_the_folder_is_called(tmp_path: Path) -> None:
    workspace = Workspace.create(tmp_path / "ws", Config())
    found: Any = SimpleNamespace(folder=tmp_path / "my sets" / "eye", task=SimpleNamespace(name="eye"))
    with pytest.raises(DataError) as refused:
        kept_outcomes(workspace, found, "phantom-eye", "phantom-radio")
    assert str(refused.value) == (
        f"phantom-eye was not evaluated on eye. Run `mmkd eval set '{tmp_path}/my sets/eye' phantom-eye`"
    )
