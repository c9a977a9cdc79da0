"""Two processes (gloo) against one, and pieces against whole batches: the same losses, step by step, in both stages."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from benchmarks import both_stages
from benchmarks.training import kill_training

PROGRAM = both_stages.__file__


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    folder = tmp_path_factory.mktemp("features") / "store"
    both_stages.write_store(folder)
    return folder


@pytest.fixture(scope="module")
def alone(store, tmp_path_factory):
    before = both_stages.training.LOG_EVERY
    yield both_stages.run(tmp_path_factory.mktemp("alone"), store)
    both_stages.training.LOG_EVERY = before


def launch(folder: Path, store: Path, *arguments: str, world: int = 2) -> list[subprocess.CompletedProcess[str]]:
    """Run the program in ``world`` processes that find one another, as torchrun starts them."""
    (folder / "store").symlink_to(store)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    shared = {"WORLD_SIZE": str(world), "LOCAL_WORLD_SIZE": str(world), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    command = [sys.executable, "-W", "error", str(PROGRAM), str(folder), *arguments]
    running = [
        subprocess.Popen(
            command,
            env={**os.environ, **shared, "RANK": str(i), "LOCAL_RANK": str(i), "OMP_NUM_THREADS": "1"},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for i in range(world)
    ]
    ended = [(process, *process.communicate(timeout=900)) for process in running]
    return [subprocess.CompletedProcess(command, process.returncode, out, err) for process, out, err in ended]


def assert_same_losses(ours, theirs):
    assert len(ours) == len(theirs) == 2
    for one, two in zip(ours, theirs, strict=True):
        assert [row["step"] for row in one] == [row["step"] for row in two] == [1, 2, 3, 4, 5]
        for a, b in zip(one, two, strict=True):
            assert a.keys() == b.keys()
            np.testing.assert_allclose([a[name] for name in a], [b[name] for name in a], rtol=1e-5)


@pytest.mark.parametrize("accumulate", [pytest.param("1", marks=pytest.mark.slow), "2"])
def test_two_processes_train_as_one(alone, store, tmp_path, accumulate):
    done = launch(tmp_path, store, accumulate)
    assert [process.returncode for process in done] == [0, 0], done[0].stderr + done[1].stderr
    results = [json.loads((tmp_path / f"result-{i}.json").read_text()) for i in range(2)]
    assert results[0]["weights"] == results[1]["weights"]  # bit for bit, or they would drift apart
    for result in results:
        assert_same_losses(result["logs"], alone["logs"])
        np.testing.assert_allclose(result["weights"], alone["weights"], rtol=1e-5)
    lines = (tmp_path / "two/log.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in lines] == [1, 2, 3, 4, 5]  # written once


def test_four_pieces_train_as_one(alone, store, tmp_path):
    assert_same_losses(both_stages.run(tmp_path, store, accumulate=4)["logs"], alone["logs"])


@pytest.mark.slow
def test_a_process_that_dies_ends_the_others_with_a_sentence(store, tmp_path):
    leader, other = launch(tmp_path, store, "1", "--die")
    assert other.returncode == -9
    assert leader.returncode not in (0, -9)
    assert "another process of this run has ended (process 0 of 2). See what it said" in leader.stderr


@pytest.mark.slow
def test_killed_at_random_moments_training_ends_with_the_same_bits():
    """``python benchmarks/run.py resume-exactness`` does it 50 times."""
    done = kill_training(8, seed=3)
    assert done["kills"] == 8
    assert done["midway"] >= 4
    assert done["different"] == 0 < done["runs"]
