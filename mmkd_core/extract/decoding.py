"""Images of a batch, decoded once for all teachers by several threads, with a bounded number of batches ahead.

Threads are enough: Pillow decodes and resizes without Python's lock. Where a teacher's pixels are what our own pipeline
makes of its ``ImageSpec`` they are made here too, once for all teachers with equal ones.

On a CPU nothing is decoded ahead: the model's own threads would wait for the core that decodes, which costs more than
decoding on all cores in between. A GPU is kept busy with two batches ahead.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from PIL.Image import Image

from mmkd_core.contract import ImageSpec
from mmkd_core.errors import DataError

if TYPE_CHECKING:
    from torch import Tensor

Open = Callable[[int], Image]


@dataclass(frozen=True)
class Wanted:
    """What is needed of a batch.

    Args:
        index: samples (n,) of the corpus.
        images: keep the decoded images, for teachers with a preprocessing of their own.
        specs: pixels to make.
    """

    index: NDArray[np.int64]
    images: bool
    specs: tuple[ImageSpec, ...] = ()


@dataclass
class Batch:
    """Decoded images: each list and each first axis is as long as ``index``.

    Args:
        index: samples of the corpus.
        images: None where it was not wanted or cannot be read.
        pixels: float32 (n, 3, size, size) by spec; what an unreadable image's row holds is undefined.
        bad: why, by place in the batch, for images that cannot be read.
    """

    index: NDArray[np.int64]
    images: list[Image | None]
    pixels: dict[ImageSpec, Tensor]
    bad: dict[int, DataError] = field(default_factory=dict)

    def inputs(self, spec: ImageSpec, places: NDArray[np.int64]) -> Any:
        """What a teacher gets of the images at these places: pixels where they were made, else the images."""
        if spec not in self.pixels:
            return [self.images[k] for k in places]
        pixels = self.pixels[spec]
        return pixels if len(places) == len(self.index) else pixels[places]


def cores() -> int:
    """Processors that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def decoded(
    open_: Open, wanted: Iterable[Callable[[], Wanted]], *, ahead: int = 0, pinned: bool = False, threads: int = 0
) -> Iterator[Batch]:
    """Yield one batch for each of ``wanted``, which are called when their batch is begun.

    Args:
        open_: decodes the image of a sample, or raises DataError.
        wanted: what each batch needs; asked late, because a teacher may fail meanwhile.
        ahead: batches that are decoded while the caller works on one.
        pinned: put pixels into page-locked memory, for a GPU.
        threads: how many decode; by default as many as there are cores.
    """
    pending: deque[tuple[Batch, list[Future[None]]]] = deque()
    pool = ThreadPoolExecutor(threads or cores(), thread_name_prefix="decode")
    try:
        for ask in wanted:
            pending.append(_begun(open_, ask(), pool, pinned))
            if len(pending) > ahead:
                yield _finished(*pending.popleft())
        while pending:
            yield _finished(*pending.popleft())
    finally:
        pool.shutdown(cancel_futures=True)


def _begun(open_: Open, want: Wanted, pool: ThreadPoolExecutor, pinned: bool) -> tuple[Batch, list[Future[None]]]:
    import torch

    n = len(want.index)
    pixels = {
        spec: torch.empty((n, 3, spec.size, spec.size), dtype=torch.float32, pin_memory=pinned) for spec in want.specs
    }
    batch = Batch(want.index, [None] * n, pixels)
    if not want.images and not want.specs:
        return batch, []
    return batch, [pool.submit(_decode, open_, want, batch, k) for k in range(n)]


def _finished(batch: Batch, work: list[Future[None]]) -> Batch:
    for done in work:
        done.result()
    return batch


def _decode(open_: Open, want: Wanted, batch: Batch, k: int) -> None:
    from mmkd_core.plugins.loaders.preprocess import preprocess

    try:
        image = open_(int(want.index[k]))
        for spec in want.specs:
            # Written by numpy, which uses one thread: torch would start its own in each of ours.
            batch.pixels[spec].numpy()[k] = preprocess(image, spec).numpy()
        if want.images:
            batch.images[k] = image
    except DataError as error:
        batch.bad[k] = error
