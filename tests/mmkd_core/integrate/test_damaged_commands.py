"""The command line over a workspace with one flipped bit: exit code 2, one sentence, and nothing is lost."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from typer.testing import CliRunner

from mmkd_core.cli import app
from mmkd_core.files import forget_hashes
from mmkd_core.integrate.teaching import run_incremental
from mmkd_core.integrate.workspace import Workspace


@pytest.fixture(scope="module")
def workspace(made: Path, tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    """0001 is in use, 0002 is its candidate."""
    root = tmp_path_factory.mktemp("damaged") / "ws"
    shutil.copytree(made, root)
    workspace = Workspace.open(root)
    run_incremental(workspace)
    return workspace


def flipped(path: Path) -> bytes:
    """Change one bit; return what was there."""
    good = path.read_bytes()
    path.write_bytes(good[: len(good) // 2] + bytes([good[len(good) // 2] ^ 1]) + good[len(good) // 2 + 1 :])
    forget_hashes()
    return good


COMMANDS = {
    "releases show": ("releases", "show", "0001"),
    "rollback": ("releases", "rollback", "0001"),
    "rollback by force": ("releases", "rollback", "0001", "--force", "--because", "I want it"),
    "export": ("export", "open-clip", "out"),
    "export a teacher": ("export", "teacher", "dist", "mine"),
    "audit": ("audit", "forgetting"),
    "chain": ("audit", "forgetting", "--chain"),
    "self-test": ("audit", "forgetting", "--self-test"),
    "distil": ("distill", "--incremental"),
    "evaluate": ("eval", "zero-shot", "0001"),
    "report": ("report",),
    "report of one": ("report", "0001"),
}
READS = {
    "student/open_clip_model.safetensors": {
        "releases show",
        "rollback",
        "rollback by force",
        "export",
        "export a teacher",
    },
    "predictions.parquet": {
        "releases show",
        "export",
        "audit",
        "chain",
        "self-test",
        "evaluate",
        "report",
        "report of one",
    },
    "embeddings.safetensors": {"audit", "chain", "self-test", "export"},
    "heads.safetensors": {"audit", "chain", "self-test", "rollback"},
    "release.json": set(COMMANDS),
}


@pytest.mark.parametrize("name", READS)
def test_a_release_with_one_flipped_bit_is_refused_by_whatever_reads_it(workspace, name, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    path = workspace.releases / "0001" / name
    good = flipped(path)
    current = (workspace.releases / "CURRENT").read_bytes()
    try:
        for command in sorted(READS[name]):
            done = CliRunner().invoke(app, [*COMMANDS[command], "-w", str(workspace.root)], prog_name="mmkd")
            assert done.exit_code == 2, (command, done.stdout, done.stderr, done.exception)
            assert f"release 0001 is damaged: {name} " in done.stderr, command
            assert "Traceback" not in done.stderr
    finally:
        path.write_bytes(good)
        forget_hashes()
    assert (workspace.releases / "CURRENT").read_bytes() == current
    assert sorted(p.name for p in workspace.releases.iterdir() if p.is_dir()) == ["0001", "0002"]
    assert not (tmp_path / "out").exists()
