from __future__ import annotations

import importlib.metadata
import os
import subprocess
import sys
import venv
from pathlib import Path

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
    for requires in (None, ["numpy>=999"], ["numpy; python_version < '3'"]):
        assert "--no-deps" not in installer.install_command("x.whl", requires)


def test_mmkd_and_torch_are_pinned():
    torch = f"torch=={importlib.metadata.version('torch')}"
    assert torch in installer.pins()
    assert all(pin.split("==")[0] in ("mmkd", "torch") for pin in installer.pins())


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
    for name in ("mmkd", "Torch"):
        with pytest.raises(PluginError, match=f"package {name} is not removed: mmkd needs it"):
            installer.uninstall(name)
    with pytest.raises(PluginError, match="package mmkd-nowhere is not installed"):
        installer.uninstall("mmkd-nowhere")
    installer.uninstall("numpy")
    assert commands[0][-1][-1] == "numpy"


@pytest.mark.slow
def test_a_wheel_goes_all_the_way_into_a_real_environment(wheel, tmp_path):
    """Install, discover, verify, load and lock in an environment of its own, then remove; no network."""
    home = tmp_path / "env"
    venv.create(home, with_pip=False, symlinks=True)
    site = next((home / "lib").glob("python*")) / "site-packages"
    root = Path(__file__).parents[3]
    (site / "parent.pth").write_text("".join(f"{p}\n" for p in [root, *sys.path] if os.path.isdir(p)))
    code = """
import sys
from pathlib import Path
from mmkd_core.plugins import read_lock, installer
from mmkd_core.plugins.lifecycle import add
(one, two), lock = add(sys.argv[1], Path("mmkd.lock")), read_lock(Path("mmkd.lock"))
print(one.name, two.name, one.package, one.version, one.source, sorted(lock.teachers))
installer.uninstall("mmkd-good")
"""
    environ = {**os.environ, "PYTHONPATH": "", "PIP_NO_INDEX": "1", "PATH": str(home / "bin")}
    command = [str(home / "bin" / "python"), "-c", code, str(wheel("good"))]
    done = subprocess.run(command, cwd=tmp_path, env=environ, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split("\n")[0] == (
        "good good-small mmkd-good 1.0 mmkd_good-1.0-py3-none-any.whl ['good', 'good-small']"
    )
    assert not (site / "mmkd_good").exists()
