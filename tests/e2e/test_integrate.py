"""`mmkd integrate`, `mmkd repair` and `mmkd teachers remove --unlearn` as installed commands, killed and run again."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

pytestmark = pytest.mark.slow

MMKD = [sys.executable, "-m", "mmkd_core"]
NEW = "phantom-sono"


def mmkd(*words: object, code: int | None = 0) -> dict[str, Any]:
    """The JSON answer of a command; ``code`` None takes the one that its verdict has."""
    command = [*MMKD, *map(str, words), "--json"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode in ((0, 1, 3) if code is None else (code,)), done.stderr
    answer: dict[str, Any] = json.loads(done.stdout)
    if code is None:
        assert done.returncode == {"PASS": 0, "FAIL": 1, "INCONCLUSIVE": 3, None: 0}[answer["verdict"]]
    return answer


@pytest.fixture(scope="module")
def before(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A workspace with a first release of three teachers."""
    folder = tmp_path_factory.mktemp("integrate") / "ws"
    mmkd("quickstart", folder, "--smoke")
    shutil.rmtree(folder / "releases" / "0002")
    (folder / "releases" / "LOG.jsonl").unlink()
    (folder / "releases" / "CURRENT").write_text("0001\n")
    for made in [folder / ".mmkd" / "audits", *(folder / ".mmkd" / "runs").glob("integrate-*")]:
        shutil.rmtree(made, ignore_errors=True)
    lock = json.loads((folder / "mmkd.lock").read_text())
    del lock["teachers"][NEW]
    (folder / "mmkd.lock").write_text(json.dumps(lock))
    return folder


@pytest.fixture(scope="module")
def after(before: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same, with the fourth teacher integrated in one go."""
    folder = tmp_path_factory.mktemp("integrated") / "ws"
    shutil.copytree(before, folder)
    answer = mmkd("integrate", NEW, "-w", folder, code=3)  # forty test images in a domain cannot show more
    assert answer["candidate"] == "0002"
    assert list(answer["steps"])[:5] == ["add", "extract", "trust", "distil", "audit"]
    return folder


def copy(folder: Path, target: Path, **incremental: Any) -> Path:
    shutil.copytree(folder, target)
    settings = yaml.safe_load((target / "mmkd.yaml").read_text())
    settings["incremental"] |= incremental
    (target / "mmkd.yaml").write_text(yaml.safe_dump(settings))
    return target


def killed_when(there: Callable[[], bool], command: list[str]) -> bool:
    """Kill a command as soon as something is there; whether it was still running then."""
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True)
    while not there() and process.poll() is None:
        time.sleep(0.01)
    running = process.poll() is None
    os.killpg(process.pid, signal.SIGKILL) if running else None
    process.wait()
    return running


def outcome(folder: Path) -> dict[str, Any]:
    releases = sorted(path.name for path in (folder / "releases").iterdir() if path.is_dir())
    facts = {name: json.loads((folder / "releases" / name / "release.json").read_text()) for name in releases}
    files = {name: found["files"] for name, found in facts.items()}
    return {"current": (folder / "releases" / "CURRENT").read_text(), "files": files, "lock": lock_of(folder)}


def lock_of(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "mmkd.lock").read_text())["teachers"]


def test_killed_again_and_again_it_ends_as_one_that_was_not(before: Path, after: Path, tmp_path: Path) -> None:
    folder = copy(before, tmp_path / "ws")
    reached: dict[str, Callable[[], bool]] = {
        "the teacher is locked": lambda: NEW in lock_of(folder),
        "it trains": lambda: any(folder.glob(".mmkd/runs/integrate-*/log.jsonl")),
        "the candidate is there": lambda: (folder / "releases" / "0002" / "release.json").exists(),
    }
    command = [*MMKD, "integrate", NEW, "-w", str(folder)]
    for moment, there in reached.items():
        assert killed_when(there, command), f"it ended before {moment}"
        assert (folder / "releases" / "CURRENT").read_text().strip() in ("0001", "0002")
    subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=False)
    ours, theirs = outcome(folder), outcome(after)
    for files in (ours["files"], theirs["files"]):
        for name in ("mmkd.yaml",):  # a copy may write the same settings in another order
            files["0002"].pop(name, None)
    assert ours == theirs


def test_run_again_it_does_nothing_and_says_the_same(after: Path) -> None:
    whole = outcome(after)
    trained = {path: path.stat().st_mtime_ns for path in after.glob(".mmkd/runs/**/*") if path.is_file()}
    answer = mmkd("integrate", NEW, "-w", after, code=3)
    assert outcome(after) == whole
    assert "already" in json.dumps(answer["steps"])
    assert answer["candidate"] == "0002"
    assert trained == {path: path.stat().st_mtime_ns for path in after.glob(".mmkd/runs/**/*") if path.is_file()}


def test_what_fails_is_repaired_or_the_parent_stays(before: Path, tmp_path: Path) -> None:
    """So fast that something is forgotten, and no part of the parent kept."""
    folder = copy(before, tmp_path / "ws", keep=0.0, lr=0.05, warmup=0, replay=0.0, parent=0.0)
    answer = mmkd("integrate", NEW, "-w", folder, code=None)
    repair = answer["repair"]
    assert repair is not None, answer
    assert answer["verdict"] == ("FAIL" if repair["how"] == "parent" else "PASS")
    assert [attempt["how"] for attempt in repair["attempts"]][:1] == ["interpolation"]
    current = (folder / "releases" / "CURRENT").read_text().strip()
    assert current == repair["in_use"]
    if repair["how"] == "parent":
        assert current == "0001"
        assert len(repair["attempts"]) == 2
    else:
        facts = json.loads((folder / "releases" / current / "release.json").read_text())
        assert facts["repair"]["of"] == "0002"
        assert facts["repair"]["how"] == repair["how"]
    whole = outcome(folder)
    again = mmkd("integrate", NEW, "-w", folder, code=None)
    assert outcome(folder) == whole
    assert again["in_use"] == answer["in_use"]


def test_a_withdrawn_teacher_leaves_the_student_and_the_store(after: Path, tmp_path: Path) -> None:
    folder = copy(after, tmp_path / "ws")
    (folder / "releases" / "CURRENT").write_text("0002\n")
    fingerprint = lock_of(folder)["phantom-eye"]["fingerprint"]
    answer = mmkd("teachers", "remove", "phantom-eye", "--unlearn", "-w", folder)
    assert answer["holding"] == ["0001", "0002"]
    assert answer["from"] == "stage 1"
    facts = json.loads((folder / "releases" / answer["in_use"] / "release.json").read_text())
    assert set(facts["teachers"]) == {"phantom-radio", "phantom-tissue", NEW}
    assert facts["unlearned"]["teacher"] == "phantom-eye"
    assert facts["parent"] is None
    assert "phantom-eye" not in lock_of(folder)
    dropped = mmkd("store", "gc", "-w", folder)
    assert fingerprint in json.dumps(dropped)

    answer = mmkd("teachers", "remove", "phantom-eye", "--unlearn", "-w", folder)
    assert answer["from"] is None, "a second time nothing is left to do"


def test_a_withdrawn_newcomer_is_undone_from_the_release_before_it(after: Path, tmp_path: Path) -> None:
    folder = copy(after, tmp_path / "ws")
    (folder / "releases" / "CURRENT").write_text("0002\n")
    answer = mmkd("teachers", "remove", NEW, "--unlearn", "-w", folder)
    assert (answer["holding"], answer["from"], answer["in_use"]) == (["0002"], "0001", "0001")
    assert json.loads((folder / "releases" / "withdrawn.json").read_text())[NEW]["replaced_by"] == "0001"


def test_a_forecast_asks_for_a_sample_and_trains_nothing(before: Path, tmp_path: Path) -> None:
    folder = copy(before, tmp_path / "ws")
    refused = subprocess.run([*MMKD, "teachers", "forecast", NEW, "-w", str(folder)], capture_output=True, check=False)
    assert refused.returncode == 2, "it is not in use"
    mmkd("teachers", "add", NEW, "-w", folder)
    whole = outcome(folder)
    found = mmkd("teachers", "forecast", NEW, "-w", folder)
    assert outcome(folder) == whole
    assert 0 < found["novelty"]["share"] <= 1
    assert set(found["known"]) == {"phantom-radio", "phantom-tissue", "phantom-eye"}
    best = max(found["right"], key=lambda domain: found["right"][domain]["only"])
    assert best in ("mri", "ultrasound"), "its own ground"
    assert all(0 <= entry["disagreement"] <= 1 for entry in found["interference"].values())
    assert {"phantom-radio/ct", "phantom-eye/fundus"} <= set(found["interference"])
    assert found["training_s"] > 0
