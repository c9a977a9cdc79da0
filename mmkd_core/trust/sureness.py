"""What a logit scale makes of cosines, said before anything is measured: how sure a teacher can be at all."""

from __future__ import annotations

import math

from mmkd_core.trust.beliefs import CANDIDATES, best_posterior

SURE = 0.9
"""Of the 90 % rule."""
_AMONG = {CANDIDATES: f"one caption among {CANDIDATES}", 2: "one of two classes"}


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
