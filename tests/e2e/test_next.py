"""Somebody types what `next:` says, command after command, from an empty folder to an exported student."""

import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

pytestmark = pytest.mark.slow

SMALL = " --train 24 --val 12 --test 16 --domains fundus,xray"


def said(folder: Path, command: str) -> str:
    words = shlex.split(command)
    assert words[0] == "mmkd", command
    ran = [sys.executable, "-m", "mmkd_core", *words[1:]]
    done = subprocess.run(ran, cwd=folder, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode in (0, 1, 3), (command, done.stderr)
    return done.stdout.splitlines()[-1].removeprefix("next: ")


def test_the_whole_way_in_a_folder_with_a_blank(tmp_path: Path) -> None:
    following = said(tmp_path, "mmkd init 'my student'")
    settings = tmp_path / "my student" / "mmkd.yaml"
    facts = yaml.safe_load(settings.read_text())
    facts["student"].update(image_size=32)
    for part in ("pretrain", "distill", "incremental"):
        facts[part].update(steps=4, batch_size=16, warmup=1)
    settings.write_text(yaml.safe_dump(facts))
    way = []
    while following.startswith("mmkd "):
        assert following.endswith(" -w 'my student'")
        assert following not in way, way
        way.append(following)
        phantom = following.startswith("mmkd data phantom")
        following = said(tmp_path, following + (SMALL if phantom else ""))
    assert [" ".join(command.split()[1:3]) for command in way] == [
        "data phantom",
        "teachers list",
        "teachers add",
        "extract -w",
        "pretrain -w",
        "audit trust",
        "distill -w",
        "report -w",
        "export open-clip",
    ]
    assert (tmp_path / "my student" / "exports" / "open-clip-0001" / "open_clip_config.json").is_file()
