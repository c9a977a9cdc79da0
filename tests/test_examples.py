"""The examples run and print what they promise; what the README shows in code is accepted by the code."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import typer
import yaml

from mmkd_core.plugins import PluginHost

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
HANGS = 900
"""Seconds after which a run does not end at all, however slow the machine."""


def run(script: str, folder: Path) -> str:
    """What an example prints, run as a user would in another folder; it must not leave anything there."""
    environ = {**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-W", "error::UserWarning", str(ROOT / "examples" / script)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=folder, env=environ, timeout=HANGS, check=False)
    assert done.returncode == 0, done.stderr
    assert list(folder.iterdir()) == []
    return done.stdout


def test_every_example_is_run_here_and_says_what_it_shows():
    examples = sorted(p.relative_to(ROOT / "examples").as_posix() for p in (ROOT / "examples").glob("**/*.py"))
    scripts = [name for name in examples if not name.endswith("__init__.py")]
    assert scripts == [
        "01_load_a_teacher.py",
        "02_feature_store.py",
        "03_write_a_plugin/run.py",
        "04_evaluate.py",
        "05_audit.py",
    ]
    for name in scripts:
        text = (ROOT / "examples" / name).read_text(encoding="utf-8")
        assert "\nShows: " in text, name
        assert f"    python examples/{name}\n" in text


def test_a_teacher_is_loaded_and_names_the_finding(tmp_path):
    printed = run("01_load_a_teacher.py", tmp_path)
    assert re.search(r"^phantom-radio: .+\ngood at xray, ct; fingerprint [0-9a-f]{32}$", printed, re.MULTILINE)
    shares = re.findall(r"^ +([\d.]+)%  (.+)$", printed, re.MULTILINE)
    assert {name for _, name in shares} == {
        "no finding",
        "nodule",
        "pleural effusion",
        "pneumothorax",
        "enlarged heart",
    }
    assert sum(float(share) for share, _ in shares) == pytest.approx(100, abs=0.3)
    assert shares[0][1] == "pleural effusion"
    assert float(shares[0][0]) > 50


def test_the_store_is_used_alone(tmp_path):
    printed = run("02_feature_store.py", tmp_path).splitlines()
    assert printed[:2] == ["teacher-b lacks 2,000 of 5,000 rows", "teacher-b lacks 0 now"]
    found = re.fullmatch(r"gathered \(3, 64\) float32; float16 changed no number by more than ([\d.]+)", printed[2])
    assert found
    assert 0 < float(found[1]) <= 0.001  # float16 between 2 and 4 is at most 2**-10 off
    assert printed[3] == "float32 comes back bit by bit: True"
    assert printed[4].startswith("teacher-a: 5,000 x 64 float16, ")
    assert printed[5].startswith("teacher-b: 5,000 x 256 float32, ")
    assert printed[5].endswith("{'name': 'the larger one'}")
    assert printed[6:] == ["damaged blocks: 0"]


def test_a_plugin_is_written_by_hand_and_by_export(tmp_path):
    printed = run("03_write_a_plugin/run.py", tmp_path)
    assert "  tiny-clip: image features (1, 16), text features (3, 16)\n" in printed
    assert "  golden values True, embedding of 16, logit scale 14.3\n" in printed
    assert "  source README.md, pyproject.toml, src\n" in printed
    wheel = re.search(r"^  wheel (mmkd_tiny_export-\S+-py3-none-any\.whl)$", printed, re.MULTILINE)
    assert wheel
    for name in ("__init__.py", "teacher/teacher.json", "teacher/open_clip_model.safetensors"):
        assert f"  mmkd_tiny_export/{name}\n" in printed
    assert "  entry point [mmkd.v1] tiny-export = mmkd_tiny_export\n" in printed
    assert printed.endswith(f"  next: mmkd teachers add ./{wheel[1]}\n")


def test_frozen_features_are_evaluated(tmp_path):
    printed = run("04_evaluate.py", tmp_path)
    found = dict(re.findall(r"^(strong|weak): 100% of the labels .*: ([\d.]+) \(", printed, re.MULTILINE))
    assert float(found["strong"]) > float(found["weak"]) > 0.5
    gain = re.search(r"^strong minus weak: .*: ([\d.]+) \(([\d.]+) to", printed, re.MULTILINE)
    assert gain
    assert float(gain[1]) == pytest.approx(float(found["strong"]) - float(found["weak"]), abs=2e-3)
    assert float(gain[2]) > 0
    assert float(re.findall(r"Harrell C: ([\d.]+)", printed)[0]) > 0.6


def test_two_classifiers_are_audited(tmp_path):
    few, many = run("05_audit.py", tmp_path).split("1000 patients: ")
    assert few.startswith("100 patients: INCONCLUSIVE")
    assert "more samples would decide" in few
    assert many.startswith("PASS")


def test_the_workflow_uses_commands_and_facts_that_exist():
    text = (ROOT / "examples" / "workflow" / "integrate.yml").read_text(encoding="utf-8")
    steps = yaml.safe_load(text)["jobs"]["integrate"]["steps"]
    lines = [line.strip() for step in steps for line in step.get("run", "").splitlines()]
    used = [line.partition(" > ")[0].removeprefix(".venv/bin/") for line in lines if line.startswith(".venv/bin/mmkd")]
    assert len(used) == 6
    from mmkd_core.audit.comparison import Comparison, Undefined
    from mmkd_core.cli import app

    for line in used:
        command: Any = typer.main.get_command(app)
        words = shlex.split(line)[1:]
        while hasattr(command, "commands"):
            command, words = command.commands[words[0]], words[1:]
        command.make_context(line, words)
    fields = {*Comparison.__dataclass_fields__, *Undefined.__dataclass_fields__}
    assert set(re.findall(r"\brow\.(\w+)", text)) <= fields
    written = (ROOT / "mmkd_core" / "integrate" / "auditing.py").read_text(encoding="utf-8")
    told = {
        *re.findall(r'"(\w+)":', written),
        "verdict",
        "comparisons",
        "undefined",
        "json",
        "outputs",
    }  # the last two are a file's and a step's
    assert set(re.findall(r"\baudit\.(\w+)", text)) <= told


def test_the_plugin_in_the_readme_is_accepted():
    (block,) = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    module = ModuleType("mmkd_my_clip")
    exec(compile(block, "README.md", "exec"), module.__dict__)
    host = PluginHost.offering({"my-clip": module})
    assert [(record.status, record.error) for record in host.records()] == [("loaded", "")]
    assert [spec.name for spec in host.specs()] == ["my-clip"]


def commands() -> list[str]:
    """Every ``mmkd ...`` in the README, in a block or between backticks, chains and comments taken apart."""
    lines = [line.partition("#")[0] for line in README.splitlines() if line.startswith("    ")]
    parts = [part.strip() for text in [*lines, *re.findall(r"`([^`\n]+)`", README)] for part in text.split("&&")]
    return sorted({part for part in parts if part.startswith("mmkd ")})


@pytest.mark.parametrize("line", commands())
def test_the_commands_in_the_readme_exist(line, tmp_path, monkeypatch):
    from mmkd_core.cli import app

    (tmp_path / "DIR").mkdir()  # some options want a folder that exists
    monkeypatch.chdir(tmp_path)

    command: Any = typer.main.get_command(app)
    words = shlex.split(line)[1:]
    while hasattr(command, "commands") and words and not words[0].startswith("-"):
        assert words[0] in command.commands, f"{line}: there is no {words[0]}"
        command, words = command.commands[words[0]], words[1:]
    with command.make_context(line, words) as context:
        assert context.args == []


def test_the_readme_has_commands_and_its_two_lines():
    assert len(commands()) > 15
    assert "\n    pip install -e . && mmkd quickstart\n" in README
    assert "\n    pip install -e '.[dev]' && pytest\n" in README
    for target in re.findall(r"\]\((?!http)([^)#]+)\)", README):
        assert (ROOT / target).exists(), target
