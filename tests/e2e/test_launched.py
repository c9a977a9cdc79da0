"""Training as users start it: by torchrun on two processes, and stopped by Ctrl-C."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

pytestmark = pytest.mark.slow

TRAIN = {"steps": 6, "batch_size": 16, "warmup": 2, "precision": "fp32"}
SETTINGS = {
    "student": {
        "vision": "vit-tiny",
        "image_size": 32,
        "embed_dim": 16,
        "text": {"vocab_size": 128, "context_length": 12, "width": 32, "heads": 2, "layers": 1},
    },
    "pretrain": TRAIN,
    "distill": {**TRAIN, "lr": 2e-4},
    "incremental": {**TRAIN, "lr": 2e-4},
    "trust": {"rule": "none"},
}
MMKD = (sys.executable, "-m", "mmkd_core")
TORCHRUN = (sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "-m", "mmkd_core")
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1"}


def shell(*command: object, codes: tuple[int, ...] = (0,)) -> subprocess.CompletedProcess[str]:
    arguments = [str(part) for part in command]
    done = subprocess.run(arguments, capture_output=True, text=True, env=ENVIRONMENT, timeout=900, check=False)
    assert done.returncode in codes, done.stderr
    return done


@pytest.fixture(scope="module")
def ready(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A workspace with features of a teacher."""
    root = tmp_path_factory.mktemp("launched")
    (root / "mine.yaml").write_text(yaml.safe_dump(SETTINGS))
    ws = root / "ws"
    shell(*MMKD, "init", ws, "--config", root / "mine.yaml")
    shell(*MMKD, "data", "phantom", "--train", 12, "--val", 4, "--test", 4, "--domains", "xray,ct,mri", "-w", ws)
    shell(*MMKD, "teachers", "add", "phantom-radio", "-w", ws)
    shell(*MMKD, "extract", "-w", ws)
    return ws


def losses(path: Path) -> list[float]:
    return [json.loads(line)["loss"] for line in path.read_text().splitlines()]


def test_torchrun_makes_the_release_that_one_process_makes(ready: Path, tmp_path: Path) -> None:
    alone, together = (Path(shutil.copytree(ready, tmp_path / name)) for name in ("alone", "together"))
    for ws, program in ((alone, MMKD), (together, TORCHRUN)):
        done = shell(*program, "pretrain", "-w", ws, "--json")
        assert json.loads(done.stdout)["trained"] is True  # one answer: only the leader speaks
        done = shell(*program, "distill", "-w", ws, "--json")
        assert json.loads(done.stdout)["release"] == "0001"
    for log in (".mmkd/runs/pretrain/log.jsonl", "releases/0001/log.jsonl"):
        ours, theirs = losses(together / log), losses(alone / log)
        assert len(ours) == 2
        assert ours == pytest.approx(theirs, rel=1e-4)
    again = shell(*TORCHRUN, "distill", "-w", together, "--json")
    assert json.loads(again.stdout)["made"] is False


def test_torchrun_integrates_and_repairs_as_one_process_does(ready: Path, tmp_path: Path) -> None:
    """All processes train, the leader does the rest, and all take the same way through what depends on a verdict."""
    alone, together = (Path(shutil.copytree(ready, tmp_path / name)) for name in ("alone", "together"))
    answers = {}
    for ws, program in ((alone, MMKD), (together, TORCHRUN)):
        shell(*program, "pretrain", "-w", ws)
        first = shell(*program, "integrate", "phantom-radio", "-w", ws, "--json")
        assert json.loads(first.stdout)["in_use"] == "0001"
        # Verdicts on twelve test images: torchrun itself exits with 1 where its processes do not with 0.
        grown = json.loads(shell(*program, "integrate", "phantom-sono", "-w", ws, "--json", codes=(0, 1, 3)).stdout)
        assert grown["verdict"] == "INCONCLUSIVE"  # or there is nothing to repair
        mended = json.loads(shell(*program, "repair", "0002", "-w", ws, "--json", codes=(0, 1)).stdout)
        answers[ws] = [grown["verdict"], grown["candidate"], grown["in_use"], mended["how"], mended["in_use"]]
        answers[ws] += [(a["how"], a["release"], a["verdict"]) for a in mended["attempts"]]
    assert answers[alone] == answers[together]
    assert any(how == "replay" and release for how, release, _ in answers[together][5:])
    for log in sorted(alone.glob("releases/*/log.jsonl")):
        assert losses(together / log.relative_to(alone)) == pytest.approx(losses(log), rel=1e-4)


def test_what_stops_the_leader_stops_the_others(ready: Path) -> None:
    arguments = [str(part) for part in (*TORCHRUN, "integrate", "nobody", "-w", ready)]
    done = subprocess.run(arguments, capture_output=True, text=True, env=ENVIRONMENT, timeout=900, check=False)
    assert done.returncode != 0
    assert "no teacher is called 'nobody'" in done.stderr


def test_ctrl_c_keeps_the_step_and_tells_how_to_go_on(ready: Path, tmp_path: Path) -> None:
    ws = Path(shutil.copytree(ready, tmp_path / "ws"))
    command = [*MMKD, "pretrain", "--steps", "100000", "-w", str(ws)]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=ENVIRONMENT)
    log = ws / ".mmkd/runs/pretrain/log.jsonl"
    while not (log.exists() and log.stat().st_size) and process.poll() is None:  # the first step was taken
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    _, told = process.communicate(timeout=900)
    assert process.returncode == 130
    assert "of 100,000 of stage 1, which is kept; go on with `mmkd pretrain --steps 100000 -w " in told
    assert "Traceback" not in told
    assert (ws / ".mmkd/runs/pretrain/checkpoint.pt").exists()
