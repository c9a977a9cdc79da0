"""``mmkd/retrieval@2``: exact cosine search, both directions, several right answers, ties against the model.

The gallery holds every different image (by image_id) and every different caption (by text_id) once, and an image and a
caption belong together if any sample pairs them: an image with two captions has two right answers, and so has a caption
of two images. R@K is the share of queries with a right answer among the first K (hit rate). A wrong answer that is as
similar as the best right one counts as found before it; otherwise a collapsed model would find everything.

Beside each figure stands what a random order of the gallery gives, with the right answers that each query has. Where
that is 100 %, as in a gallery of no more than K, R@K is undefined: it says nothing of the model.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from mmkd_core.errors import DataError
from mmkd_core.evaluate.classes import share
from mmkd_core.evaluate.figures import Measured
from mmkd_core.evaluate.outcomes import Outcomes
from mmkd_core.statistics import GroupBootstrap
from mmkd_core.trust.beliefs import unit

if TYPE_CHECKING:
    pass

PROTOCOL = "mmkd/retrieval@2"
KS = (1, 5, 10)
TIE = 1e-6
"""Cosines that differ by less are equal: float32 products of equal vectors may differ by 1e-7 from column to column."""

_CHUNK_BYTES = 32 * 2**20


class Chance:
    """What a random order of a gallery finds.

    Args:
        gallery: its size G.
        positives: (n,) right answers of each query, at least one.
    """

    def __init__(self, gallery: int, positives: NDArray[np.int64]) -> None:
        self.gallery = gallery
        later = np.zeros(gallery + 1)  # share of the queries whose best right answer has a rank above 0, 1, ... G
        for right, queries in zip(*np.unique(positives, return_counts=True), strict=True):
            wrong = gallery - right - np.arange(gallery)
            missed = np.cumprod(np.maximum(wrong, 0) / (gallery - np.arange(gallery)))
            later += queries / len(positives) * np.concatenate([[1.0], missed])
        self._later = later

    def recall(self, k: int) -> float:
        """R@K."""
        return float(1 - self._later[min(k, self.gallery)])

    @property
    def median_rank(self) -> int:
        """Smallest rank within which half of the queries have a right answer."""
        return int(np.argmax(self._later <= 0.5 + 1e-12))

    @property
    def reciprocal_rank(self) -> float:
        """Mean reciprocal rank."""
        return float((self._later[:-1] - self._later[1:]) @ (1 / np.arange(1, self.gallery + 1)))

    def undefined(self, k: int) -> str:
        """Why R@K says nothing of a model, or nothing."""
        if k >= self.gallery:
            return f"the gallery has {self.gallery}"
        return f"{k} of {self.gallery} always hold a right answer" if self._later[k] <= 0 else ""


@dataclass(frozen=True, eq=False)
class Direction:
    """One direction of search."""

    recall: dict[int, float]
    """R@K by K, where it is defined."""
    undefined: dict[int, str]
    """Why the others are not."""
    chance: Chance
    median_rank: float
    """1 is best."""
    queries: int
    gallery: int
    ids: NDArray[np.object_]
    """(queries,) image_id or text_id."""
    ranks: NDArray[np.int64]
    """(queries,) rank of the best right answer."""
    positives: NDArray[np.int64]
    """(queries,) how many right answers there are."""

    def to_json(self) -> dict[str, Any]:
        """The figures, and beside them those of a random order; null where one is undefined."""
        ks = sorted([*self.recall, *self.undefined])
        return {
            "recall": {str(k): self.recall.get(k) for k in ks},
            "median_rank": self.median_rank,
            "queries": self.queries,
            "gallery": self.gallery,
            "chance": {
                "recall": {str(k): self.chance.recall(k) if k in self.recall else None for k in ks},
                "median_rank": self.chance.median_rank,
            },
            "undefined": {str(k): reason for k, reason in self.undefined.items()},
        }


@dataclass(frozen=True, eq=False)
class Retrieval:
    """Both directions."""

    image_to_text: Direction
    text_to_image: Direction
    protocol: str = PROTOCOL

    def to_json(self) -> dict[str, Any]:
        """The figures, without the rank of each query."""
        ways = {"image_to_text": self.image_to_text, "text_to_image": self.text_to_image}
        return {"protocol": self.protocol} | {name: way.to_json() for name, way in ways.items()}


def retrieval(
    image_features: NDArray[np.floating],
    text_features: NDArray[np.floating],
    image_id: NDArray[np.object_],
    text_id: NDArray[np.object_],
    ks: Sequence[int] = KS,
) -> Retrieval:
    """Search images by captions and captions by images.

    Args:
        image_features: (N, D) of the image of each pair, any length.
        text_features: (N, D) of its caption.
        image_id: (N,).
        text_id: (N,).
        ks: the K of R@K.

    Raises:
        DataError: no pairs, columns of different lengths, or features that are not finite.
    """
    if not len(image_features) == len(text_features) == len(image_id) == len(text_id):
        raise DataError("retrieval needs as many images as captions")
    if not len(image_features):
        what = "retrieval has nothing to search: no image of the test split has a caption"
        raise DataError(what, next="Put images with captions into the test split.")
    for name, features in (("image", image_features), ("text", text_features)):
        if not np.isfinite(features).all():
            raise DataError(f"{name} features with NaN or infinity", next="Check them with `mmkd store verify`.")
    image_names, first_image, image = np.unique(image_id.astype(str), return_index=True, return_inverse=True)
    text_names, first_text, text = np.unique(text_id.astype(str), return_index=True, return_inverse=True)
    images, texts = unit(image_features[first_image]), unit(text_features[first_text])
    pairs = np.unique(np.stack([image, text], axis=1), axis=0)
    return Retrieval(
        _direction(images, texts, pairs, image_names.astype(object), ks),
        _direction(texts, images, pairs[:, ::-1], text_names.astype(object), ks),
    )


def search(
    image_features: NDArray[np.floating],
    text_features: NDArray[np.floating],
    image_id: NDArray[np.object_],
    text_id: NDArray[np.object_],
    group_id: NDArray[np.object_],
) -> Outcomes:
    """``retrieval`` of n pairs as outcomes: one row per query; a text of several groups counts with the first."""
    found = retrieval(image_features, text_features, image_id, text_id)
    ways = {"image to text": (found.image_to_text, image_id), "text to image": (found.text_to_image, text_id)}
    columns: dict[str, list[NDArray[Any]]] = {
        name: [] for name in ("sample_id", "group_id", "way", "rank", "positives")
    }
    for way, (direction, ids) in ways.items():
        group: dict[str, str] = {}
        for name, owner in zip(ids, group_id, strict=True):
            group.setdefault(str(name), str(owner))
        columns["sample_id"].append(direction.ids)
        columns["group_id"].append(np.array([group[str(name)] for name in direction.ids], object))
        columns["way"].append(np.full(direction.queries, way, object))
        columns["rank"].append(direction.ranks)
        columns["positives"].append(direction.positives)
    gallery = {way: direction.gallery for way, (direction, _) in ways.items()}
    return Outcomes(PROTOCOL, {name: np.concatenate(parts) for name, parts in columns.items()}, {"gallery": gallery})


def measure(outcomes: Outcomes, bootstrap: GroupBootstrap) -> list[Measured]:
    """R@K (hit rate) and mean reciprocal rank, both ways, each with its chance."""
    found = []
    for way, gallery in outcomes.facts["gallery"].items():
        rows, rank = outcomes["way"] == way, outcomes["rank"]
        chance = Chance(gallery, outcomes["positives"][rows])
        figures: dict[str, tuple[NDArray[Any], float, str]]
        figures = {f"R@{k}": (rank <= k, chance.recall(k), chance.undefined(k)) for k in KS}
        # Where any order begins with a right answer, ranks say no more than R@1 does.
        figures["mean reciprocal rank"] = (1 / rank, chance.reciprocal_rank, chance.undefined(1))
        for metric, (values, expected, undefined) in figures.items():
            one = replace(share(metric, way, values, rows, bootstrap), chance=expected, remark=f"gallery of {gallery}")
            found.append(replace(one, estimate=None, undefined=undefined) if undefined else one)
    return found


def _direction(
    queries: NDArray[np.float32],
    gallery: NDArray[np.float32],
    pairs: NDArray[np.int64],
    ids: NDArray[np.object_],
    ks: Sequence[int],
) -> Direction:
    ranks = np.empty(len(queries), dtype=np.int64)
    pairs = pairs[np.argsort(pairs[:, 0], kind="stable")]
    chunk = max(1, _CHUNK_BYTES // (4 * len(gallery)))
    for start in range(0, len(queries), chunk):
        cosine = queries[start : start + chunk] @ gallery.T
        low, high = np.searchsorted(pairs[:, 0], [start, start + len(cosine)])
        row, column = pairs[low:high, 0] - start, pairs[low:high, 1]
        best = np.full(len(cosine), -np.inf, dtype=np.float32)
        np.maximum.at(best, row, cosine[row, column])
        cosine[row, column] = -np.inf  # right answers do not stand in each other's way
        ranks[start : start + chunk] = 1 + (cosine > best[:, None] - TIE).sum(axis=1)
    positives = np.bincount(pairs[:, 0], minlength=len(queries))
    chance = Chance(len(gallery), positives)
    undefined = {k: reason for k in ks if (reason := chance.undefined(k))}
    recall = {k: float((ranks <= k).mean()) for k in ks if k not in undefined}
    return Direction(
        recall, undefined, chance, float(np.median(ranks)), len(queries), len(gallery), ids, ranks, positives
    )
