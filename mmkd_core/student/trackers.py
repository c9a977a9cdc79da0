"""Losses where people watch them: TensorBoard, wandb, mlflow or trackio, beside the log that is always written.

Through Accelerate's trackers. Nothing leaves the machine unless the tool's own environment says so
(``WANDB_MODE=online``, ``MLFLOW_TRACKING_URI``).
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, redirect_stdout
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from mmkd_core.errors import TrainingError
from mmkd_core.student import parallel

Row = Mapping[str, float]


def require(names: Sequence[str]) -> None:
    """Check that the packages of the trackers are there.

    Raises:
        TrainingError: names the first that is missing, and how to get it.
    """
    for name in names:
        if find_spec(name) is None:
            raise TrainingError(
                f"`log: [{name}]` wants the package {name}, which is not installed",
                next=f"Run `pip install 'mmkd[{name}]'`, or take it out of `log` in mmkd.yaml",
            )


@contextmanager
def tracking(
    names: Sequence[str], folder: Path, label: str, settings: Mapping[str, Any]
) -> Iterator[Callable[[Row], None]]:
    """Open the trackers of one run; yields what takes a row of its log. Only the leader's rows go anywhere.

    Args:
        folder: of the run. TensorBoard and wandb write into it; mlflow and trackio keep all runs together, beside it.
        label: what the run is called.
        settings: kept as the run's hyperparameters.

    Raises:
        TrainingError: a package is missing.
    """
    if not names or not parallel.leads():
        yield lambda row: None
        return
    require(names)
    parallel.device()  # Accelerate's own log wants its state
    with ExitStack() as open_ones:
        trackers = []
        for name in names:
            with redirect_stdout(sys.stderr):  # they greet; stdout is for the answer of a command
                home = folder if name in ("tensorboard", "wandb") else folder.parent
                tracker = _tracker(name, home / name, label)
                tracker.start()
                open_ones.callback(_finish, tracker)
                tracker.store_init_configuration(_flat(settings))
            trackers.append(tracker)

        def take(row: Row) -> None:
            values = {key: value for key, value in row.items() if key != "step"}
            for tracker in trackers:
                tracker.log(values, step=int(row["step"]))

        yield take


def _finish(tracker: Any) -> None:
    with redirect_stdout(sys.stderr):
        tracker.finish()


def _tracker(name: str, folder: Path, label: str) -> Any:
    """An Accelerate tracker that writes into ``folder``."""
    from accelerate import tracking

    folder.mkdir(parents=True, exist_ok=True)
    project = "mmkd"
    if name == "tensorboard":
        return tracking.TensorBoardTracker(".", folder)
    if name == "wandb":
        # In the environment too: parts of wandb that are not told of the run's mode look there.
        quiet = {"WANDB_SILENT": "true", "WANDB_MODE": "offline", "WANDB_ERROR_REPORTING": "false"}
        for key, value in quiet.items():
            os.environ.setdefault(key, value)
        return tracking.WandBTracker(project, name=label, dir=str(folder), mode=os.environ["WANDB_MODE"])
    if name == "mlflow":
        import mlflow

        if "MLFLOW_TRACKING_URI" not in os.environ:
            # Its databases want more packages than mlflow-skinny has.
            os.environ.setdefault("MLFLOW_ALLOW_FILE_STORE", "true")
            mlflow.set_tracking_uri(folder.absolute().as_uri())
        return tracking.MLflowTracker(project, run_name=label)
    os.environ.setdefault("TRACKIO_DIR", str(folder.absolute()))
    return tracking.TrackioTracker(project, name=label)


def _flat(settings: Mapping[str, Any], prefix: str = "") -> dict[str, int | float | str]:
    flat: dict[str, int | float | str] = {}
    for key, value in settings.items():
        if isinstance(value, Mapping):
            flat |= _flat(value, f"{prefix}{key}.")
        else:
            flat[prefix + key] = value if isinstance(value, int | float | str) else str(value)
    return flat
