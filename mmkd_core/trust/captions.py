"""What is known of a teacher where labels say nothing: it finds a sample's own caption among others, or it does not.

A teacher that prefers one text whatever it is shown is right about every sample which has that text. So it must find
captions more often than it would with another patient's image, and be right when it is sure.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from mmkd_core.statistics import GroupBootstrap, wilson_lower
from mmkd_core.trust.beliefs import Features, own_caption
from mmkd_core.trust.measured import ONE_SIDED, points
from mmkd_core.trust.sureness import CANDIDATES

if TYPE_CHECKING:
    from mmkd_core.trust.rules import TrustConfig

LOOKED_AT = 2000
"""Most samples on which the test itself is judged; each sample is then asked about its own caption."""

Rows = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class CaptionTest:
    """Samples that are asked for their own caption.

    Attributes:
        image, caption: (k, D).
        pool: (M, D) distinct texts of the domain.
        own: (k,) row of the own caption in ``pool``.
        sample: (k,) ids, on which the drawn texts depend.
        group: (k,) patients.
        logit_scale: of the teacher.
    """

    image: Features
    caption: Features
    pool: Features
    own: Rows
    sample: list[str]
    group: NDArray[np.object_]
    logit_scale: float

    def answers(self, seed: int, image: Rows | None = None) -> tuple[Features, NDArray[np.bool_], Features]:
        """``own_caption`` of all; with other images where ``image`` (j,) names their rows, for the first j samples."""
        shown = self.image if image is None else self.image[image]
        k = len(shown)
        return own_caption(shown, self.caption[:k], self.pool, self.own[:k], self.sample[:k], self.logit_scale, seed)


@dataclass(frozen=True, eq=False)
class Captions:
    """How a caption test went.

    Attributes:
        place: (k,) places of the samples among the train samples of the domain.
        sure: (k,) posterior of the own caption.
        right: (k,) True where it is the first choice.
        highest: (k,) posterior of the first choice.
        texts: number of different texts.
        why: for people, why no caption may confirm anything; empty if one may.
        share: of the samples whose caption is found first.
    """

    place: Rows
    sure: Features
    right: NDArray[np.bool_]
    highest: Features
    texts: int
    why: str
    share: float = 0.0

    def precise(self, config: TrustConfig) -> str:
        """Why being sure of a caption does not mean being right; empty if it does."""
        certain = self.highest >= config.threshold
        given, right = int(certain.sum()), int((self.right & certain).sum())
        if given < config.answers:
            return f"{config.percent} sure of {given} captions, too few to be judged by"
        share = wilson_lower(right, given) if config.strict else right / given
        return "" if share >= config.threshold else f"right in {points(right / given)} % when {config.percent} sure"


def tested(test: CaptionTest, place: Rows, config: TrustConfig) -> Captions:
    """Ask every sample for its own caption, and judge the test by comparing with another patient's images."""
    sure, right, highest = test.answers(config.seed)
    share = float(right.mean()) if len(right) else 0.0
    return Captions(place, sure, right, highest, len(test.pool), _worthless(test, right, config), share)


def _worthless(test: CaptionTest, right: NDArray[np.bool_], config: TrustConfig) -> str:
    n, patients, texts = len(right), len(set(test.group)), len(test.pool)
    if not n:
        return "no captions"
    if n < config.samples or patients < config.patients:
        return f"{n} captions of {patients} patients, {config.samples} of {config.patients} are needed"
    if texts < config.samples:
        return f"{texts} different captions, {config.samples} are needed"
    shown = _of_others(test.group)[:LOOKED_AT]
    blind = test.answers(config.seed, shown)[1].astype(np.float64)
    seeing = right[: len(blind)].astype(np.float64)
    bootstrap = GroupBootstrap(test.group[: len(blind)], seed=config.seed)
    more = bootstrap.interval(
        float((seeing - blind).mean()), bootstrap.mean(seeing - blind), ONE_SIDED, limits=(-1.0, 1.0)
    )
    if more.lower > 0:
        return ""
    among = min(CANDIDATES, texts)
    return (
        f"{points(float(seeing.mean()))} % of captions are found among {among}, "
        f"{points(float(blind.mean()))} % with another patient's image"
    )


def _of_others(group: NDArray[np.object_]) -> Rows:
    """(k,) for each sample the row of another patient's; its own only where one patient has more than half of all."""
    order = np.argsort(group.astype(str), kind="stable")
    largest = int(np.unique(group.astype(str), return_counts=True)[1].max())
    other = np.empty(len(group), dtype=np.int64)
    other[order] = np.roll(order, -largest)
    return other
