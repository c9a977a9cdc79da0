"""What a logit scale makes of cosines, said before anything is measured: how sure a teacher can be at all.

Does not: import numpy, so that a command can say it before it needs more.
"""

from __future__ import annotations

import math

CANDIDATES = 64
"""Texts among which a sample must find its own caption."""
SURE = 0.9
"""Of the 90 % rule."""
_AMONG = {CANDIDATES: f"one caption among {CANDIDATES}", 2: "one of two classes"}


def best_posterior(scale: float, texts: int) -> float:
    """The surest that a softmax over ``texts`` cosines can be at this logit scale: one is 1, all others are -1."""
    return 1 / (1 + (texts - 1) * math.exp(-2 * scale))


def sureness(scale: float) -> str:
    """A sentence: of what a teacher with this logit scale can never be 90 % sure, else how little makes it so."""
    never = [
        f"{words} (at best {100 * best_posterior(scale, texts):.3g} %)"
        for texts, words in _AMONG.items()
        if best_posterior(scale, texts) < SURE
    ]
    if never:
        return f"can never be 90 % sure of {' nor of '.join(never)}, however good it is"
    gap = math.log(SURE / (1 - SURE) * (CANDIDATES - 1)) / scale
    return f"90 % sure of {_AMONG[CANDIDATES]} where its cosine is {gap:.2g} above all others"
