"""`mmkd eval set`, `compare` and `data import-set`: one task that cannot be done does not take the others along."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml


def facts(done: Any) -> dict[str, Any]:
    assert done.exit_code == 0, (done.stderr, done.exception)
    found: dict[str, Any] = json.loads(done.stdout)
    return found


@pytest.fixture
def ready(mmkd: Any, installed: Any, workspace: Path) -> Iterator[Path]:
    """A workspace of one domain with evaluation sets and a teacher; too few of its patients die for survival."""
    installed("good")
    sizes = ("--train", 24, "--val", 12, "--test", 12, "--domains", "xray")
    assert mmkd("data", "phantom", "-w", workspace, *sizes).exit_code == 0
    assert mmkd("teachers", "add", "good", "-w", workspace).exit_code == 0
    assert mmkd("data", "phantom-sets", "-w", workspace).exit_code == 0
    yield workspace
    for name in [name for name in sys.modules if name.startswith("mmkd_good")]:
        del sys.modules[name]


def test_a_task_that_cannot_be_done_leaves_the_figures_of_the_others(mmkd: Any, ready: Path) -> None:
    evals = ready / "evals" / "phantom-xray"
    done = mmkd("eval", "set", evals, "good", "-w", ready)
    assert done.exit_code == 2, (done.stdout, done.stderr)
    said = " ".join(done.stdout.split())
    assert "survival was not done: " in said
    assert "events are too few for 5 folds" in said
    for protocol in ("zero-shot@2", "linear-probe@2", "retrieval@2", "diagnosis@2"):
        assert f"mmkd/{protocol}" in said
    files = {path.name for path in (ready / ".mmkd" / "evaluations" / "good" / "phantom-xray").iterdir()}
    names = [f"{name}.parquet" for name in ("zero-shot-2", "linear-probe-2", "retrieval-2", "diagnosis-2")]
    assert files == {*names, *(f"{name}.json" for name in names)}  # the latter say what they are of

    told = mmkd("eval", "set", evals, "good", "-w", ready, "--json")
    assert told.exit_code == 2
    found = json.loads(told.stdout)
    assert list(found["failed"]) == ["survival"]
    assert "too few" in found["failed"]["survival"]
    assert {figure["protocol"] for figure in found["figures"]} >= {"mmkd/zero-shot@2", "mmkd/diagnosis@2"}

    alone = mmkd("eval", "set", evals, "good", "-w", ready, "--task", "survival")
    assert alone.exit_code == 2
    assert "events are too few for 5 folds" in alone.stderr
    assert not alone.stdout

    same = facts(mmkd("compare", evals, "good", "good", "-w", ready, "--json"))
    assert len(same["figures"]) == len(found["figures"])
    assert all(figure["interval"] is None or figure["interval"]["estimate"] == 0 for figure in same["figures"])

    # What is compared is of the set as it is, and whole.
    kept = ready / ".mmkd" / "evaluations" / "good" / "phantom-xray" / "zero-shot-2.parquet"
    good = kept.read_bytes()
    kept.write_bytes(good[:-60] + bytes([good[-60] ^ 1]) + good[-59:])
    refused = mmkd("compare", evals, "good", "good", "-w", ready)
    assert refused.exit_code == 2
    assert "the evaluation of good on phantom-xray is damaged: zero-shot-2.parquet is changed" in refused.stderr
    assert f"mmkd eval set {evals} good" in refused.stderr
    kept.write_bytes(good)
    task = yaml.safe_load((evals / "task.yaml").read_text())
    first = next(iter(task["prompts"]))
    task["prompts"][first] = ["another sentence"]
    (evals / "task.yaml").write_text(yaml.safe_dump(task, sort_keys=False))
    refused = mmkd("compare", evals, "good", "good", "-w", ready)
    assert refused.exit_code == 2
    assert (
        "the evaluation of good on phantom-xray was made from other inputs: prompts changed; task.yaml changed"
        in refused.stderr
    )

    whole = facts(mmkd("eval", "set", ready / "evals" / "phantom-xray-vqa", "good", "-w", ready, "--json"))
    assert whole["failed"] == {}
    assert {figure["protocol"] for figure in whole["figures"]} == {"mmkd/vqa-probe@1", "mmkd/vqa-closed@1"}


@pytest.mark.slow  # 154 small regressions
def test_chestmnist_is_imported_and_evaluated(mmkd: Any, ready: Path) -> None:
    rng, values = np.random.default_rng(0), {}
    for split, n in (("train", 40), ("val", 16), ("test", 24)):
        values[f"{split}_images"] = rng.integers(0, 256, (n, 28, 28), np.uint8)
        values[f"{split}_labels"] = rng.integers(0, 2, (n, 14), np.uint8)
    np.savez(ready / "chestmnist.npz", **values)
    made = mmkd("data", "import-set", ready / "chestmnist.npz", "-w", ready)
    assert made.exit_code == 0, made.stderr
    assert "chestmnist has the tasks zero-shot, linear-probe" in made.stdout
    assert "no patients are named" in made.stdout
    found = facts(mmkd("eval", "set", ready / "evals" / "chestmnist", "good", "-w", ready, "--json"))
    assert {figure["protocol"] for figure in found["figures"]} == {
        "mmkd/zero-shot-multilabel@2",
        "mmkd/linear-probe-multilabel@2",
    }
    assert "atelectasis" in {figure["part"] for figure in found["figures"]}


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("hf:owner/name", "--domain", "ct"), "which revision?"),
        (("chest.npz",), "no such file"),
        (("folder", "--domain", "ct", "--columns", "label"), "--columns must be pairs"),
    ],
)
def test_what_cannot_be_imported_says_why(mmkd: Any, workspace: Path, arguments: tuple[str, ...], says: str) -> None:
    done = mmkd("data", "import-set", *arguments, "-w", workspace)
    assert done.exit_code == 2
    assert says in " ".join(done.stderr.split())
