"""Figures of extraction: its cost over the bare model, and a second run over a million cached rows.

``extract-overhead`` decodes PNGs of 512 x 512, scales them to 224 and runs an open_clip ViT-B/16 with random weights,
on the CPU, in float32, in batches of 16. The bare way is what one would write by hand: a ``DataLoader`` decodes ahead
in front of the model, with one worker or one per core, or a pool of threads decodes each batch, whichever is fastest
here; nothing is checked or kept. ``extract-over-model`` compares with the model alone on pixels that lie in memory: the
share of decoding, which a GPU hides and a CPU does not. The ways are timed in turn, by the wall, for ``BUDGET_S``.

Does not: measure a GPU, or a disk that is slower than decoding.
"""

from __future__ import annotations

import itertools
import logging
import tempfile
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from unittest import mock

import numpy as np
import open_clip
import torch
from PIL import Image
from timing import Figure, interleaved, ratio
from torch.utils.data import DataLoader, Dataset

from feature_store import FeatureStore
from mmkd_core.contract import ImageSpec, LicenseInfo, TeacherSpec, TextSpec, WeightSource
from mmkd_core.data.manifest import Corpus, image_id, text_id
from mmkd_core.extract import ExtractConfig, Job, extract, features
from mmkd_core.extract.decoding import cores
from mmkd_core.plugins.loaders.open_clip import OpenClipTeacher

ROUNDS, IMAGES, BATCH, SIDE = 7, 32, 16, 512
BUDGET_S = 200.0
"""No round is begun after it; on a busy machine there may be only one."""
CACHED = 1_000_000


def _spec(dim: int, size: int) -> TeacherSpec:
    return TeacherSpec(
        name="bench",
        title="bench",
        summary="random weights",
        family="open_clip",
        weights=(WeightSource(role="model", kind="package", location="bench", files={"w": "0" * 64}),),
        image=ImageSpec(size=size, mean=(0.48, 0.46, 0.41), std=(0.27, 0.26, 0.28)),
        text=TextSpec(tokenizer="open_clip", context_length=77),
        embed_dim=dim,
        logit_scale=100,
        domains=("ct",),
        license=LicenseInfo(code="MIT", weights="MIT", commercial_use=True),
    )


def _corpus(folder: Path, count: int) -> Corpus:
    """Smooth images with some noise, so that a PNG is as large as a radiograph's."""
    rng, rows = np.random.default_rng(0), []
    for i in range(count):
        coarse = Image.fromarray(rng.integers(0, 256, (14, 14, 3), dtype=np.uint8)).resize((SIDE, SIDE))
        picture = Image.fromarray((np.asarray(coarse) // 2 + rng.integers(0, 32, (SIDE, SIDE, 1))).astype(np.uint8))
        picture.save(folder / f"{i}.png")
        facts = {"image": f"{i}.png", "image_id": image_id(picture), "caption": "a", "domain": "ct"}
        rows.append({**facts, "group_id": str(i), "split": "train"})
    return Corpus.build(folder, rows, {})


class Decoded(Dataset[torch.Tensor]):
    """Images of a corpus as a teacher wants them."""

    def __init__(self, corpus: Corpus, teacher: OpenClipTeacher) -> None:
        self.corpus, self.teacher = corpus, teacher

    def __len__(self) -> int:
        return len(self.corpus)

    def __getitem__(self, row: int) -> torch.Tensor:
        return self.teacher.preprocess(self.corpus.open(row))


def overhead() -> list[Figure]:
    """An extraction over the same by hand, and over the model's forward passes alone."""
    logging.getLogger().setLevel(logging.ERROR)  # open_clip warns of random weights
    model = open_clip.create_model("ViT-B-16")
    teacher = OpenClipTeacher(_spec(512, 224), model, lambda texts, context_length: torch.empty(0), "cpu")
    batches = [range(start, start + BATCH) for start in range(0, IMAGES, BATCH)]
    with (
        tempfile.TemporaryDirectory() as name,
        mock.patch.object(features, "IMAGE_BATCH", BATCH),
        ThreadPoolExecutor(cores()) as pool,
    ):
        corpus = _corpus(Path(name), IMAGES)
        stores = (Path(name, f"store-{number}") for number in itertools.count())
        decoded = Decoded(corpus, teacher)

        def extraction(_: int) -> None:
            with FeatureStore.open(next(stores), "w") as store:
                job = Job(teacher.spec, lambda: teacher)
                extract(corpus, [], [job], store, config=ExtractConfig(precision="fp32")).require()

        def forward(images: Iterable[torch.Tensor]) -> None:
            for batch in images:
                teacher.encode_image(batch)

        def loader(workers: int) -> Callable[[int], None]:
            made = DataLoader(decoded, BATCH, num_workers=workers, persistent_workers=True)
            return lambda turn: forward(made)

        by_hand: dict[str, Callable[[int], None]] = {
            f"a DataLoader with {workers} workers": loader(workers) for workers in sorted({1, cores()})
        }
        by_hand["a pool of threads"] = lambda turn: forward(
            torch.stack(list(pool.map(decoded.__getitem__, index))) for index in batches
        )
        ready = [torch.stack([decoded[i] for i in index]) for index in batches]
        ways = {"extraction": extraction, "model": lambda turn: forward(ready), **by_hand}
        seconds = interleaved(ways, lambda turn: turn, ROUNDS, warm=1, budget=BUDGET_S)
    best = min(by_hand, key=lambda way: float(np.median(seconds[way])))
    shared = (
        f"ViT-B/16, {IMAGES} PNGs of {SIDE} x {SIDE} in batches of {BATCH}, float32, {torch.get_num_threads()} threads"
    )
    return [
        ratio("extract-overhead", seconds["extraction"], seconds[best], f"{best} in front of {shared}"),
        ratio("extract-over-model", seconds["extraction"], seconds["model"], f"forward passes alone of {shared}"),
    ]


def cached() -> list[Figure]:
    """Seconds of an extraction that finds all features of a million images with a million captions."""
    numbers = range(CACHED)
    ids = np.array([f"{n:032x}" for n in numbers], object)
    captions = np.array([f"caption {n}" for n in numbers], object)
    texts = np.array([text_id(text) for text in captions], object)
    ct, train, nothing = (np.full(CACHED, value, object) for value in ("ct", "train", None))
    more = np.empty(CACHED, object)
    more.fill(())
    corpus = Corpus(
        Path(), sample_id=ids, image_id=ids, text_id=texts, image=ids, caption=captions, more_captions=more,
        domain=ct, label=nothing, labels=nothing, group_id=ids, split=train,
    )  # fmt: skip
    spec = _spec(8, 224)
    job = Job(spec, lambda: exit("nothing is missing, so nobody is loaded"))
    with tempfile.TemporaryDirectory() as name, FeatureStore.open(name, "w") as store:
        for tower, names in (("image", ids), ("text", texts)):
            rows = store.add_ids(tower, list(names))
            for part in np.array_split(rows, 20):
                store.put(spec.fingerprint, tower, part, np.ones((len(part), 8), np.float32))
        seconds = [_time(lambda: extract(corpus, list(captions), [job], store)) for _ in range(3)]
    against = "a second extraction of 1,000,000 images and 1,000,000 captions of one teacher; the corpus is loaded"
    return [_figure("extract-cached", np.array(seconds), "s", against)]


def _time(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def _figure(name: str, values: np.ndarray, unit: str, against: str) -> Figure:
    low, middle, high = np.percentile(values, [25, 50, 75])
    spread = [round(float(low), 3), round(float(high), 3)]
    return {"name": name, "value": round(float(middle), 3), "unit": unit, "against": against, "spread": spread}


FIGURES: dict[str, Callable[[], list[Figure]]] = {"extract-overhead": overhead, "extract-cached": cached}
