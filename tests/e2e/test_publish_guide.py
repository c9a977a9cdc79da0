"""``docs/publish-a-teacher.md``, followed word for word in a clean environment without a network."""

from __future__ import annotations

import os
import re
import stat
import subprocess
import sys
import venv
from pathlib import Path

import pytest

import mmkd_core

ROOT = Path(__file__).resolve().parents[2]
GUIDE = (ROOT / "docs" / "publish-a-teacher.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```sh\n(.*?)```", GUIDE, re.DOTALL)
NO_NETWORK = "http://127.0.0.1:9"


@pytest.fixture
def shell(tmp_path):
    """Run lines as a user's shell would; in a virtual environment that lends the libraries of this one."""
    home = tmp_path / "venv"
    venv.create(home, with_pip=True, symlinks=True)
    site = next(home.glob("lib/python*/site-packages"))
    lent = [str(Path(mmkd_core.__file__).parents[1]), str(ROOT / "plugins" / "mmkd-phantom" / "src")]
    lent += [entry for entry in sys.path if entry.endswith("site-packages")]
    (site / "lent.pth").write_text("\n".join(dict.fromkeys(lent)) + "\n")
    for name, code in (
        ("mmkd", "from mmkd_core.cli import main\nmain()"),
        ("pytest", "import pytest\nraise SystemExit(pytest.console_main())"),
    ):
        script = home / "bin" / name
        script.write_text(f"#!{home}/bin/python\n{code}\n")
        script.chmod(script.stat().st_mode | stat.S_IXUSR)
    kept = ("HOME", "LANG", "OMP_NUM_THREADS")
    environ = {name: os.environ[name] for name in kept if name in os.environ} | {
        "PATH": f"{home}/bin{os.pathsep}/usr/bin{os.pathsep}/bin",
        "HF_HUB_OFFLINE": "1",
        "HF_HOME": str(tmp_path / "hub"),
        "PIP_DISABLE_PIP_VERSION_CHECK": "1",
        "PIP_NO_INDEX": "1",
        "https_proxy": NO_NETWORK,
        "http_proxy": NO_NETWORK,
    }
    here = tmp_path / "user"
    here.mkdir()

    def run(script: str) -> str:
        command = ["bash", "-e", "-c", script]
        done = subprocess.run(command, cwd=here, env=environ, capture_output=True, text=True, timeout=600, check=False)
        assert done.returncode == 0, f"{script}\n{done.stdout}\n{done.stderr}"
        return done.stdout

    return run, here


def test_the_guide_holds_every_step():
    text = "".join(BLOCKS)
    for step in ("teachers new", "pytest", "pip wheel", "teachers add", "teachers check", "mmkd extract"):
        assert step in text


@pytest.mark.slow
def test_the_guide_works_word_for_word(shell):
    run, here = shell
    printed = run("".join(BLOCKS))
    assert "to fill in, in mmkd-my-clip/src/mmkd_my_clip/__init__.py:" in printed
    assert re.search(r"2\d passed, \d skipped in", printed)  # what does not apply depends on the machine
    assert (here / "mmkd-my-clip" / "dist" / "mmkd_my_clip-0.1.0-py3-none-any.whl").exists()
    assert "in use: my-clip" in printed
    assert "my-clip passed every check that applies" in printed
    lines = [line.split() for line in printed.splitlines()]
    (row,) = [line for line in lines if line[:1] == ["my-clip"] and len(line) == 3]
    assert int(row[1]) > 0
    assert int(row[2]) > 0
    where = run(
        f"{sys.executable} -c 'import sys; print(sys.prefix)'; python -c 'import mmkd_my_clip as m; print(m.__file__)'"
    )
    assert where.splitlines()[-1].startswith(str(here.parent / "venv"))  # installed there, and nowhere else
