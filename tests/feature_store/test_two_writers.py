"""Writers of several processes that open one store at the same moment, while it is made and later."""

from __future__ import annotations

import subprocess
from pathlib import Path

import numpy as np

from feature_store import FeatureStore
from tests.feature_store.test_store_faults import start, values

CONTENDER = """
for line in sys.stdin:
    turn, number = map(int, line.split())
    rows = range(300 * turn, 300 * turn + 300)
    try:
        store = FeatureStore.open(path, "w", block_rows=64)
    except StoreError as problem:
        print("refused", problem.what, flush=True)
    else:
        numbered = store.add_ids("image", [f"i{row}" for row in rows])
        assert numbered.tolist() == list(rows)
        store.put("t", "image", rows, values(rows), dtype="float32")
        print("wrote", number, flush=True)
        sys.stdin.readline()  # until all have told
        store.close()
        print("closed", flush=True)
"""


def tell(process: subprocess.Popen[str], line: str) -> None:
    assert process.stdin is not None
    process.stdin.write(line + "\n")
    process.stdin.flush()


def hear(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


def test_one_of_several_writers_at_once_works_and_the_others_change_nothing(tmp_path: Path) -> None:
    turns, processes = 10, [start(CONTENDER, tmp_path / "s") for _ in range(3)]
    for turn in range(turns):
        for number, process in enumerate(processes):
            tell(process, f"{turn} {number}")
        told = [hear(process) for process in processes]
        writers = [number for number, line in enumerate(told) if line == f"wrote {number}"]
        assert len(writers) == 1, told
        refused = [line for line in told if line.startswith("refused the store is being written by process ")]
        assert len(refused) == len(processes) - 1, told
        tell(processes[writers[0]], "")
        assert hear(processes[writers[0]]) == "closed"
    for process in processes:
        process.communicate()
        assert process.returncode == 0
    with FeatureStore.open(tmp_path / "s") as store:
        assert store.verify() == []
        assert store.info().rows == 300 * turns
        np.testing.assert_array_equal(store.gather("t", "image", range(300 * turns)), values(range(300 * turns)))
