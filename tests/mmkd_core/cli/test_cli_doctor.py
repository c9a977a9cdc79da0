"""`mmkd doctor`: each thing that stands in the way is found by name, with a fix, and nothing is changed."""

from __future__ import annotations

import json
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest

from mmkd_core.integrate import doctoring

Looked = Callable[..., dict[str, list[dict[str, str]]]]


@pytest.fixture
def looked(mmkd: Any) -> Looked:
    """Call with the exit code that is expected and a workspace: checks by name."""

    def run(code: int, *arguments: object) -> dict[str, list[dict[str, str]]]:
        done = mmkd("doctor", *arguments, "--json")
        assert done.exit_code == code, done.stdout + done.stderr
        checks: dict[str, list[dict[str, str]]] = {}
        for check in json.loads(done.stdout)["checks"]:
            checks.setdefault(check["name"], []).append(check)
        return checks

    return run


def test_without_a_workspace_it_looks_at_the_environment(looked: Looked) -> None:
    checks = looked(0)
    assert checks["workspace"][0]["fix"].startswith("Run `mmkd init`")
    assert {"python", "packages", "torch", "plugins", "disk"} <= set(checks)
    assert all(check["state"] == "ok" for name in ("packages", "torch") for check in checks[name])


def test_a_young_workspace_needs_teachers_and_features(looked: Looked, with_data: Path) -> None:
    checks = looked(0, "-w", with_data)
    assert checks["data"][0]["found"].startswith("64 samples of 8 domains")
    assert checks["lock"][0]["fix"] == "Run `mmkd teachers add NAME`"
    assert checks["store"][0]["fix"] == "Run `mmkd extract`"
    assert checks["releases"][0]["found"] == "0, none is in use"


def test_settings_that_cannot_be_read(looked: Looked, workspace: Path) -> None:
    with (workspace / "mmkd.yaml").open("a") as file:
        file.write("colour: red\n")
    assert "colour" in looked(1, "-w", workspace)["workspace"][0]["found"]


def test_a_broken_plugin_is_named_with_its_package(looked: Looked, installed: Callable[..., None]) -> None:
    installed("good", "broken_import")
    problems = [check for check in looked(1)["plugins"] if check["state"] == "problem"]
    assert len(problems) == 1
    assert "broken" in problems[0]["found"]
    assert problems[0]["fix"].startswith("pip uninstall mmkd-")


def test_a_teacher_that_is_gone(looked: Looked, mmkd: Any, installed: Callable[..., None], with_data: Path) -> None:
    installed("good")
    assert mmkd("teachers", "add", "good", "-w", with_data).exit_code == 0
    assert looked(0, "-w", with_data)["lock"][0]["state"] == "ok"
    lock = with_data / "mmkd.lock"
    lock.write_text(lock.read_text().replace("good", "gone"))
    assert looked(1, "-w", with_data)["lock"][0]["state"] == "problem"


def test_images_that_went_away(looked: Looked, with_data: Path) -> None:
    for image in sorted((with_data / "data" / "images").rglob("*.png"))[:3]:
        image.unlink()
    assert looked(1, "-w", with_data)["data"][0]["fix"] == "Run `mmkd data check`"


def test_its_advice_can_be_typed(mmkd: Any, with_data: Path) -> None:
    for image in sorted((with_data / "data" / "images").rglob("*.png"))[:3]:
        image.unlink()
    for option in (["-w", str(with_data)], [f"-w{with_data}"]):
        said = mmkd("doctor", *option).stdout
        assert f"next: Run `mmkd data check -w {with_data}`" in said
        assert f"Run `mmkd extract -w {with_data}`" in said


def test_a_dependency_that_is_missing_or_too_old(looked: Looked, monkeypatch: pytest.MonkeyPatch) -> None:
    needs = ["pluggy>=999", "no-such-package>=1", "never; extra == 'dev'"]
    monkeypatch.setattr(metadata, "requires", lambda name: needs)
    found = looked(1)["packages"][0]["found"]
    assert "pluggy" in found
    assert "no-such-package is missing" in found
    assert "never" not in found


def test_a_disk_that_is_full_or_far_away(looked: Looked, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctoring, "LOW_DISK", 2**70)
    monkeypatch.setattr(doctoring, "_file_system", lambda path: "nfs4")
    full, far = looked(0)["disk"]
    assert "are free" in full["found"]
    assert "nfs4" in far["found"]
    assert "sealed generations" in far["fix"]


def test_the_kind_of_a_file_system_is_that_of_the_nearest_mount() -> None:
    assert doctoring._file_system(Path("/proc/self")) == "proc"
