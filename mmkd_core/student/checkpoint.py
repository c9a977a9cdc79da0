"""What a run keeps while it trains: a checkpoint to go on from, and the log of its losses. The leader alone writes."""

from __future__ import annotations

import io
import json
import time
from pathlib import Path
from typing import Any

import torch
from torch import nn
from xxhash import xxh3_128_digest

from mmkd_core.files import replacing
from mmkd_core.student import parallel
from mmkd_core.student.trackers import TOLD

CHECKPOINT, LOG = "checkpoint.pt", "log.jsonl"
SEAL = 16
"""Bytes of the hash at the end of a checkpoint."""
SECONDS = 15.0
"""Least time between two checkpoints; below zero, one after every step."""
SHARE = 0.05
"""Most of the time that may go into writing them: those of a large student are large."""

Row = dict[str, float]


class Checkpoints:
    """The checkpoint and the log of one run.

    Args:
        folder: where both live.
        identity: a hash of all that determines the result; a checkpoint of another identity is not used.
        modules: what is trained, with every buffer that is carried from step to step.
    """

    def __init__(self, folder: Path, identity: str, modules: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        self.path, self.log = folder / CHECKPOINT, folder / LOG
        self.identity, self.modules, self.optimizer = identity, modules, optimizer
        self._saved, self._cost = time.monotonic(), 0.0
        self.damaged = False
        if parallel.leads():
            folder.mkdir(parents=True, exist_ok=True)

    def resume(self) -> tuple[int, list[Row]]:
        """Take up the checkpoint, if it is of this run, and cut the log to it; return steps done and the log."""
        state: dict[str, Any] = {}
        if (whole := self._read()) is not None:
            state = torch.load(whole, map_location=parallel.device(), weights_only=True)
        if state.get("identity") != self.identity:
            if parallel.leads():
                self.log.unlink(missing_ok=True)
            return 0, []
        self.modules.load_state_dict(state["modules"])
        self.optimizer.load_state_dict(state["optimizer"])
        rows = [row for row in read_log(self.log) if row["step"] <= state["step"]]
        if parallel.leads():
            self.log.write_text("".join(json.dumps(row) + "\n" for row in rows))
        return int(state["step"]), rows

    def _read(self) -> io.BytesIO | None:
        """What ``save`` wrote; None if there is nothing, or it is not whole, and the run begins again."""
        try:
            data = self.path.read_bytes()
        except OSError:
            return None
        body, seal = memoryview(data)[:-SEAL], data[-SEAL:]
        self.damaged = xxh3_128_digest(body) != seal
        return None if self.damaged else io.BytesIO(body)

    def due(self) -> bool:
        """Whether it is time for another one."""
        since = time.monotonic() - self._saved
        return parallel.leads() and (SECONDS < 0 or (since > SECONDS and since * SHARE > self._cost))

    def save(self, step: int) -> None:
        """Replace the checkpoint by one of ``step`` finished steps."""
        if not parallel.leads():
            return
        start = time.monotonic()
        state = {
            "identity": self.identity,
            "step": step,
            "modules": self.modules.state_dict(),
            "optimizer": self.optimizer.state_dict(),
        }
        whole = io.BytesIO()  # torch's own writer turns a full disk into an exception that does not say so
        torch.save(state, whole)
        with replacing(self.path) as file:
            file.write(whole.getbuffer())
            file.write(xxh3_128_digest(whole.getbuffer()))
        self._saved = time.monotonic()
        self._cost = self._saved - start


def forget_checkpoint(folder: Path) -> None:
    """Drop the checkpoint of a run whose result has been kept; if it is run once more, it is so from the start."""
    for name in (CHECKPOINT, TOLD):
        (folder / name).unlink(missing_ok=True)


def read_log(path: Path) -> list[Row]:
    """The rows of a ``log.jsonl``; a last line that was cut off by a kill is left out."""
    rows = []
    for line in path.read_text().splitlines() if path.exists() else []:
        try:
            rows.append(json.loads(line))
        except json.JSONDecodeError:
            break
    return rows
