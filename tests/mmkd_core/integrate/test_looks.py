"""Figures of teachers and of stage 1 are of the test split, and what leaves the workspace is whole."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from typer.testing import CliRunner

from mmkd_core.cli import app
from mmkd_core.integrate.measuring import zero_shot_of
from mmkd_core.integrate.workspace import Workspace


@pytest.fixture(scope="module")
def workspace(arrived: Callable[..., Workspace]) -> Workspace:
    return arrived()


@pytest.mark.parametrize("model", ["phantom-eye", "stage-1", "0001"])
def test_zero_shot_figures_are_of_the_test_split(workspace: Workspace, model: str) -> None:
    corpus = workspace.corpus()
    found = zero_shot_of(workspace, model)[0]
    samples = sorted(str(name) for part in found.domains.values() for name in part.sample_id)
    assert samples == sorted(map(str, corpus.sample_id[corpus.split == "test"]))


def test_a_release_of_which_any_file_is_damaged_is_not_exported(workspace: Workspace) -> None:
    heads = workspace.releases / "0001" / "heads.safetensors"
    whole = heads.read_bytes()
    heads.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    out = workspace.root / "out"
    done = CliRunner().invoke(app, ["export", "open-clip", str(out), "--release", "0001", "-w", str(workspace.root)])
    assert done.exit_code == 2
    assert "release 0001 is damaged: heads.safetensors is changed" in done.stderr
    assert not out.exists()
