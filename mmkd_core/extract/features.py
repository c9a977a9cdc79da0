"""Ask each teacher once for the features of each distinct image and text, and keep them raw.

Rows of the store are images and texts, not samples: a caption that a thousand samples share is encoded once. A run
that was killed goes on with what is missing; a second run computes nothing and loads no teacher.

A teacher that fails does not stop the others. One that cannot be loaded, raises or answers nonsense is left out for the
rest of the run and nothing of that batch is stored; a batch that an isolated teacher's worker could not answer
(``BatchError``) is left out alone, unless that happens ``PATIENCE`` times in a row.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
from PIL.Image import Image

from feature_store import FeatureStore
from mmkd_core.contract import Teacher, TeacherSpec
from mmkd_core.data.manifest import Corpus, text_id
from mmkd_core.errors import BatchError, MmkdError, PluginError
from mmkd_core.plugins.observe import watching
from mmkd_core.progress import Progress, Silent

IMAGE_BATCH, TEXT_BATCH = 256, 512
PATIENCE = 3
Features = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Job:
    """One teacher to be asked: its spec, and how to load it (called only if something is missing)."""

    spec: TeacherSpec
    load: Callable[[], Teacher]


@dataclass
class Extraction:
    """What a run computed: numbers of images and texts per teacher (0 where everything was there).

    Args:
        images: stored by this run.
        texts: stored by this run.
        lost: images and texts per teacher that are still missing, because it failed.
        failed: why, for every teacher in ``lost``: the first failure.
    """

    images: dict[str, int] = field(default_factory=dict)
    texts: dict[str, int] = field(default_factory=dict)
    lost: dict[str, int] = field(default_factory=dict)
    failed: dict[str, MmkdError] = field(default_factory=dict)

    def require(self) -> Extraction:
        """Itself if every teacher answered everything.

        Raises:
            PluginError: names the teachers that failed, how much is missing, and why.
        """
        if not self.failed:
            return self
        if len(self.failed) == 1:
            (name, error), *_ = self.failed.items()
            raise PluginError(
                f"{error.what}; {self.lost[name]} features are missing", where=error.where, next=error.next
            )
        reasons = [
            f"{name}: {error.what}; {self.lost[name]} features are missing" for name, error in self.failed.items()
        ]
        raise PluginError("; ".join(reasons), next="Mend or remove these teachers, then run `mmkd extract` again")


def extract(
    corpus: Corpus,
    texts: Sequence[str],
    jobs: Sequence[Job],
    store: FeatureStore,
    progress: Progress | None = None,
) -> Extraction:
    """Fill ``store`` with the features of all images of ``corpus`` and of ``texts`` for every job.

    What a teacher did not answer is in the result; ``require`` makes it an error.

    Raises:
        DataError: an image cannot be read.
    """
    watch = progress or Silent()
    _, first = np.unique(corpus.image_id, return_index=True)
    distinct = corpus.take(np.sort(first))
    image_rows = store.add_ids("image", [str(name) for name in distinct.image_id])
    unique_texts = list(dict.fromkeys(texts))
    text_rows = store.add_ids("text", [text_id(text) for text in unique_texts])
    asked = [_Asked(job, store) for job in jobs]
    done = Extraction()
    _texts(unique_texts, text_rows, asked, watch, done)
    _images(distinct, image_rows, asked, watch, done)
    for teacher in asked:
        if teacher.failure is not None:
            done.failed[teacher.spec.name], done.lost[teacher.spec.name] = teacher.failure, teacher.lost
    return done


class _Asked:
    """One teacher during a run: loaded when it is first needed, and left out once it has failed for good."""

    def __init__(self, job: Job, store: FeatureStore) -> None:
        self.spec, self.store, self._load = job.spec, store, job.load
        self._teacher: Teacher | None = None
        self.failure: MmkdError | None = None
        self.lost, self.out = 0, False
        self._in_a_row = 0

    def store_batch(self, tower: str, rows: Features, encode: Callable[[Teacher], Any]) -> int:
        """Ask for one batch and store it; returns the number of rows stored: all, or none after a failure."""
        try:
            # A teacher must not print or change settings that the others' features depend on.
            with watching(block=False) as seen:
                features = _checked(self.spec, tower, encode(self._ready()), len(rows))
            for fault in seen.faults():
                raise PluginError(
                    f"{self.spec.name} misbehaves: {fault}; nothing of this batch was stored",
                    next=f"Report it to the plugin's author, or run `mmkd teachers remove {self.spec.name}`",
                )
        except (Exception, SystemExit) as error:  # a plugin raises whatever it likes; the other teachers go on
            self._failed(tower, error)
            self.lost += len(rows)
            return 0
        self._in_a_row = 0
        self.store.put(self.spec.fingerprint, tower, rows, features)
        return len(rows)

    def _ready(self) -> Teacher:
        if self._teacher is None:
            self._teacher = self._load()
            self.store.describe(self.spec.fingerprint, teacher=self.spec.name)
        return self._teacher

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


def _texts(texts: list[str], rows: Features, asked: Sequence[_Asked], watch: Progress, done: Extraction) -> None:
    for one in asked:
        spec = one.spec
        todo = np.flatnonzero(one.store.missing(spec.fingerprint, "text", rows))
        done.texts[spec.name] = 0
        if not len(todo):
            continue
        with watch.task(f"{spec.name}: texts", len(todo), "texts") as advance:
            for start in range(0, len(todo), TEXT_BATCH):
                part = todo[start : start + TEXT_BATCH]
                if one.out:
                    one.lost += len(part)
                    continue
                batch = [texts[i] for i in part]
                done.texts[spec.name] += one.store_batch("text", rows[part], partial(_encode_texts, batch))
                advance(len(part))


def _encode_texts(texts: list[str], teacher: Teacher) -> Any:
    return teacher.encode_text(teacher.tokenize(texts))


def _images(corpus: Corpus, rows: Features, asked: Sequence[_Asked], watch: Progress, done: Extraction) -> None:
    """Decode each image once for all teachers that lack it."""
    missing = {one.spec.name: one.store.missing(one.spec.fingerprint, "image", rows) for one in asked}
    done.images |= dict.fromkeys(missing, 0)
    todo = np.flatnonzero(np.any(list(missing.values()), axis=0)) if missing else np.empty(0, int)
    if not len(todo):
        return
    names = ", ".join(name for name, mask in missing.items() if mask.any())
    with watch.task(f"{names}: images", len(todo), "images") as advance:
        for start in range(0, len(todo), IMAGE_BATCH):
            part = todo[start : start + IMAGE_BATCH]
            open_for = np.any(
                [missing[one.spec.name] for one in asked if not one.out] or [np.zeros(len(rows), bool)], 0
            )
            images = {i: corpus.open(i) for i in part if open_for[i]}
            for one in asked:
                mine = [i for i in part if missing[one.spec.name][i]]
                if one.out:
                    one.lost += len(mine)
                elif mine:
                    encode = partial(_encode_images, [images[i] for i in mine])
                    done.images[one.spec.name] += one.store_batch("image", rows[mine], encode)
            advance(len(part))


def _encode_images(images: list[Image], teacher: Teacher) -> Any:
    import torch

    return teacher.encode_image(torch.stack([teacher.preprocess(image) for image in images]))


def _checked(spec: TeacherSpec, tower: str, encoded: Any, expected: int) -> np.ndarray[Any, Any]:
    """Features as float32 (n, D); a teacher that breaks its contract is named."""
    features: Features = encoded.cpu().numpy()
    if features.shape != (expected, spec.embed_dim):
        due = (expected, spec.embed_dim)
        what = f"{spec.name} answers {tower} features of shape {features.shape}, its spec says {due}"
        raise PluginError(what, next=f"Report it to the plugin's author, or run `mmkd teachers remove {spec.name}`")
    if not np.isfinite(features).all():
        what = f"{spec.name} gives {tower} features with NaN or infinity; nothing of this batch was stored"
        raise PluginError(what, next=f"Run `mmkd teachers remove {spec.name}`, or mend its weights and add it again")
    return features
