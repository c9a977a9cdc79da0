"""A tiny student, a corpus of 12 samples in two domains, and teachers whose features lie in memory."""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch

from feature_store.torch import Batch, gather
from mmkd_core.data.manifest import Corpus
from mmkd_core.distill import sources
from mmkd_core.distill.bank import Bank
from mmkd_core.distill.config import BankConfig
from mmkd_core.distill.objective import Samples
from mmkd_core.distill.sources import Source
from mmkd_core.student.config import StudentConfig, TextConfig
from mmkd_core.student.model import Student

N = 12
PROMPTS = {
    "ct": {"normal": ("normal ct", "ct, no finding"), "lesion": ("ct with a lesion",)},
    "xray": {"normal": ("normal radiograph",), "nodule": ("radiograph with a nodule", "a nodule")},
}
TINY = StudentConfig(
    image_size=32, embed_dim=16, text=TextConfig(vocab_size=128, context_length=8, width=32, heads=2, layers=1)
)


class MemoryStore:
    """What a ``Source`` needs of a feature store: one table of two towers."""

    def __init__(self, image: np.ndarray, text: np.ndarray) -> None:
        self.features = {"image": image, "text": text}
        self.gathered: list[int] = []

    def gather(self, tables: list[str], images=None, texts=None, *, trust=None, dtype: torch.dtype) -> Batch:
        """What ``feature_store.torch.gather`` returns."""
        assert tables == ["f" * 32]
        assert dtype == torch.float32
        batch = Batch({}, {}, torch.ones(0, dtype=bool))
        for side, tower, rows in (("images", "image", images), ("texts", "text", texts)):
            if rows is not None:
                trusted = np.ones(len(rows), bool) if trust is None else trust[:, 0]
                self.gathered += rows[trusted].tolist()
                found = torch.from_numpy(np.where(trusted[:, None], self.features[tower][rows], 0))
                getattr(batch, side)[tables[0]] = found
        return replace(batch, mask=torch.from_numpy(trusted[:, None].copy()))


@pytest.fixture(autouse=True)
def _gather_from_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    def either(store, *args, **kwargs):
        return (store.gather if isinstance(store, MemoryStore) else partial(gather, store))(*args, **kwargs)

    monkeypatch.setattr(sources, "gather", either)


@pytest.fixture(autouse=True, scope="session")
def _one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def corpus() -> Corpus:
    rows = [
        {
            "image": f"{i}.png",
            "image_id": f"{i:032x}",
            "caption": f"{('ct', 'xray')[i % 2]} number {i // 2}",
            "domain": ("ct", "xray")[i % 2],
            "label": None,
            "group_id": f"patient {i}",
            "split": "train" if i < 10 else "test",
        }
        for i in range(N)
    ]
    return Corpus.build(Path("nowhere"), rows, PROMPTS)


@pytest.fixture(scope="session")
def bank(corpus: Corpus) -> Bank:
    return Bank.build(corpus, BankConfig(captions=2), seed=0)


@pytest.fixture(scope="session")
def built(corpus: Corpus) -> Student:
    texts = [*corpus.caption, *(text for classes in PROMPTS.values() for row in classes.values() for text in row)]
    return Student.build(TINY, texts, seed=0)


@pytest.fixture
def student(built: Student) -> Student:
    """A copy that may be trained."""
    return Student(deepcopy(built.model), built.tokenizer, built.model_config, built.preprocess)


@pytest.fixture(scope="session")
def samples(built: Student, corpus: Corpus, bank: Bank) -> Samples:
    pixels = np.random.default_rng(0).integers(0, 256, (N, 32, 32, 3), dtype=np.uint8)
    return Samples.of(built, pixels, corpus, bank)


@pytest.fixture
def source(bank: Bank) -> Callable[..., Source]:
    """Call with a name, a mask and a dimension: a teacher of random features that depend on its name alone."""

    def make(name: str, mask: list[int] | np.ndarray, dim: int = 6, **facts) -> Source:
        rng = np.random.default_rng(list(name.encode()))
        store = MemoryStore(*rng.normal(size=(2, N, dim)).astype(np.float32))
        texts = {
            domain: torch.nn.functional.normalize(torch.from_numpy(rng.normal(size=(len(row), dim))).float(), dim=-1)
            for domain, row in bank.texts.items()
        }
        chosen = np.zeros(N, bool)
        chosen[mask] = True
        rows = np.arange(N)
        facts = {"logit_scale": 10.0} | facts
        return Source(name, store, "f" * 32, rows, rows, texts, mask=chosen, **facts)

    return make
