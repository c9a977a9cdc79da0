"""One teacher during a run: loaded when it is first needed, watched while it works, left out once it fails for good."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np

from mmkd_core.contract import Teacher, TeacherSpec
from mmkd_core.errors import BatchError, MmkdError, PluginError
from mmkd_core.extract.config import Setting
from mmkd_core.extract.precision import Precision, candidate, choose, computing
from mmkd_core.plugins.observe import watching

PATIENCE = 3
"""Lost batches in a row after which an isolated teacher is left alone."""

Features = np.ndarray[Any, Any]
T = TypeVar("T")
_OURS = ("mmkd_core.plugins.loaders.open_clip", "mmkd_core.plugins.loaders.transformers")


@dataclass(frozen=True)
class Job:
    """One teacher to be asked: its spec, how to load it (called only if something is missing), and where it computes.

    ``load`` must be picklable where the work is spread over processes.
    """

    spec: TeacherSpec
    load: Callable[[], Teacher]
    device: str = "cpu"


class Asked:
    """A job under way.

    Args:
        job: whom to ask.
        setting: precision, from the configuration.
        known: by tower, the precision of the features that the store has already.
    """

    def __init__(self, job: Job, setting: Setting = "auto", known: Mapping[str, Precision] | None = None) -> None:
        self.spec, self._job, self._setting = job.spec, job, setting
        self._teacher: Teacher | None = None
        self.precision: dict[str, Precision] = dict(known or {})
        self.failure: MmkdError | None = None
        self.lost, self.out = 0, False
        self._in_a_row = 0

    def answer(self, tower: str, inputs: Any) -> Features | None:
        """Features (n, D) of one batch; None if the teacher failed, which counts the batch as lost.

        Args:
            tower: "image" or "text".
            inputs: n texts, n images, or the pixels (n, 3, H, W) of n images.
        """
        features = self._watched(tower, lambda: _checked(self.spec, tower, self._encode(tower, inputs), len(inputs)))
        if features is None:
            self.lost += len(inputs)
            return None
        self._in_a_row = 0
        return features

    @property
    def on_gpu(self) -> bool:
        """Whether it computes somewhere else than our decoding threads."""
        return self._job.device != "cpu"

    @property
    def failed(self) -> bool:
        """Whether something went wrong since the last ``take_failure``."""
        return self.failure is not None

    def take_failure(self) -> MmkdError | None:
        """The first failure since this was last called."""
        failure, self.failure = self.failure, None
        return failure

    def prepares_as_we_do(self) -> bool:
        """Whether its pixels are what our own pipeline makes of its spec, which may then run in any thread.

        A plugin's own preprocessing runs where the plugin is watched, one image at a time.
        """
        teacher = self._watched("image", self._loaded)
        return teacher is not None and getattr(teacher.preprocess, "__module__", "") in _OURS

    def _watched(self, tower: str, work: Callable[[], T]) -> T | None:
        """Do the work of one batch; None if it raises, or if the teacher does what the others would suffer from."""
        try:
            # A teacher must not print or change settings that the others' features depend on.
            with watching(block=False) as seen:
                found = work()
            for fault in seen.faults():
                raise PluginError(
                    f"{self.spec.name} misbehaves: {fault}; nothing of this batch was stored",
                    next=f"Report it to the plugin's author, or run `mmkd teachers remove {self.spec.name}`",
                )
        except (Exception, SystemExit) as error:  # a plugin raises whatever it likes; the other teachers go on
            self._failed(tower, error)
            return None
        return found

    def _loaded(self) -> Teacher:
        if self._teacher is None:
            self._teacher = self._job.load()
        return self._teacher

    def _encode(self, tower: str, inputs: Any) -> Any:
        teacher = self._loaded()
        run = _text_encoder(teacher) if tower == "text" else _image_encoder(teacher)
        if tower not in self.precision:
            self.precision[tower] = self._chosen(run, inputs)
        with computing(self.precision[tower].name, self._job.device):
            return run(inputs)

    def _chosen(self, run: Callable[[Any], Any], inputs: Any) -> Precision:
        apart = self.spec.runtime == "isolated"  # our settings do not reach it
        if apart or candidate(self._setting, self._job.device) == "fp32":
            return Precision()
        return choose(run, inputs, self._job.device)

    def _failed(self, tower: str, error: BaseException) -> None:
        if not isinstance(error, MmkdError):
            told = " ".join(str(error).split())
            error = PluginError(
                f"{self.spec.name} failed at a batch of {tower}s: {type(error).__name__}: {told}",
                next=f"Report it to the plugin's author, or run `mmkd teachers remove {self.spec.name}`",
            )
        self.failure = self.failure or error
        self._in_a_row += 1
        self.out = not isinstance(error, BatchError) or self._in_a_row >= PATIENCE


def _text_encoder(teacher: Teacher) -> Callable[[Sequence[str]], Any]:
    return lambda texts: teacher.encode_text(teacher.tokenize(texts))


def _image_encoder(teacher: Teacher) -> Callable[[Any], Any]:
    import torch

    def run(images: Any) -> Any:
        if not isinstance(images, torch.Tensor):
            images = torch.stack([teacher.preprocess(image) for image in images])
        return teacher.encode_image(images)

    return run


def _checked(spec: TeacherSpec, tower: str, encoded: Any, expected: int) -> Features:
    """Features as float32 (n, D); a teacher that breaks its contract is named."""
    features: Features = encoded.float().cpu().numpy()
    if features.shape != (expected, spec.embed_dim):
        due = (expected, spec.embed_dim)
        what = f"{spec.name} answers {tower} features of shape {features.shape}, its spec says {due}"
        raise PluginError(what, next=f"Report it to the plugin's author, or run `mmkd teachers remove {spec.name}`")
    if not np.isfinite(features).all():
        what = f"{spec.name} gives {tower} features with NaN or infinity; nothing of this batch was stored"
        raise PluginError(what, next=f"Run `mmkd teachers remove {spec.name}`, or mend its weights and add it again")
    return features
