"""This repository's ``registry.yaml`` may follow the one of the commit before, and obeys its rules by itself."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from mmkd_core.plugins import Registry, load_registry
from mmkd_core.plugins.registry_check import problems

ROOT = Path(__file__).resolve().parents[1]
NEW = load_registry(ROOT / "registry.yaml")


def test_it_obeys_the_rules_by_itself():
    assert problems(Registry(schema_version=1), NEW) == []


@pytest.mark.parametrize("commit", ["HEAD", "HEAD~1"])
def test_it_may_follow_the_one_before(tmp_path, commit):
    command = ["git", "-C", str(ROOT), "show", f"{commit}:./registry.yaml"]
    try:
        shown = subprocess.run(command, capture_output=True, check=False)
    except FileNotFoundError:
        pytest.skip("there is no git")
    if shown.returncode != 0:
        pytest.skip(f"there is no registry.yaml at {commit}: no repository, or a shallow one")
    (tmp_path / "registry.yaml").write_bytes(shown.stdout)
    assert problems(load_registry(tmp_path / "registry.yaml"), NEW) == []
