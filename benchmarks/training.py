"""The training loop: killed at random moments and resumed, it ends with the bits of an undisturbed run."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

KILLS = 50
STEPS = 60
"""Of each of the two stages."""


def resume_exactness() -> list[dict[str, Any]]:
    """SIGKILL at random moments of two stages (batch norms, heads, optimiser): runs whose end differs in any bit."""
    done = kill_training(KILLS)
    return [
        {
            "name": "resume-exactness",
            "value": float(done["different"]),
            "unit": "runs that end differently",
            "against": "the undisturbed run, bit for bit: weights, heads, logs",
            "spread": f"{done['kills']} kills, {done['midway']} of them after a checkpoint, {done['runs']} runs",
        }
    ]


def kill_training(kills: int, seed: int = 0) -> dict[str, int]:
    """Kill that often; returns ``kills``, ``midway``, ``runs`` (finished ones) and ``different``.

    In a process of its own: it forks, which a process that has used autograd may not do.
    """
    command = [sys.executable, __file__, str(kills), str(seed)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, stdout=subprocess.PIPE, env=environment, text=True, check=True)
    facts: dict[str, int] = json.loads(done.stdout.splitlines()[-1])
    return facts


def _main(kills: int, seed: int) -> dict[str, int]:
    import both_stages

    moment = random.Random(seed)
    facts = {"kills": 0, "midway": 0, "runs": 0, "different": 0}
    with TemporaryDirectory() as name:
        place = Path(name)
        both_stages.write_store(place / "store")
        both_stages.build("resnet-timm")  # imports here once what each child would import
        began = time.monotonic()
        assert _ended(_begin(place / "calm", place / "store"))
        seconds = time.monotonic() - began
        expected = (place / "calm/result.json").read_bytes()
        while facts["kills"] < kills or facts["runs"] == 0:
            run = place / f"run-{facts['runs']}"
            child = _begin(run, place / "store")
            if facts["kills"] < kills:
                time.sleep(moment.uniform(0, seconds / 4))
                os.kill(child, signal.SIGKILL)
            if _ended(child):
                facts["runs"] += 1
                facts["different"] += (run / "result.json").read_bytes() != expected
            else:
                facts["kills"] += 1
                facts["midway"] += any(run.rglob("checkpoint.pt"))
                print(f"{facts['kills']} of {kills} kills", file=sys.stderr, flush=True)
    return facts


def _begin(run: Path, store: Path) -> int:
    """Fork a process that trains both stages, from where they are, and writes what comes out."""
    child = os.fork()
    if child:
        return child
    import both_stages
    import torch

    from mmkd_core.student import checkpoint

    torch.set_num_threads(1)
    checkpoint.SECONDS = 0.05
    checkpoint.SHARE = 1.0
    run.mkdir(exist_ok=True)
    result = both_stages.run(run, store, vision="resnet-timm", steps=STEPS)
    (run / "partial.json").write_text(json.dumps(result, sort_keys=True))
    os.replace(run / "partial.json", run / "result.json")
    os._exit(0)


def _ended(child: int) -> bool:
    """Whether the child came to its end by itself."""
    _, status = os.waitpid(child, 0)
    assert os.WIFSIGNALED(status) or os.WEXITSTATUS(status) == 0, f"training failed with status {status}"
    return not os.WIFSIGNALED(status)


FIGURES = {"resume-exactness": resume_exactness}

if __name__ == "__main__":
    print(json.dumps(_main(int(sys.argv[1]), int(sys.argv[2]))))
