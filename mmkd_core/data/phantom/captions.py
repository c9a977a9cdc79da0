"""Captions as a reporter writes them (clean), poor ones (silent or false) where they are asked for, and prompts."""

from __future__ import annotations

import re

from mmkd_core.data.phantom.canvas import Rng, Truth
from mmkd_core.data.phantom.wording import FRAMES, PHRASES, PLAIN

_SLOT = re.compile(r"\{\w+\} ?")
# What a wrong caption says where the image has no such quality.
_GUESSES = {
    "side": ("left", "right"),
    "size": ("small", "medium-sized", "large"),
    "place": ("upper", "lower"),
    "count": ("a few", "many"),
}


def clean_caption(domain: str, finding: str, truth: Truth, rng: Rng) -> str:
    """A sentence that names the finding, with side, size, place and number as they are in ``truth``."""
    words = {key: str(truth.get(key) or rng.choice(options)) for key, options in _GUESSES.items()}
    phrases, frames = PHRASES[domain][finding], FRAMES[domain]
    phrase = phrases[rng.integers(len(phrases))].format(**words)
    return frames[rng.integers(len(frames))].format(finding=phrase)


def plain_caption(domain: str, rng: Rng) -> str:
    """A caption that says only what kind of image it is."""
    return PLAIN[domain][rng.integers(len(PLAIN[domain]))]


def poor_caption(domain: str, finding: str, clean: str, plain: float, wrong: float, rng: Rng) -> str:
    """A caption that is plain with probability ``plain``, false with ``wrong``, otherwise ``clean``."""
    chance = rng.random()
    if chance < plain:
        return plain_caption(domain, rng)
    if chance < plain + wrong:
        others = [other for other in PHRASES[domain] if other != finding]
        return clean_caption(domain, others[rng.integers(len(others))], {}, rng)
    return clean


def prompts(domain: str) -> dict[str, tuple[str, ...]]:
    """Six zero-shot sentences for each label of a domain: its name in every frame, its second name in two."""
    frames, table = FRAMES[domain], {}
    for finding, (name, second, *_) in PHRASES[domain].items():
        general = _SLOT.sub("", second)
        sentences = [frame.format(finding=name) for frame in frames]
        table[finding] = (*sentences, frames[1].format(finding=general), frames[2].format(finding=general))
    return table
