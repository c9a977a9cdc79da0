from __future__ import annotations

import importlib.metadata
import subprocess
import sys

import pytest

from mmkd_core.errors import PluginError
from mmkd_core.plugins import installer


@pytest.fixture(autouse=True)
def _fresh_tool():
    installer._tool.cache_clear()
    yield
    installer._tool.cache_clear()


@pytest.fixture
def commands(monkeypatch):
    """What would be run; pip and uv answer as told."""
    seen, answers = [], {"uv": 1, "pip": 0}

    def run(command, **_):
        seen.append(command)
        tool = "uv" if command[0].endswith("uv") else "pip"
        return subprocess.CompletedProcess(command, answers[tool], "some output", "and an error")

    monkeypatch.setattr(installer.subprocess, "run", run)
    monkeypatch.setattr(installer.shutil, "which", lambda name: "/bin/uv")
    return seen, answers


def test_uv_is_used_if_it_works(commands):
    seen, answers = commands
    answers["uv"] = 0
    installer.install("mmkd-x>=1")
    assert seen[-1][:6] == ["/bin/uv", "pip", "install", "--python", sys.executable, "mmkd-x>=1"]
    assert seen[-1][6] == "--constraint"


def test_pip_of_this_interpreter_is_used_otherwise(commands):
    seen, _ = commands
    installer.install("mmkd-x")
    assert seen[-1][:4] == [sys.executable, "-m", "pip", "install"]
    assert "--no-deps" not in seen[-1]


def test_nothing_is_resolved_if_all_requirements_are_met(commands):
    assert "--no-deps" in installer.install_command("x.whl", ["numpy>=1"])
    assert "--no-deps" in installer.install_command("x.whl", [])
    for requires in (None, ["numpy>=999"], ["numpy[extra]"]):
        assert "--no-deps" not in installer.install_command("x.whl", requires)


def test_mmkd_and_torch_and_what_they_need_are_pinned():
    torch = f"torch=={importlib.metadata.version('torch')}"
    assert torch in installer.pins()
    assert {"mmkd", "numpy", "pydantic", "lmdb"} <= {pin.split("==")[0] for pin in installer.pins()}
    assert not [pin for pin in installer.pins() if pin.startswith(("pytest", "hypothesis"))]


def test_a_failure_shows_the_output_and_the_command(commands):
    _, answers = commands
    installer._tool()
    answers["pip"] = 1
    with pytest.raises(PluginError) as caught:
        installer.install("mmkd-x")
    message = str(caught.value)
    assert message.startswith("installing mmkd-x failed:\nsome outputand an error")
    assert f"The command was `{sys.executable} -m pip install --disable-pip-version-check --no-input mmkd-x`" in message


def test_neither_uv_nor_pip(commands):
    commands[1]["pip"] = 1
    with pytest.raises(PluginError, match=r"there is neither uv nor pip to install with .* -m ensurepip"):
        installer.install("mmkd-x")


def test_uninstalling_protects_mmkd_and_names_what_is_not_there(commands):
    for name in ("mmkd", "Torch", "numpy"):
        with pytest.raises(PluginError, match=f"package {name} is not removed: mmkd needs it"):
            installer.uninstall(name)
    with pytest.raises(PluginError, match="package mmkd-nowhere is not installed"):
        installer.uninstall("mmkd-nowhere")
    installer.uninstall("pytest")
    assert commands[0][-1][-1] == "pytest"
