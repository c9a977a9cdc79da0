"""`mmkd report NAME` of what is there and of what is not; tests/e2e makes pages of real runs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from mmkd_core.errors import WorkspaceError
from mmkd_core.integrate.studying import studies
from mmkd_core.integrate.summary import report_on
from mmkd_core.integrate.workspace import Config, Workspace, write_json
from mmkd_core.study.cells import StudyError


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    return Workspace.create(tmp_path / "ws", Config())


def begun(workspace: Workspace, *finished: str, schema: str = "mmkd.study/v1") -> None:
    """A study of two cells and one seed, some of them finished."""
    runs = {
        f"key-{cell}": {"cell": cell, "seed": 0, "auc": {"ct": 0.8}, "counts": {"trusted pairs": 3.0}}
        for cell in finished
    }
    cells = {"seen": "", "without-ct": "no training image of ct"}
    facts: dict[str, Any] = {"schema": schema, "name": "holdout-ct", "question": "?", "cells": cells, "runs": runs}
    facts["asked"] = [f"key-{cell}" for cell in cells]
    write_json(workspace.state / "studies" / "holdout-ct" / "study.json", facts)


def test_a_wrong_name_says_which_there_are(workspace: Workspace) -> None:
    with pytest.raises(WorkspaceError, match="no release and no study 'losses'") as found:
        report_on(workspace, "losses")
    assert "There is nothing yet but the workspace" in str(found.value.next)
    begun(workspace, "seen")
    with pytest.raises(WorkspaceError) as found:
        report_on(workspace, "current")
    assert found.value.next == "There are studies holdout-ct"


def test_an_unfinished_study_shows_what_it_has(workspace: Workspace) -> None:
    begun(workspace, "seen")
    facts, page = report_on(workspace, "holdout-ct")
    assert (facts["asked"], facts["runs"]) == (2, 1)
    assert page == workspace.root / "report-holdout-ct.html"
    assert "1 of 2 runs" in page.read_text()


def test_a_study_without_its_first_cell_says_how_to_go_on(workspace: Workspace) -> None:
    begun(workspace, "without-ct")
    with pytest.raises(StudyError, match="no finished run of 'seen' yet") as found:
        report_on(workspace, "holdout-ct")
    assert "mmkd study holdout ct" in str(found.value.next)


def test_a_study_of_another_version_is_none(workspace: Workspace) -> None:
    begun(workspace, "seen", schema="mmkd.study/v0")
    assert studies(workspace) == []
