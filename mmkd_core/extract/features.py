"""Ask each teacher once for the features of each distinct image and text, and keep them raw.

Rows of the store are images and texts, not samples: a caption that a thousand samples share is encoded once. A run
that was killed goes on with what is missing; a second run computes nothing and loads no teacher.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from feature_store import FeatureStore
from mmkd_core.contract import Teacher, TeacherSpec
from mmkd_core.data.manifest import Corpus, text_id
from mmkd_core.errors import PluginError
from mmkd_core.progress import Progress, Silent

IMAGE_BATCH, TEXT_BATCH = 256, 512


@dataclass(frozen=True)
class Job:
    """One teacher to be asked: its spec, and how to load it (called only if something is missing)."""

    spec: TeacherSpec
    load: Callable[[], Teacher]


@dataclass
class Extraction:
    """What a run computed: numbers of images and texts per teacher (0 where everything was there)."""

    images: dict[str, int] = field(default_factory=dict)
    texts: dict[str, int] = field(default_factory=dict)


def extract(
    corpus: Corpus,
    texts: Sequence[str],
    jobs: Sequence[Job],
    store: FeatureStore,
    progress: Progress | None = None,
) -> Extraction:
    """Fill ``store`` with the features of all images of ``corpus`` and of ``texts`` for every job.

    Raises:
        PluginError: a teacher answers with the wrong shape or with values that are not finite.
        DataError: an image cannot be read.
    """
    watch = progress or Silent()
    _, first = np.unique(corpus.image_id, return_index=True)
    distinct = corpus.take(np.sort(first))
    image_rows = store.add_ids("image", [str(name) for name in distinct.image_id])
    unique_texts = list(dict.fromkeys(texts))
    text_rows = store.add_ids("text", [text_id(text) for text in unique_texts])
    loaded: dict[str, Teacher] = {}
    done = Extraction()
    _texts(unique_texts, text_rows, jobs, loaded, store, watch, done)
    _images(distinct, image_rows, jobs, loaded, store, watch, done)
    return done


def _teacher(job: Job, loaded: dict[str, Teacher], store: FeatureStore) -> Teacher:
    if job.spec.name not in loaded:
        loaded[job.spec.name] = job.load()
        store.describe(job.spec.fingerprint, teacher=job.spec.name)
    return loaded[job.spec.name]


def _texts(
    texts: list[str],
    rows: np.ndarray[Any, Any],
    jobs: Sequence[Job],
    loaded: dict[str, Teacher],
    store: FeatureStore,
    watch: Progress,
    done: Extraction,
) -> None:
    for job in jobs:
        todo = np.flatnonzero(store.missing(job.spec.fingerprint, "text", rows))
        done.texts[job.spec.name] = len(todo)
        if not len(todo):
            continue
        teacher = _teacher(job, loaded, store)
        with watch.task(f"{job.spec.name}: texts", len(todo), "texts") as advance:
            for start in range(0, len(todo), TEXT_BATCH):
                part = todo[start : start + TEXT_BATCH]
                encoded = teacher.encode_text(teacher.tokenize([texts[i] for i in part]))
                store.put(job.spec.fingerprint, "text", rows[part], _checked(job.spec, "text", encoded, len(part)))
                advance(len(part))


def _images(
    corpus: Corpus,
    rows: np.ndarray[Any, Any],
    jobs: Sequence[Job],
    loaded: dict[str, Teacher],
    store: FeatureStore,
    watch: Progress,
    done: Extraction,
) -> None:
    """Decode each image once for all teachers that lack it."""
    import torch

    missing = {job.spec.name: store.missing(job.spec.fingerprint, "image", rows) for job in jobs}
    done.images |= {name: int(mask.sum()) for name, mask in missing.items()}
    todo = np.flatnonzero(np.any(list(missing.values()), axis=0)) if missing else np.empty(0, int)
    if not len(todo):
        return
    names = ", ".join(name for name, mask in missing.items() if mask.any())
    with watch.task(f"{names}: images", len(todo), "images") as advance:
        for start in range(0, len(todo), IMAGE_BATCH):
            part = todo[start : start + IMAGE_BATCH]
            images = {i: corpus.open(i) for i in part}
            for job in jobs:
                mine = [i for i in part if missing[job.spec.name][i]]
                if not mine:
                    continue
                teacher = _teacher(job, loaded, store)
                encoded = teacher.encode_image(torch.stack([teacher.preprocess(images[i]) for i in mine]))
                store.put(job.spec.fingerprint, "image", rows[mine], _checked(job.spec, "image", encoded, len(mine)))
            advance(len(part))


def _checked(spec: TeacherSpec, tower: str, encoded: Any, expected: int) -> np.ndarray[Any, Any]:
    """Features as float32 (n, D); a teacher that breaks its contract is named."""
    features: np.ndarray[Any, Any] = encoded.cpu().numpy()
    if features.shape != (expected, spec.embed_dim):
        due = (expected, spec.embed_dim)
        what = f"{spec.name} answers {tower} features of shape {features.shape}, its spec says {due}"
        raise PluginError(what, next=f"Report it to the plugin's author, or run `mmkd teachers remove {spec.name}`")
    if not np.isfinite(features).all():
        what = f"{spec.name} gives {tower} features with NaN or infinity; nothing of this batch was stored"
        raise PluginError(what, next=f"Run `mmkd teachers remove {spec.name}`, or mend its weights and add it again")
    return features
