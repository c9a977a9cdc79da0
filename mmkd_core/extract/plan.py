"""What an extraction would do, before it does it: samples, duplicates, what is missing, bytes, and time.

Time is measured: a teacher is loaded and asked for a few images and texts, none of which is stored. What was not
measured, because the teacher fails or the time for measuring is up, is unknown and said to be.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from feature_store import FeatureStore
from mmkd_core.data.manifest import Corpus
from mmkd_core.extract.asking import Asked, Job
from mmkd_core.extract.config import ExtractConfig
from mmkd_core.extract.decoding import Wanted, decoded
from mmkd_core.extract.features import Work, recorded

BUDGET_S = 60.0
"""Time for all measurements together; a teacher that was begun is finished."""
WARM_UP, MEASURED = 8, 32


@dataclass(frozen=True)
class Share:
    """What one teacher lacks: images and texts, bytes they will take in the store, seconds (None: unknown)."""

    teacher: str
    images: int
    texts: int
    bytes: int
    seconds: float | None


@dataclass(frozen=True)
class Plan:
    """What there is to do.

    Args:
        samples: rows of the corpus.
        images: distinct ones.
        duplicates: samples whose image another sample has already.
        texts: distinct captions and prompts.
        teachers: what each lacks.
    """

    samples: int
    images: int
    duplicates: int
    texts: int
    teachers: tuple[Share, ...]

    @property
    def bytes(self) -> int:
        """All that will be stored."""
        return sum(share.bytes for share in self.teachers)

    @property
    def seconds(self) -> float | None:
        """For all teachers, one after the other; None if one of them is unknown. A bound from above: images are
        decoded once for all."""
        known = [share.seconds for share in self.teachers]
        return None if None in known else sum(seconds for seconds in known if seconds is not None)


def plan(
    corpus: Corpus,
    texts: Sequence[str],
    jobs: Sequence[Job],
    store: FeatureStore | None,
    config: ExtractConfig | None = None,
    budget_s: float = BUDGET_S,
) -> Plan:
    """Look at what is missing in a store that is open for reading (None: there is none yet), and measure."""
    work = Work.of(corpus, texts, store)
    start, shares = time.monotonic(), []
    for job in jobs:
        images, captions = (np.flatnonzero(mask) for mask in work.missing(store, job.spec.fingerprint))
        seconds: float | None = 0.0
        if len(images) or len(captions):
            seconds = None
            if time.monotonic() - start < budget_s:
                known = recorded(store, job) if store else {}
                asked = Asked(job, (config or ExtractConfig()).precision, known)
                seconds = _seconds(work, asked, images, captions)
        width = _width(store, job) * job.spec.embed_dim
        shares.append(Share(job.spec.name, len(images), len(captions), (len(images) + len(captions)) * width, seconds))
    distinct = len(work.index)
    return Plan(len(corpus), distinct, len(corpus) - distinct, len(work.texts), tuple(shares))


def _seconds(work: Work, asked: Asked, images: NDArray[Any], texts: NDArray[Any]) -> float | None:
    """From the pace at a few, how long all will take."""
    total = 0.0
    if len(texts):
        total += _pace(asked, "text", [[work.texts[i] for i in part] for part in _parts(texts)]) * len(texts)
    if len(images) and not asked.out:
        ours = asked.prepares_as_we_do()
        specs = (asked.spec.image,) if ours else ()
        wanted = [Wanted(work.index[part], not ours, specs) for part in _parts(images)]
        total += _image_pace(work.corpus, asked, wanted) * len(images)
    return None if asked.failure else total


def _parts(todo: NDArray[Any]) -> list[NDArray[Any]]:
    """A few to warm up (and to choose a precision) with, and a few to measure: the same again if there are no more."""
    return [todo[:WARM_UP], todo[WARM_UP : WARM_UP + MEASURED] if len(todo) > WARM_UP else todo]


def _pace(asked: Asked, tower: str, batches: list[Any]) -> float:
    """Seconds per input in the second batch."""
    asked.answer(tower, batches[0])
    start = time.perf_counter()
    asked.answer(tower, batches[1])
    return (time.perf_counter() - start) / len(batches[1])


def _image_pace(corpus: Corpus, asked: Asked, wanted: list[Wanted]) -> float:
    """Seconds per image in the second batch, decoding included."""
    spent = 0.0
    for want in wanted:
        start = time.perf_counter()
        for batch in decoded(corpus.open, [lambda want=want: want]):  # type: ignore[misc]
            good = np.array([k for k in range(len(want.index)) if k not in batch.bad], np.int64)
            if len(good) and not asked.out:
                asked.answer("image", batch.inputs(asked.spec.image, good))
        spent = (time.perf_counter() - start) / len(want.index)
    return spent


def _width(store: FeatureStore | None, job: Job) -> int:
    """Bytes per number: as the table has it, else float16."""
    tables = store.tables() if store else []
    kept = [np.dtype(table.dtype).itemsize for table in tables if table.table == job.spec.fingerprint]
    return max(kept, default=2)
