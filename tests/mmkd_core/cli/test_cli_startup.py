from __future__ import annotations

import resource
import subprocess
import sys

import pytest

HEAVY = ("torch", "open_clip", "transformers", "timm", "numpy", "scipy", "pyarrow", "PIL", "lmdb", "matplotlib", "rich")
CODE = """
import sys
from mmkd_core.cli import main
sys.argv = ["mmkd", *sys.argv[1:]]
try:
    main()
except SystemExit as exit:
    code = exit.code
print("modules:", *[name for name in {heavy!r} if name in sys.modules], file=sys.stderr)
sys.exit(code)
"""


def loaded(*arguments: str) -> list[str]:
    command = [sys.executable, "-c", CODE.format(heavy=HEAVY), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return done.stderr.strip().splitlines()[-1].split()[1:]


@pytest.mark.parametrize("arguments", [("--help",), ("teachers", "--help"), ("quickstart", "--help")])
def test_help_imports_nothing_heavy(arguments):
    assert loaded(*arguments) == []


@pytest.mark.parametrize("arguments", [("teachers", "list"), ("teachers", "info", "good")])
def test_looking_at_teachers_imports_nothing_heavy(arguments, installed):
    installed("good")
    assert loaded(*arguments) == []


def test_making_a_workspace_imports_no_torch():
    assert "torch" not in loaded("init", "ws")


@pytest.mark.slow
@pytest.mark.parametrize("arguments", [("--help",), ("teachers", "list")])
def test_they_answer_in_less_than_a_third_of_a_second(arguments):
    # On a quiet machine importing typer alone takes 0.055 s; where it takes longer, others hold the cores, and 0.3 s
    # grow alike. One try in time is enough: a loaded machine only ever adds.
    answer, typer = [], []
    for _ in range(25):
        typer.append(processor_seconds("-c", "import typer"))
        answer.append(processor_seconds("-m", "mmkd_core", *arguments))
        if min(answer) < 0.3 * max(1, min(typer) / 0.055):
            return
    pytest.fail(f"{min(answer):.3f} s at best, importing typer alone {min(typer):.3f} s")


def processor_seconds(*arguments: str) -> float:
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run([sys.executable, *arguments], capture_output=True, check=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
