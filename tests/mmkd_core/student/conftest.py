"""A student of 32 pixels that is built once and copied for whoever trains it."""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy

import numpy as np
import pytest
import torch

from mmkd_core.student.config import StudentConfig, TextConfig
from mmkd_core.student.model import Student

CAPTIONS = [
    "chest radiograph, no finding",
    "chest radiograph with a nodule in the left lung",
    "CT slice: liver lesion",
    "skin lesion, irregular border",
    "fundus with 3 haemorrhages",
    "normal retina",
]
TINY = StudentConfig(
    image_size=32, embed_dim=16, text=TextConfig(vocab_size=128, context_length=12, width=32, heads=2, layers=1)
)


@pytest.fixture(autouse=True, scope="session")
def _one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def built() -> Student:
    """The one student; tests must not change it."""
    return Student.build(TINY, CAPTIONS, seed=0)


@pytest.fixture
def make_student(built: Student) -> Callable[[], Student]:
    """Call for a copy that may be trained."""

    def copy() -> Student:
        return Student(deepcopy(built.model), built.tokenizer, built.model_config, built.preprocess)

    return copy


@pytest.fixture(scope="session")
def pixels() -> np.ndarray:
    """12 random images, uint8 (12, 32, 32, 3)."""
    return np.random.default_rng(0).integers(0, 256, (12, 32, 32, 3), dtype=np.uint8)
