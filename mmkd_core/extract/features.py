"""Ask each teacher once for the features of each distinct image and text, and keep them raw.

Rows of the store are images and texts, not samples: a caption that a thousand samples share is encoded once. A run
that was killed goes on with what is missing; a second run computes nothing and loads no teacher.

A batch is what is missing of one cell: ``IMAGE_BATCH`` neighbouring rows of the store. Cells do not depend on what was
done before, and each is stored whole or not at all, so a run that was killed asks for the same batches afterwards and
the result is the same, bit for bit, as that of a run that was not.

A teacher that fails does not stop the others. One that cannot be loaded, raises or answers nonsense is left out for the
rest of the run and nothing of that batch is stored; a batch that an isolated teacher's worker could not answer
(``BatchError``) is left out alone, unless that happens ``PATIENCE`` times in a row.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from feature_store import FeatureStore
from mmkd_core.contract import ImageSpec
from mmkd_core.data.manifest import Corpus, text_id
from mmkd_core.errors import DataError, MmkdError, PluginError
from mmkd_core.extract.asking import Asked, Job
from mmkd_core.extract.config import ExtractConfig
from mmkd_core.extract.decoding import Batch, Wanted, decoded
from mmkd_core.extract.precision import Precision
from mmkd_core.extract.writing import Writer
from mmkd_core.progress import Progress, Silent

IMAGE_BATCH, TEXT_BATCH = 256, 512
Rows = NDArray[np.int64]


@dataclass
class Extraction:
    """What a run computed: numbers of images and texts per teacher (0 where everything was there).

    Args:
        images: stored by this run.
        texts: stored by this run.
        lost: images and texts per teacher that are still missing, because it failed.
        failed: why, for every teacher in ``lost``: the first failure.
        skipped: images that cannot be read, by id: where each lies, and why.
    """

    images: dict[str, int] = field(default_factory=dict)
    texts: dict[str, int] = field(default_factory=dict)
    lost: dict[str, int] = field(default_factory=dict)
    failed: dict[str, MmkdError] = field(default_factory=dict)
    skipped: dict[str, tuple[str, str]] = field(default_factory=dict)

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
    config: ExtractConfig | None = None,
) -> Extraction:
    """Fill ``store`` with the features of all images of ``corpus`` and of ``texts`` for every job.

    What a teacher did not answer is in the result; ``require`` makes it an error.

    Raises:
        DataError: more images cannot be read than ``config.max_bad`` allows.
    """
    config, watch = config or ExtractConfig(), progress or Silent()
    work = Work.of(corpus, texts, store)
    run = _Run(work, store, config, watch, [Asked(job, config.precision, recorded(store, job)) for job in jobs])
    with Writer(store) as writer:
        run.texts(writer)
        run.images(writer)
    return run.result()


@dataclass(frozen=True)
class Work:
    """Distinct images and texts, and their rows in the store.

    Args:
        corpus: all samples.
        index: the first sample of each distinct image.
        image_rows: their rows; -1 for one that the store does not know.
        texts: distinct texts.
        text_rows: their rows.
    """

    corpus: Corpus
    index: Rows
    image_rows: Rows
    texts: list[str]
    text_rows: Rows

    @classmethod
    def of(cls, corpus: Corpus, texts: Sequence[str], store: FeatureStore | None) -> Work:
        """Find the distinct ones and number them in a store that is open for writing; else only look them up."""
        names = corpus.image_id.tolist()
        unique, ids = _identified(corpus, texts)
        if store is None:
            rows, text_rows = np.full(len(names), -1, np.int64), np.full(len(ids), -1, np.int64)
        else:
            number = store.add_ids if store.mode == "w" else store.rows
            rows, text_rows = number("image", names), number("text", ids)
        index = _first_of_each(rows, names)
        return cls(corpus, index, rows[index], unique, text_rows)

    def missing(self, store: FeatureStore | None, table: str) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
        """Masks over images and texts: True where the table has no features."""
        return self._missing(store, table, "image"), self._missing(store, table, "text")

    def _missing(self, store: FeatureStore | None, table: str, tower: str) -> NDArray[np.bool_]:
        rows = self.image_rows if tower == "image" else self.text_rows
        lacks = rows < 0
        if store is not None:
            lacks[~lacks] = store.missing(table, tower, rows[~lacks])
        return lacks


def _identified(corpus: Corpus, texts: Sequence[str]) -> tuple[list[str], list[str]]:
    """Distinct texts and their ids. The corpus knows those of its captions, which usually come first, in its order."""
    known = dict(zip(corpus.caption.tolist(), corpus.text_id.tolist(), strict=True))
    captions = list(known)
    if list(texts[: len(captions)]) != captions:
        unique = list(dict.fromkeys(texts))
        return unique, [known.get(text) or text_id(text) for text in unique]
    more = [text for text in dict.fromkeys(texts[len(captions) :]) if text not in known]
    return captions + more, [*known.values(), *map(text_id, more)]


def _first_of_each(rows: Rows, names: Sequence[str]) -> Rows:
    """First sample of each distinct image, ascending. Rows tell images apart, except those that have none yet (-1)."""
    distinct, first = np.unique(rows, return_index=True)
    unknown: dict[str, int] = {}
    for sample in np.flatnonzero(rows < 0).tolist():
        unknown.setdefault(names[sample], sample)
    return np.sort(np.concatenate((first[distinct >= 0], np.array([*unknown.values()], np.int64))))


def recorded(store: FeatureStore, job: Job) -> dict[str, Precision]:
    """In which precision the features were computed that the store has of a teacher, by tower."""
    tables = [table for table in store.tables() if table.table == job.spec.fingerprint and table.rows]
    return {table.tower: Precision.read(table.facts, table.tower) for table in tables}


def cells(rows: Rows, todo: NDArray[np.int64], size: int) -> list[NDArray[np.int64]]:
    """Split ``todo`` (places in ``rows``) into batches: one for each cell of ``size`` rows, in order of rows."""
    ordered = todo[np.argsort(rows[todo], kind="stable")]
    edges = np.flatnonzero(np.diff(rows[ordered] // size)) + 1
    return np.split(ordered, edges) if len(ordered) else []


class Skipped:
    """Images that cannot be read, up to a limit."""

    def __init__(self, corpus: Corpus, images: int, share: float) -> None:
        self._corpus, self._images, self._share = corpus, images, share
        self.found: dict[str, tuple[str, str]] = {}

    def add(self, sample: int, error: DataError) -> None:
        """Note one.

        Raises:
            DataError: this one is too many.
        """
        self.found[str(self._corpus.image_id[sample])] = (str(self._corpus.image[sample]), error.what)
        if len(self.found) > int(self._share * self._images):
            raise DataError(
                error.what,
                where=f"{error.where}; {len(self.found)} of {self._images} images cannot be read so far, "
                f"at most {100 * self._share:g} % may be left out",
                next="Mend or remove them, or run `mmkd extract --max-bad` with a larger share",
            )


@dataclass
class _Run:
    """A run under way in this process."""

    work: Work
    store: FeatureStore
    config: ExtractConfig
    watch: Progress
    asked: list[Asked]
    done: Extraction = field(default_factory=Extraction)

    def __post_init__(self) -> None:
        self.skipped = Skipped(self.work.corpus, len(self.work.index), self.config.max_bad)
        self._missing = {one.spec.name: self.work.missing(self.store, one.spec.fingerprint) for one in self.asked}
        self.done.images = dict.fromkeys(self._missing, 0)
        self.done.texts = dict.fromkeys(self._missing, 0)

    def texts(self, writer: Writer) -> None:
        """Teacher after teacher."""
        rows = self.work.text_rows
        for one in self.asked:
            todo = np.flatnonzero(self._missing[one.spec.name][1])
            if not len(todo):
                continue
            with self.watch.task(f"{one.spec.name}: texts", len(todo), "texts") as advance:
                for part in cells(rows, todo, TEXT_BATCH):
                    inputs = [self.work.texts[i] for i in part]
                    self.done.texts[one.spec.name] += self._ask(one, "text", rows[part], inputs, writer)
                    advance(len(part))

    def images(self, writer: Writer) -> None:
        """Batch after batch, each decoded once for all teachers that lack it."""
        missing = {name: images for name, (images, _) in self._missing.items() if images.any()}
        todo = np.flatnonzero(np.any(list(missing.values()), axis=0)) if missing else np.empty(0, np.int64)
        if not len(todo):
            return
        askers = [one for one in self.asked if one.spec.name in missing]
        ours = {one.spec.name for one in askers if not one.out and one.prepares_as_we_do()}
        parts = cells(self.work.image_rows, todo, IMAGE_BATCH)
        wanted = [partial(self._wanted, part, askers, ours) for part in parts]
        gpu = any(one.on_gpu for one in askers)
        with self.watch.task(f"{', '.join(missing)}: images", len(todo), "images") as advance:
            for part, batch in zip(
                parts, decoded(self.work.corpus.open, wanted, ahead=2 * gpu, pinned=gpu), strict=True
            ):
                good = self._readable(part, batch)
                for one in askers:
                    self._image_batch(one, part, good, batch, writer)
                advance(len(part))

    def _wanted(self, part: Rows, askers: list[Asked], ours: set[str]) -> Wanted:
        left = [one for one in askers if not one.out and self._missing[one.spec.name][0][part].any()]
        specs: dict[ImageSpec, None] = {one.spec.image: None for one in left if one.spec.name in ours}
        images = any(one.spec.name not in ours for one in left)
        return Wanted(self.work.index[part], images, tuple(specs))

    def _readable(self, part: Rows, batch: Batch) -> NDArray[np.bool_]:
        good = np.ones(len(part), bool)
        for place in sorted(batch.bad):
            self.skipped.add(int(batch.index[place]), batch.bad[place])
            good[place] = False
        return good

    def _image_batch(self, one: Asked, part: Rows, good: NDArray[np.bool_], batch: Batch, writer: Writer) -> None:
        places = np.flatnonzero(good & self._missing[one.spec.name][0][part])
        if not len(places):
            return
        inputs: Any = places if one.out else batch.inputs(one.spec.image, places)
        self.done.images[one.spec.name] += self._ask(one, "image", self.work.image_rows[part[places]], inputs, writer)

    def _ask(self, one: Asked, tower: str, rows: Rows, inputs: Any, writer: Writer) -> int:
        """Ask for one batch and have it stored; returns the number of rows: all, or none after a failure."""
        if one.out:
            one.lost += len(rows)
            return 0
        before = one.precision.get(tower)
        features = one.answer(tower, inputs)
        if features is None:
            return 0
        if before is None:
            self.store.describe(one.spec.fingerprint, teacher=one.spec.name, **one.precision[tower].facts(tower))
            if note := one.precision[tower].note:
                self.watch.say(f"{one.spec.name}: {tower}s are computed in float32: {note}")
        writer.put(one.spec.fingerprint, tower, rows, features)
        return len(rows)

    def result(self) -> Extraction:
        """What was done, and what is missing."""
        for one in self.asked:
            if one.failure is not None:
                self.done.failed[one.spec.name], self.done.lost[one.spec.name] = one.failure, one.lost
        self.done.skipped = self.skipped.found
        return self.done
