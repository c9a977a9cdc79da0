"""From the README to a student of one's own images: its commands as they stand, in a shell, with no editor."""

from __future__ import annotations

import csv
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from mmkd_core.data.phantom.generate import PhantomConfig, generate

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[2]
SECTION = re.search(
    r"## A student of your own images, in five commands\n(.*?)\n## ",
    (ROOT / "README.md").read_text(encoding="utf-8"),
    re.DOTALL,
)
LOAD = """
import open_clip, torch
model, _, preprocess = open_clip.create_model_and_transforms("local-dir:student")
tokens = open_clip.get_tokenizer("local-dir:student")(["chest x-ray"])
with torch.inference_mode():
    assert model.encode_text(tokens).isfinite().all()
"""


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """A home with labelled radiographs in ``~/images``, and mmkd installed."""
    images = tmp_path / "images"
    images.mkdir()
    made = generate(tmp_path / "made", PhantomConfig(seed=5, train=120, val=8, test=22, domains=("xray",)))
    with (images / "labels.csv").open("w", encoding="utf-8", newline="") as file:
        table = csv.writer(file)
        table.writerow(["image", "label", "group_id"])
        for number, (image, label, patient) in enumerate(zip(made.image, made.label, made.group_id, strict=True)):
            shutil.copy(made.root / image, images / f"{number:04d}.png")
            table.writerow([f"{number:04d}.png", label, patient])
    shutil.rmtree(made.root)
    (tmp_path / "bin").mkdir()
    script = tmp_path / "bin" / "mmkd"
    script.write_text(f"#!{sys.executable}\nfrom mmkd_core.cli import main\nmain()\n")
    script.chmod(0o755)
    return tmp_path


def test_the_five_commands_of_the_readme_end_in_a_student_that_open_clip_loads(home: Path) -> None:
    assert SECTION
    commands = [line.strip() for line in SECTION[1].splitlines() if line.startswith("    ")]
    assert len(commands) == 5
    install, *others = commands
    assert install == "pip install -e .", "which is what this test stands on"
    paths = f"{home / 'bin'}{os.pathsep}{os.environ['PATH']}"
    environ = {**os.environ, "HOME": str(home), "PATH": paths, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}

    def run(command: str) -> str:
        shell = ["bash", "-e", "-c", command]
        done = subprocess.run(shell, cwd=home, env=environ, stdin=subprocess.DEVNULL, capture_output=True, text=True)
        assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
        return done.stdout

    for command in others:
        said = run(command)
        if command.startswith("mmkd integrate"):
            assert "measured in xray" in said
            assert "verdict: none, nothing to compare with" in said
        if command.startswith("mmkd init"):  # a user waits some minutes for 400 steps; a test does not
            settings = home / "my-student" / "mmkd.yaml"
            settings.write_text(re.sub(r"(?m)^  steps: \d+$", "  steps: 8", settings.read_text()))
    assert (home / "my-student" / "releases" / "CURRENT").read_text() == "0001\n"
    done = subprocess.run([sys.executable, "-I", "-c", LOAD], cwd=home, env=environ, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
