"""The decorator, used as an author would: test files are written, and pytest is run on them."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

from mmkd_core.errors import PluginError
from mmkd_core.plugins.conformance import chosen
from mmkd_core.testing import conformance

DATA = Path(__file__).parents[2] / "data" / "plugins"
HEAD = "import mmkd_good, torch\nfrom mmkd_core.testing import conformance\n"
SOUND = f"""{HEAD}
ran = []

@conformance(mmkd_good)
def test_module():
    ran.append(1)

def test_the_body_ran():
    print("ran", len(ran))

@conformance("phantom-eye")
def test_name(): ...

@conformance("no-such")
def test_nobody(): ...

@conformance(mmkd_good.SPEC)
def test_spec(): ...
"""
BROKEN = f"""{HEAD}
from mmkd_good.model import LinearTeacher
LinearTeacher.encode_text = lambda self, tokens: torch.full((len(tokens), 4), torch.nan)
known = dict.fromkeys(["finite", "deterministic", "text-sensitivity", "batch-invariance", "any-text"], "known")

@conformance(mmkd_good)
def test_plain(): ...

@conformance(mmkd_good, expected_failures={{**known, "stdout": "it is silent"}})
def test_expected(): ...
"""


@pytest.fixture
def run(tmp_path):
    """Run pytest on a test file beside the plugin ``good``; returns its output."""

    def pytest_on(text: str) -> str:
        (tmp_path / "test_it.py").write_text(text)
        paths = [str(DATA / "good"), *os.environ.get("PYTHONPATH", "").split(os.pathsep), *filter(None, sys.path)]
        command = [sys.executable, "-m", "pytest", "-v", "-rA", "-p", "no:cacheprovider", "test_it.py"]
        environ = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths))}
        done = subprocess.run(command, cwd=tmp_path, env=environ, capture_output=True, text=True, check=False)
        return done.stdout + done.stderr

    return pytest_on


def test_each_check_of_each_teacher_is_a_test(run):
    printed = run(SOUND)
    names = re.findall(r"^test_it.py::test_module\[(\S+)\] PASSED", printed, re.MULTILINE)
    skipped = re.findall(r"^test_it.py::test_module\[(\S+)\] SKIPPED", printed, re.MULTILINE)
    wanted = {f"{teacher}-{check.name}" for teacher in ("good", "good-small") for check in chosen("standard")}
    assert {*names, *skipped} == wanted
    assert "good-golden-image" in skipped
    assert f"ran {len(names)}" in printed
    assert "test_it.py::test_name[golden-pixels] PASSED" in printed
    assert "no teacher is called 'no-such'" in printed
    assert "good: load: no loader knows family 'tiny-linear' of teacher good" in printed
    assert "good: finite" not in printed


def test_a_failure_is_one_line_and_an_expected_one_has_a_reason(run):
    printed = run(BROKEN)
    assert "good: finite: encode_text: embeddings hold NaN or infinity\n" in printed
    assert "Traceback" not in printed
    assert "XFAIL test_it.py::test_expected[good-finite] - known" in printed
    assert re.search(r"FAILED test_it.py::test_expected\[good-stdout\] - \[XPASS\(strict\)\] it is silent", printed)


def test_what_is_no_plugin_and_no_check_is_refused_at_once():
    with pytest.raises(PluginError, match=r"module mmkd_x is no working plugin: it has no mmkd_teachers hook"):
        conformance(ModuleType("mmkd_x"))
    with pytest.raises(PluginError, match=r"there is no check called nan. Known are spec, trust, load"):
        conformance("good", expected_failures={"nan": "why"})
