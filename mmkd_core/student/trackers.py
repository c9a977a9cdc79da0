"""Losses where people watch them: TensorBoard, wandb, mlflow or trackio, beside the log that is always written.

Through Accelerate's trackers. Nothing leaves the machine unless the tool's own environment says so
(``WANDB_MODE=online``, ``MLFLOW_TRACKING_URI``).
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, redirect_stdout
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from uuid import uuid4

from mmkd_core import advice
from mmkd_core.errors import TrainingError
from mmkd_core.files import replacing
from mmkd_core.student import parallel

Row = Mapping[str, float]
TOLD = "trackers.json"
"""In the folder of a run: what its trackers know already."""


def require(names: Sequence[str]) -> None:
    """Check that the packages of the trackers are there.

    Raises:
        TrainingError: names the first that is missing, and how to get it.
    """
    for name in names:
        if find_spec(name) is None:
            raise TrainingError(
                f"`log: [{name}]` wants the package {name}, which is not installed",
                next=f"{advice.install(name)}, or take it out of `log` in mmkd.yaml",
            )


@contextmanager
def tracking(
    names: Sequence[str], folder: Path, label: str, settings: Mapping[str, Any], identity: str = ""
) -> Iterator[Callable[[Row], None]]:
    """Open the trackers of one run; yields what takes a row of its log. Only the leader's rows go anywhere.

    A run that was killed takes some steps once more, from its last checkpoint. Trackers cannot take a row back, and
    the steps are the same to the bit: so what they were told once they are not told again, and the run goes on in
    them as the one that it is.

    Args:
        folder: of the run. TensorBoard and wandb write into it; mlflow and trackio keep all runs together, beside it.
        label: what the run is called.
        settings: kept as the run's hyperparameters.
        identity: of the run; one of another identity in the same folder is another run.

    Raises:
        TrainingError: a package is missing.
    """
    if not names or not parallel.leads():
        yield lambda row: None
        return
    require(names)
    parallel.device()  # Accelerate's own log wants its state
    told = _Told.load(folder / TOLD, identity)
    with ExitStack() as open_ones:
        trackers = []
        for name in names:
            with redirect_stdout(sys.stderr):  # they greet; stdout is for the answer of a command
                home = folder if name in ("tensorboard", "wandb") else folder.parent
                tracker = _tracker(name, home / name, label, told)
                tracker.start()
                open_ones.callback(_finish, tracker)
                if name not in told.runs:
                    tracker.store_init_configuration(_flat(settings))
                    told.runs[name] = tracker.active_run.info.run_id if name == "mlflow" else told.key
            trackers.append(tracker)
        told.save()

        def take(row: Row) -> None:
            if row["step"] <= told.step:
                return
            # The mark first: a kill in between loses the trackers a point, and does not give them one twice.
            told.step = row["step"]
            told.save()
            values = {key: value for key, value in row.items() if key != "step"}
            for tracker in trackers:
                tracker.log(values, step=int(row["step"]))

        yield take


@dataclass
class _Told:
    """What the trackers of a run know already.

    Attributes:
        key: of the run in those that let us choose it.
        step: the last one that they were told.
        runs: by tracker the run that was opened in it.
    """

    path: Path
    identity: str
    key: str = field(default_factory=lambda: uuid4().hex[:12])
    step: float = 0.0
    runs: dict[str, str] = field(default_factory=dict)

    @classmethod
    def load(cls, path: Path, identity: str) -> _Told:
        """Read it, if it is of this run; else nothing was told."""
        try:
            told = cls(path, **json.loads(path.read_bytes()))
        except (OSError, ValueError, TypeError):  # none, or not whole
            return cls(path, identity)
        return told if told.identity == identity else cls(path, identity)

    def save(self) -> None:
        """Write it, whole or not at all."""
        with replacing(self.path) as file:
            file.write(json.dumps({k: v for k, v in vars(self).items() if k != "path"}).encode())


def _finish(tracker: Any) -> None:
    with redirect_stdout(sys.stderr):
        tracker.finish()


def _tracker(name: str, folder: Path, label: str, told: _Told) -> Any:
    """An Accelerate tracker that writes into ``folder``, and goes on with the run that it has of this one."""
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
        mode = os.environ["WANDB_MODE"]
        return tracking.WandBTracker(project, name=label, id=told.key, resume="allow", dir=str(folder), mode=mode)
    if name == "mlflow":
        import mlflow

        if "MLFLOW_TRACKING_URI" not in os.environ:
            # Its databases want more packages than mlflow-skinny has.
            os.environ.setdefault("MLFLOW_ALLOW_FILE_STORE", "true")
            mlflow.set_tracking_uri(folder.absolute().as_uri())
        return tracking.MLflowTracker(project, run_id=told.runs.get(name), run_name=label)
    os.environ.setdefault("TRACKIO_DIR", str(folder.absolute()))
    return tracking.TrackioTracker(project, name=f"{label} {told.key}", resume="allow")


def _flat(settings: Mapping[str, Any], prefix: str = "") -> dict[str, int | float | str]:
    flat: dict[str, int | float | str] = {}
    for key, value in settings.items():
        if isinstance(value, Mapping):
            flat |= _flat(value, f"{prefix}{key}.")
        else:
            flat[prefix + key] = value if isinstance(value, int | float | str) else str(value)
    return flat
