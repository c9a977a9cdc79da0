"""The same work as a Ray Data pipeline, on a cluster or on this machine: ``mmkd extract --engine ray``.

Shards are the batches that ``extract`` asks for, so the features are the same. Teacher after teacher has all machines:
a pool of actors, each with the teacher loaded, takes shards, decodes and encodes them and sends the features back to
this process, which alone writes the store. Each shard is one commit. A worker that dies is started again and its shard
asked again; a shard that kills its worker ``TRIES`` times is lost and the others go on, as with ``BatchError``.

Does not: decode an image once for all teachers, as ``extract`` does (every teacher has the whole cluster in turn), or
bring data to the machines: all see the workspace and the images under the same paths.
"""

from __future__ import annotations

import json
import os
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from feature_store import FeatureStore
from mmkd_core import advice
from mmkd_core.data.manifest import Corpus, decode_as
from mmkd_core.errors import BatchError, DataError, MmkdError, PluginError
from mmkd_core.extract import features as local
from mmkd_core.extract.asking import PATIENCE, Asked, Job
from mmkd_core.extract.config import ExtractConfig, Setting
from mmkd_core.extract.decoding import Wanted, decoded
from mmkd_core.extract.features import Extraction, Skipped, Work, cells, recorded
from mmkd_core.extract.precision import Precision
from mmkd_core.extract.writing import Writer
from mmkd_core.progress import Progress, Silent

TRIES = 3
"""A shard that waits for an actor to come back may count that as one."""
CPUS_PER_ACTOR = 4
"""On machines without a GPU: more threads than this serve one model badly."""

Json = dict[str, Any]


@dataclass(frozen=True)
class Machines:
    """What a cluster offers: how many actors at a time, what each may use, and where teachers compute."""

    actors: int
    cpus: int
    device: str
    ours: bool
    """Whether ``cluster`` made the connection, so that it may be made again."""

    @property
    def resources(self) -> dict[str, float]:
        """As Ray wants it, for one actor."""
        return {"num_cpus": self.cpus, "num_gpus": 1 if self.device == "cuda" else 0}


@contextmanager
def cluster() -> Iterator[Machines]:
    """Join the cluster that ``RAY_ADDRESS`` or this machine has, or start one here for the time of the block.

    Raises:
        PluginError: Ray is not installed.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # nothing leaves the machines
    try:
        import ray
        import ray.data
    except ImportError as error:
        raise PluginError(
            f"Ray is not installed: {error}", next=f"{advice.install('ray')}, or leave out `--engine ray`"
        ) from error
    begun = not ray.is_initialized()
    if begun:
        _connect()
    try:
        found = ray.cluster_resources()
        cpus, gpus = int(found.get("CPU", 1)), int(found.get("GPU", 0))
        actors = gpus or max(1, cpus // CPUS_PER_ACTOR)
        yield Machines(actors, max(1, cpus // actors), "cuda" if gpus else "cpu", begun)
    finally:
        if begun:
            ray.shutdown()


def _connect() -> None:
    import ray

    ray.init(log_to_driver=False, logging_level="ERROR")


def extract_on_ray(
    machines: Machines,
    corpus: Corpus,
    texts: Sequence[str],
    jobs: Sequence[Job],
    store: FeatureStore,
    progress: Progress | None = None,
    config: ExtractConfig | None = None,
) -> Extraction:
    """As ``extract``, by the machines of a cluster. Jobs must be picklable.

    Raises:
        DataError: more images cannot be read than ``config.max_bad`` allows.
    """
    config, watch = config or ExtractConfig(), progress or Silent()
    work, done = Work.of(corpus, texts, store), Extraction()
    skipped = Skipped(corpus, len(work.index), config.max_bad)
    with Writer(store) as writer:
        for job in jobs:
            run = _Run(machines, job, _shards(work, store, job), done, skipped)
            if run.shards and run.settle(config.precision, recorded(store, job)):
                store.describe(job.spec.fingerprint, teacher=job.spec.name, **run.facts())
                run.work(writer, watch)
            run.close()
    done.skipped = skipped.found
    return done


@dataclass(frozen=True)
class _Shard:
    """One batch: rows of a tower, and the texts or the images (path and id) to encode."""

    tower: str
    rows: local.Rows
    inputs: list[Any]
    samples: list[int]

    def item(self, number: int) -> Json:
        """What travels to an actor."""
        return {"number": number, "shard": json.dumps({"tower": self.tower, "inputs": self.inputs})}


def _shards(work: Work, store: FeatureStore, job: Job) -> list[_Shard]:
    """What a teacher lacks, texts first."""
    images, texts = (np.flatnonzero(mask) for mask in work.missing(store, job.spec.fingerprint))
    found = [
        _Shard("text", work.text_rows[part], [work.texts[i] for i in part], [])
        for part in cells(work.text_rows, texts, local.TEXT_BATCH)
    ]
    for part in cells(work.image_rows, images, local.IMAGE_BATCH):
        samples = [int(i) for i in work.index[part]]
        files = [(str(work.corpus.path(i).absolute()), work.corpus.image_id[i]) for i in samples]
        found.append(_Shard("image", work.image_rows[part], files, samples))
    return found


class _Run:
    """One teacher, seen from the process that writes."""

    def __init__(self, machines: Machines, job: Job, shards: list[_Shard], done: Extraction, skipped: Skipped) -> None:
        self._machines, self._job, self.shards = machines, job, shards
        self._done, self._skipped, self._name = done, skipped, job.spec.name
        self._known: dict[str, Precision] = {}
        self._left = {number: len(shard.rows) for number, shard in enumerate(shards)}
        self._failure: MmkdError | None = None
        self._in_a_row = 0
        done.images[self._name] = done.texts[self._name] = 0

    def settle(self, setting: Setting, known: dict[str, Precision]) -> bool:
        """Choose the precision of each tower once, on a worker: every actor then keeps to it.

        Returns whether that went well; if not, the teacher cannot be asked.
        """
        import ray

        self._known = dict(known)
        try:
            for tower in {shard.tower for shard in self.shards} - set(known):
                self._known[tower] = Precision() if setting == "fp32" else self._probed(tower, setting)
        except PluginError as error:
            self._failure = error
        except ray.exceptions.RayError as error:
            self._failure = BatchError(f"{self._name}: its worker failed {TRIES} times: {type(error).__name__}")
        return self._failure is None

    def _probed(self, tower: str, setting: Setting) -> Precision:
        import ray

        first = next(shard for shard in self.shards if shard.tower == tower)
        ask = ray.remote(_probe).options(**self._machines.resources, max_retries=TRIES - 1)
        answer = ray.get(ask.remote(self._job, setting, self._machines.cpus, first.item(0)))
        if isinstance(answer, Precision):
            return answer
        raise _error(answer)

    def facts(self) -> Json:
        """Precisions, as kept in the store."""
        return {k: v for tower, chosen in self._known.items() for k, v in chosen.facts(tower).items()}

    def work(self, writer: Writer, watch: Progress) -> None:
        """Have all shards done, and store each as it comes back."""
        total = sum(len(shard.rows) for shard in self.shards)
        with watch.task(f"{self._name}: images and texts", total, "features") as advance:
            for answer in self._answers():
                shard = self.shards[answer["number"]]
                self._take(shard, answer, writer)
                advance(len(shard.rows))
                if self._in_a_row >= PATIENCE:
                    return

    def close(self) -> None:
        """Count what no answer came for."""
        if lost := sum(self._left.values()):
            self._let_go()
            self._done.lost[self._name] = lost
            self._done.failed[self._name] = self._failure or BatchError(
                f"{self._name}: a worker died {TRIES} times at the same batch",
                next="Run the same command again for what is missing",
            )

    def _let_go(self) -> None:
        """Ray Data forgets an actor that was just coming back, which then holds its processors: leaving ends it."""
        import ray

        if self._machines.ours:
            ray.shutdown()
            _connect()

    def _take(self, shard: _Shard, answer: Json, writer: Writer) -> None:
        told = json.loads(answer["told"])
        for place, (what, where) in told["bad"].items():
            self._skipped.add(shard.samples[int(place)], DataError(what, where=where))
        if told["error"]:
            error = _error(told["error"])
            self._failure = self._failure or error
            self._in_a_row = self._in_a_row + 1 if isinstance(error, BatchError) else PATIENCE
            return
        self._in_a_row = 0
        self._left.pop(answer["number"])
        good = [k for k in range(len(shard.rows)) if str(k) not in told["bad"]]
        if good:
            features = np.frombuffer(answer["features"], np.float32).reshape(len(good), -1)
            writer.put(self._job.spec.fingerprint, shard.tower, shard.rows[good], features)
            counts = self._done.texts if shard.tower == "text" else self._done.images
            counts[self._name] += len(good)

    def _answers(self) -> Iterator[Json]:
        """The pipeline. Ray restarts an actor that dies and gives it the shard again, ``TRIES`` times in all."""
        import ray

        items = [shard.item(number) for number, shard in enumerate(self.shards)]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Ray's own, about its own settings
            context = ray.data.DataContext.get_current()
            context.enable_progress_bars = False
            context.max_errored_blocks = -1  # a lost shard is counted here, and tried by the next run
            pipeline = ray.data.from_items(items, override_num_blocks=len(items)).map_batches(
                _Actor,
                fn_constructor_args=(self._job, self._known, self._machines.cpus),
                batch_size=1,
                # One shard at a time: what waits at an actor that dies would be lost with the shard that killed it.
                compute=ray.data.ActorPoolStrategy(
                    size=min(self._machines.actors, len(items)), max_tasks_in_flight_per_actor=1
                ),
                max_restarts=-1,
                max_task_retries=TRIES - 1,
                **self._machines.resources,
            )
            yield from pipeline.iter_rows()


class _Actor:
    """A teacher on some machine."""

    def __init__(self, job: Job, known: dict[str, Precision], threads: int, setting: Setting = "fp32") -> None:
        self.asked, self._threads = Asked(job, setting, known), threads

    def __call__(self, batch: Json) -> Json:
        """Answer one shard: its features, or why there are none."""
        shard = json.loads(str(batch["shard"][0]))
        bad: dict[int, tuple[str, str]] = {}
        features = self._features(shard["tower"], shard["inputs"], bad)
        failure = self.asked.take_failure()
        told = {"bad": bad, "error": None if failure is None else _facts(failure)}
        raw = b"" if features is None else np.ascontiguousarray(features, np.float32).tobytes()
        return {"number": batch["number"], "told": [json.dumps(told)], "features": [raw]}

    def _features(self, tower: str, inputs: list[Any], bad: dict[int, tuple[str, str]]) -> Any:
        if tower == "text":
            return self.asked.answer("text", inputs)
        ours = self.asked.prepares_as_we_do()
        spec = self.asked.spec.image
        want = Wanted(np.arange(len(inputs)), not ours, (spec,) if ours else ())
        for batch in decoded(partial(_open, inputs), [lambda: want], threads=self._threads):
            bad |= {place: (error.what, error.where) for place, error in batch.bad.items()}
            good = np.array([k for k in range(len(inputs)) if k not in bad], np.int64)
            if len(good) and not self.asked.failed:
                return self.asked.answer("image", batch.inputs(spec, good))
        return None


def _open(files: list[tuple[str, str]], place: int) -> Any:
    path, name = files[place]
    return decode_as(Path(path), name)


def _probe(job: Job, setting: Setting, threads: int, item: Json) -> Precision | Json:
    """The precision that a teacher's first shard shows to be right, or why it failed."""
    actor = _Actor(job, {}, threads, setting)
    answer = actor({name: [value] for name, value in item.items()})
    if error := json.loads(answer["told"][0])["error"]:
        return dict(error)
    return next(iter(actor.asked.precision.values()), Precision())


def _facts(error: MmkdError) -> Json:
    return {
        "batch": isinstance(error, BatchError), "what": error.what, "where": error.where, "next": error.next
    }  # fmt: skip


def _error(facts: Json) -> PluginError:
    kind = BatchError if facts["batch"] else PluginError
    return kind(facts["what"], where=facts["where"], next=facts["next"])
