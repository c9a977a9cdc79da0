from __future__ import annotations

import io
import json
import math
import sqlite3

import pytest
import torch
from torch import nn
from xxhash import xxh3_128_digest

from mmkd_core.errors import TrainingError
from mmkd_core.student import checkpoint, parallel, trackers, training
from mmkd_core.student.checkpoint import forget_checkpoint, read_log
from mmkd_core.student.config import TrainConfig
from mmkd_core.student.trackers import tracking
from mmkd_core.student.training import fit

ROWS = [{"step": float(step), "loss": 1 / step, "clip": 0.5 / step} for step in (1, 2, 10)]
SETTINGS = {"lr": 1e-3, "balance": "sqrt", "weights": {"fd": 5.0}, "crop": None}


def track(name, folder, rows=ROWS, identity="a"):
    with tracking([name], folder, "stage 1", SETTINGS, identity) as take:
        for row in rows:
            take(row)


def track_killed(name, folder):
    """The kill came after step 2, the last checkpoint before it: step 2 is taken twice."""
    track(name, folder, ROWS[:2])
    track(name, folder, ROWS[1:])


def scalars(folder):
    """(tag, step) of every scalar in every file of events."""
    from tensorboard.backend.event_processing.event_file_loader import EventFileLoader

    found = []
    for path in sorted(folder.rglob("events.out.tfevents.*")):
        for event in EventFileLoader(str(path)).Load():
            found += [(value.tag, event.step) for value in event.summary.value if value.tag == "loss"]
    return found


def test_a_run_that_goes_on_tells_no_step_twice(tmp_path):
    pytest.importorskip("tensorboard")
    track_killed("tensorboard", tmp_path / "run")
    assert scalars(tmp_path / "run") == [("loss", 1), ("loss", 2), ("loss", 10)]
    assert len(list((tmp_path / "run").rglob("hparams.yml"))) == 1


def test_another_run_in_the_same_folder_starts_anew(tmp_path):
    pytest.importorskip("tensorboard")
    track("tensorboard", tmp_path / "run", ROWS[:2])
    track("tensorboard", tmp_path / "run", ROWS[:2], identity="b")
    assert scalars(tmp_path / "run") == [("loss", 1), ("loss", 2)] * 2
    forget_checkpoint(tmp_path / "run")  # the result was kept: whoever wants it once more gets all of it
    track("tensorboard", tmp_path / "run", ROWS[:1], identity="b")
    assert len(scalars(tmp_path / "run")) == 5


def test_training_that_was_killed_goes_on_where_the_trackers_are(tmp_path, monkeypatch):
    """The checkpoint is older than the last rows, which were told and are taken again."""
    told = []

    class Recorder:
        def start(self): ...
        def finish(self): ...
        def store_init_configuration(self, values): ...
        def log(self, values, step):
            told.append(step)

    monkeypatch.setattr(trackers, "require", lambda names: None)
    monkeypatch.setattr(trackers, "_tracker", lambda *_: Recorder())
    monkeypatch.setattr(training, "LOG_EVERY", 1)
    monkeypatch.setattr(checkpoint, "SECONDS", -1.0)
    config, objective = TrainConfig(steps=6, batch_size=2, warmup=0, precision="fp32"), Line()

    def run():
        fit(objective.module, objective, config, tmp_path, identity="x", label="test", trackers=["tensorboard"])

    objective.dies_at = 4
    with pytest.raises(InterruptedError):
        run()
    assert told == [1, 2, 3, 4]
    monkeypatch.setattr(checkpoint, "SECONDS", 1e9)
    state = torch.load(tmp_path / "checkpoint.pt", weights_only=True)
    whole = io.BytesIO()
    torch.save({**state, "step": 2}, whole)
    (tmp_path / "checkpoint.pt").write_bytes(whole.getvalue() + xxh3_128_digest(whole.getvalue()))
    objective.dies_at = None
    run()
    assert told == [1, 2, 3, 4, 5, 6]
    assert [row["step"] for row in read_log(tmp_path / "log.jsonl")] == [1, 2, 3, 4, 5, 6]


class Line:
    """An objective of one number."""

    def __init__(self):
        self.module, self.dies_at = nn.Linear(1, 1), None

    def batch(self, step, share):
        if step == self.dies_at:
            raise InterruptedError
        return step

    def embed(self, step, piece):
        return (self.module(torch.ones(1, 1)).square(),)

    def losses(self, step, embedded):
        return {"square": embedded[0].mean()}


def test_tensorboard_gets_every_loss_at_its_step(tmp_path):
    events = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    track("tensorboard", tmp_path / "run")
    found = events.EventAccumulator(str(tmp_path / "run/tensorboard"))
    found.Reload()
    assert {"loss", "clip"} <= set(found.Tags()["scalars"])
    for name in ("loss", "clip"):
        points = [(point.step, point.value) for point in found.Scalars(name)]
        assert [step for step, _ in points] == [1, 2, 10]
        assert all(math.isclose(value, row[name], rel_tol=1e-6) for (_, value), row in zip(points, ROWS, strict=True))


@pytest.mark.slow
def test_wandb_is_offline(tmp_path, monkeypatch):
    pytest.importorskip("wandb")
    monkeypatch.delenv("WANDB_MODE", raising=False)
    monkeypatch.setenv("WANDB_SILENT", "true")
    track_killed("wandb", tmp_path / "run")
    runs = list((tmp_path / "run/wandb").rglob("*.wandb"))
    assert all(run.parent.name.startswith("offline-run-") for run in runs)
    assert len({run.name for run in runs}) == 1  # one run for the server, which both parts are of


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")
def test_mlflow_keeps_files_beside_the_runs(tmp_path, monkeypatch):
    mlflow = pytest.importorskip("mlflow")
    for name in ("MLFLOW_TRACKING_URI", "MLFLOW_ALLOW_FILE_STORE"):
        monkeypatch.delenv(name, raising=False)
    track_killed("mlflow", tmp_path / "run")
    (metric,) = (tmp_path / "mlflow").rglob("metrics/loss")
    assert [float(line.split()[1]) for line in metric.read_text().splitlines()] == [row["loss"] for row in ROWS]
    (setting,) = (tmp_path / "mlflow").rglob("params/weights.fd")
    assert setting.read_text() == "5.0"
    mlflow.set_tracking_uri(None)


@pytest.mark.slow
def test_trackio_is_local(tmp_path, monkeypatch):
    pytest.importorskip("trackio")
    from trackio import utils

    track_killed("trackio", tmp_path / "run")
    with sqlite3.connect(next(utils.TRACKIO_DIR.rglob("mmkd*.db"))) as found:
        told = found.execute("select run_name, step from metrics order by step").fetchall()
    key = json.loads((tmp_path / "run/trackers.json").read_text())["key"]
    assert [step for name, step in told if name == f"stage 1 {key}"] == [1, 2, 10]


def test_a_missing_package_is_a_sentence(tmp_path, monkeypatch):
    monkeypatch.setattr(trackers, "find_spec", lambda name: None)
    with pytest.raises(
        TrainingError, match=r"^`log: \[wandb\]` wants the package wandb.*`pip install 'wandb>=[\d.]+'`"
    ):
        track("wandb", tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_process_that_does_not_lead_tells_nobody(tmp_path, monkeypatch):
    monkeypatch.setattr(parallel, "rank", lambda: 1)
    track("tensorboard", tmp_path)
    assert not list(tmp_path.iterdir())
