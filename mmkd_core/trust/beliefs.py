"""What a CLIP believes: the softmax of its scaled cosines, over classes or over a handful of captions."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from mmkd_core.trust.sureness import CANDIDATES

Features = NDArray[np.float32]

Logits = NDArray[np.float64]

_BLOCK_BYTES = 2**23

_CHUNK = 256  # samples whose candidates are gathered at once: 256 x 64 x 512 floats are 32 MB


def unit(features: NDArray[np.floating]) -> Features:
    """Rows of length one, float32; a row of zeros stays zero, so that its cosine with anything is 0."""
    rows = np.asarray(features, dtype=np.float32)
    norms = np.linalg.norm(rows, axis=-1, keepdims=True)
    norms[norms == 0] = 1
    scaled: Features = rows / norms
    return scaled


def logits(image: NDArray[np.floating], text: NDArray[np.floating], logit_scale: float) -> Logits:
    """``logit_scale`` x cosine in float64, from features in whatever precision they are stored.

    Two copies of one image are a tie, and two images that differ are none.

    Args:
        image: (N, D), any length.
        text: (C, D), any length.
        logit_scale: already exponentiated.

    Returns:
        (N, C).
    """
    return logit_scale * products(*(_unit64(part) for part in (image, text)))


def products(rows: NDArray[np.floating], columns: NDArray[np.floating]) -> Logits:
    """(N, C) scalar products in float64 of (N, D) and (C, D).

    Each is summed on its own, so that equal rows get equal products wherever they stand, which a matrix product does
    not promise.
    """
    left, right = (np.ascontiguousarray(part, dtype=np.float64) for part in (rows, columns))
    result = np.empty((len(left), len(right)))
    block = max(1, _BLOCK_BYTES // (8 * max(1, right.size)))
    for start in range(0, len(left), block):
        result[start : start + block] = (left[start : start + block, None] * right).sum(axis=2)
    return result


def _unit64(features: NDArray[np.floating]) -> Logits:
    rows = np.ascontiguousarray(features, dtype=np.float64)
    norms = np.linalg.norm(rows, axis=-1, keepdims=True)
    scaled: Logits = rows / np.where(norms == 0, 1, norms)
    return scaled


def posterior(image: NDArray[np.floating], text: NDArray[np.floating], logit_scale: float) -> Features:
    """Softmax over texts of ``logit_scale`` x cosine (Radford et al. 2021, section 3.1.2).

    Args:
        image: (N, D), any length.
        text: (C, D) texts shared by all images, or (N, C, D) texts of each image.
        logit_scale: already exponentiated.

    Returns:
        (N, C) float32, rows sum to one.
    """
    rows, texts = unit(image), unit(text)
    logits: Features = rows @ texts.T if texts.ndim == 2 else np.einsum("nd,ncd->nc", rows, texts)
    logits *= np.float32(logit_scale)
    logits -= logits.max(axis=1, keepdims=True)
    np.exp(logits, out=logits)
    logits /= logits.sum(axis=1, keepdims=True)
    return logits


def own_caption(
    image: Features,
    caption: Features,
    pool: Features,
    own: NDArray[np.int64],
    sample_ids: Sequence[str],
    logit_scale: float,
    seed: int,
) -> tuple[Features, NDArray[np.bool_], Features]:
    """How sure each image is of its own caption among ``CANDIDATES`` texts, whether that is its first choice, and how
    sure it is of its first choice, whichever that is.

    Args:
        image: (n, D).
        caption: (n, D), the sample's own.
        pool: (M, D) distinct texts of the domain, sorted by id; the others are drawn from it.
        own: (n,) row of the own caption in ``pool``: it is not drawn.
        sample_ids: (n,) what each draw depends on, beside the seed and the pool.
        logit_scale: of the teacher.
        seed: of the draws.

    Returns:
        (n,) posterior of the own caption; (n,) whether no other text is at least as likely; (n,) the highest posterior.
        Where the pool has no other text, there is nothing to be right about: 0, False and 0.
    """
    sure, right = np.zeros(len(image), dtype=np.float32), np.zeros(len(image), dtype=bool)
    highest = sure.copy()
    if len(pool) < 2:
        return sure, right, highest
    for start in range(0, len(image), _CHUNK):
        rows = slice(start, start + _CHUNK)
        others = np.stack(
            [draw_others(o, len(pool), i, seed) for o, i in zip(own[rows], sample_ids[rows], strict=True)]
        )
        chances = posterior(image[rows], np.concatenate([caption[rows, None], pool[others]], axis=1), logit_scale)
        sure[rows] = chances[:, 0]
        right[rows] = chances[:, 0] > chances[:, 1:].max(axis=1)
        highest[rows] = chances.max(axis=1)
    return sure, right, highest


def draw_others(own: int, texts: int, sample_id: str, seed: int) -> NDArray[np.int64]:
    """Draw up to ``CANDIDATES - 1`` different rows of a pool of ``texts`` rows, never row ``own``.

    The draw depends on its arguments alone, not on what is drawn for other samples.
    """
    rng = np.random.default_rng([seed, int.from_bytes(sample_id.encode(), "big")])
    drawn = rng.choice(texts - 1, min(CANDIDATES, texts) - 1, replace=False, shuffle=False)
    return drawn + (drawn >= own)
