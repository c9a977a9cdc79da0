"""What distillation sees of a teacher: cached features by row, a logit scale, and which rows it may teach.

Does not: know a teacher. The parent student is a source like any other.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from feature_store import FeatureStore
from feature_store.torch import gather
from mmkd_core.errors import PluginError
from mmkd_core.student.batches import Rows

Mask = np.ndarray[Any, np.dtype[np.bool_]]


@dataclass(frozen=True)
class Source:
    """Features of one teacher over a corpus of N samples.

    Attributes:
        name: the teacher's name, or ``student@0001``.
        store: an open feature store; features are gathered from its memory map, a batch at a time.
        table: the fingerprint under which the features lie.
        image_rows: (N,) rows of the samples' images in the store.
        text_rows: (M,) rows of all captions, in the order of ``Corpus.texts``: the first N are the samples' first.
        bank: per domain the features (K, D) of the texts of the bank, unit norm.
        logit_scale: the teacher's own, already exponentiated.
        mask: (N,) true where the source teaches.
        heads: whether it has a head of its own; the parent teaches by relation only.
        factor: weight of its relation beside the others'.
        turn: from a step's number to whether it teaches then; it always does if left out.
        urgency: from rows (B,) to factors (B,) on top; 1 if left out.
    """

    name: str
    store: FeatureStore
    table: str
    image_rows: Rows
    text_rows: Rows
    bank: Mapping[str, Tensor]
    logit_scale: float
    mask: Mask
    heads: bool = True
    factor: float = 1.0
    turn: Callable[[int], bool] | None = None
    urgency: Callable[[Rows], Tensor] | None = None

    @property
    def dim(self) -> int:
        """Dimension of its features."""
        return int(next(iter(self.bank.values())).shape[1])

    def teaches(self, step: int) -> bool:
        """Whether it has its turn in a step."""
        return self.turn is None or self.turn(step)

    def weights(self, index: Rows) -> Tensor:
        """How much the samples ``index`` (B,) count beside its others: 1 unless something is urgent."""
        return torch.ones(len(index)) if self.urgency is None else self.urgency(index)

    def images(self, index: Rows) -> Tensor:
        """Unit-norm image features (B, D) of the samples ``index``."""
        batch = gather(self.store, [self.table], images=self.image_rows[index], dtype=torch.float32)
        self.require(int(batch.mask.sum()), len(index))
        return F.normalize(batch.images[self.table], dim=-1)

    def texts(self, captions: Rows) -> Tensor:
        """Unit-norm features (B, D) of ``captions``; a sample's number is also that of its first caption."""
        batch = gather(self.store, [self.table], texts=self.text_rows[captions], dtype=torch.float32)
        self.require(int(batch.mask.sum()), len(captions))
        return F.normalize(batch.texts[self.table], dim=-1)

    def require(self, found: int, wanted: int) -> None:
        """Refuse to go on without some of the features.

        Raises:
            PluginError: the store lacks some: it was repaired or cleaned since the sources were made.
        """
        if found < wanted:
            what = f"{wanted - found} of {wanted} features of {self.name} are missing"
            raise PluginError(what, where=str(self.store.path), next="Run `mmkd extract`")


@dataclass(frozen=True)
class Reading:
    """What T sources say of the B samples of a step.

    Attributes:
        sources: in the order of the others.
        trusted: (T, B) whether each teaches each sample.
        images, texts: per source unit-norm features (B, D), zeros where it does not teach; texts may be left out.
    """

    sources: tuple[Source, ...]
    trusted: Mask
    images: tuple[Tensor, ...]
    texts: tuple[Tensor, ...]


class Reader:
    """Reads all sources of a step at once: those in one store by one call, each block touched once.

    Args:
        sources: all that may be asked for.
    """

    def __init__(self, sources: Sequence[Source]) -> None:
        self.group: dict[str, int] = {}
        first: list[Source] = []
        for source in sources:
            together = [i for i, other in enumerate(first) if _together(source, other)]
            self.group[source.name] = together[0] if together else len(first)
            first += [] if together else [source]

    def read(self, sources: Sequence[Source], index: Rows, captions: Rows | None) -> Reading:
        """Features of the samples ``index`` (B,) by ``sources``, and of one of the captions (B,) of each, if given.

        Raises:
            PluginError: a feature that should teach is missing.
        """
        trusted = np.array([source.mask[index] for source in sources], bool).reshape(len(sources), len(index))
        found: dict[int, tuple[Tensor, Tensor | None]] = {}
        for group in dict.fromkeys(self.group[source.name] for source in sources):
            places = [i for i, source in enumerate(sources) if self.group[source.name] == group]
            found |= self._read([sources[i] for i in places], index, captions, trusted[places], places)
        pairs = [found[i] for i in range(len(sources))]
        texts = tuple(text for _, text in pairs if text is not None)
        return Reading(tuple(sources), trusted, tuple(image for image, _ in pairs), texts)

    @staticmethod
    def _read(
        sources: Sequence[Source], index: Rows, captions: Rows | None, trusted: Mask, places: Sequence[int]
    ) -> dict[int, tuple[Tensor, Tensor | None]]:
        first = sources[0]
        images, texts = first.image_rows[index], None if captions is None else first.text_rows[captions]
        tables = [source.table for source in sources]
        batch = gather(first.store, tables, images, texts, trust=trusted.T, dtype=torch.float32)
        for source, found, wanted in zip(sources, batch.mask.sum(0).tolist(), trusted.sum(1).tolist(), strict=True):
            source.require(found, wanted)
        for features in (*batch.images.values(), *batch.texts.values()):
            F.normalize(features, dim=-1, out=features)
        return {place: (batch.images[t], batch.texts.get(t)) for place, t in zip(places, tables, strict=True)}


def _together(one: Source, other: Source) -> bool:
    same = np.array_equal(one.image_rows, other.image_rows) and np.array_equal(one.text_rows, other.text_rows)
    return one.store is other.store and same
