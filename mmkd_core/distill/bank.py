"""The bank: per domain, texts that every teacher and the student relate images to.

Measured on real specialists (docs/results): the posterior of a teacher over such a bank is what carries its knowledge
into the shared embedding. The texts need not belong to the images, so it works on badly captioned images too.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from mmkd_core.data.manifest import Corpus
from mmkd_core.distill.config import BankConfig
from mmkd_core.errors import TrainingError


@dataclass(frozen=True)
class Bank:
    """Texts per domain, in a fixed order. A text may be in the bank of several domains."""

    texts: dict[str, tuple[str, ...]]

    @property
    def domains(self) -> tuple[str, ...]:
        """Domains in the order that ``draw`` uses."""
        return tuple(self.texts)

    @classmethod
    def build(cls, corpus: Corpus, config: BankConfig, seed: int) -> Bank:
        """All prompts of each domain, and ``config.captions`` of its distinct training captions, drawn by ``seed``."""
        texts: dict[str, tuple[str, ...]] = {}
        train = corpus.where(split="train")
        for number, domain in enumerate(corpus.domains):
            prompts = [text for label in corpus.classes(domain) for text in corpus.prompts[domain][label]]
            here = (corpus.captions(i) for i in train if corpus.domain[i] == domain)
            captions = sorted({text for texts in here for text in texts} - set(prompts))
            rng = np.random.default_rng([seed, 7, number])
            chosen = [captions[i] for i in rng.permutation(len(captions))[: config.captions]]
            texts[domain] = tuple(dict.fromkeys(prompts + chosen))
        return cls({domain: row for domain, row in texts.items() if len(row) >= 2})

    def draw(self, per_domain: int, seed: int, step: int) -> dict[str, np.ndarray[Any, np.dtype[np.int64]]]:
        """Indices into each domain's texts for one step, without repeats; all domains give the same number.

        Raises:
            TrainingError: no domain has texts.
        """
        if not self.texts:
            raise TrainingError(
                "there is no text to relate images to: no domain has two different prompts or training captions",
                next="Give the data labels or captions, or set `relation: 0` under weights in mmkd.yaml",
            )
        count = min(per_domain, *(len(row) for row in self.texts.values()))
        rng = np.random.default_rng([seed, step, 2])
        return {domain: rng.permutation(len(row))[:count] for domain, row in self.texts.items()}
