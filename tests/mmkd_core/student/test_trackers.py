from __future__ import annotations

import math
import sqlite3

import pytest

from mmkd_core.errors import TrainingError
from mmkd_core.student import parallel, trackers
from mmkd_core.student.trackers import tracking

ROWS = [{"step": float(step), "loss": 1 / step, "clip": 0.5 / step} for step in (1, 2, 10)]
SETTINGS = {"lr": 1e-3, "balance": "sqrt", "weights": {"fd": 5.0}, "crop": None}


def track(name, folder):
    with tracking([name], folder, "stage 1", SETTINGS) as take:
        for row in ROWS:
            take(row)


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
    track("wandb", tmp_path / "run")
    (run,) = (tmp_path / "run/wandb").rglob("*.wandb")
    assert run.parent.name.startswith("offline-run-")


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")
def test_mlflow_keeps_files_beside_the_runs(tmp_path, monkeypatch):
    mlflow = pytest.importorskip("mlflow")
    for name in ("MLFLOW_TRACKING_URI", "MLFLOW_ALLOW_FILE_STORE"):
        monkeypatch.delenv(name, raising=False)
    track("mlflow", tmp_path / "run")
    (metric,) = (tmp_path / "mlflow").rglob("metrics/loss")
    assert [float(line.split()[1]) for line in metric.read_text().splitlines()] == [row["loss"] for row in ROWS]
    (setting,) = (tmp_path / "mlflow").rglob("params/weights.fd")
    assert setting.read_text() == "5.0"
    mlflow.set_tracking_uri(None)


@pytest.mark.slow
def test_trackio_is_local(tmp_path, monkeypatch):
    pytest.importorskip("trackio")
    from trackio import utils

    track("trackio", tmp_path / "run")
    with sqlite3.connect(next(utils.TRACKIO_DIR.rglob("mmkd*.db"))) as found:
        assert found.execute("select count(*) from metrics").fetchone()[0] >= len(ROWS)


def test_a_missing_package_is_a_sentence(tmp_path, monkeypatch):
    monkeypatch.setattr(trackers, "find_spec", lambda name: None)
    with pytest.raises(
        TrainingError, match=r"^`log: \[wandb\]` wants the package wandb.*`pip install 'mmkd\[wandb\]'`"
    ):
        track("wandb", tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_process_that_does_not_lead_tells_nobody(tmp_path, monkeypatch):
    monkeypatch.setattr(parallel, "rank", lambda: 1)
    track("tensorboard", tmp_path)
    assert not list(tmp_path.iterdir())
