from __future__ import annotations

import hashlib

import pytest
import torch
from pydantic import ValidationError

from mmkd_core.contract import Golden, golden_image, measure_golden


class Countdown:
    """Image embeddings count the mean pixel, text embeddings the length."""

    spec = None

    def preprocess(self, image):
        return torch.full((3, 2, 2), float(len(image.tobytes())))

    def tokenize(self, texts):
        return torch.tensor([[len(text)] for text in texts])

    def encode_image(self, images):
        return images[:, 0, 0, :1] - torch.arange(10.0)

    def encode_text(self, tokens):
        return tokens * torch.ones(10)


def test_the_golden_image_is_the_same_everywhere():
    image = golden_image(3)
    assert (image.mode, image.size) == ("RGB", (320, 256))
    assert (
        hashlib.sha256(image.tobytes()).hexdigest()
        == "e0a371d71aa752668ec89f49f59080b78905e7bbc7ba5734c65e057de4652c54"
    )
    assert golden_image(4).tobytes() != image.tobytes()


def test_golden_values_are_the_first_eight_of_each_embedding():
    golden = measure_golden(Countdown(), seed=1, prompt="abc")
    pixels = 320 * 256 * 3
    assert golden.image == tuple(float(pixels - i) for i in range(8))
    assert golden.text == (3.0,) * 8
    assert (golden.seed, golden.prompt, golden.tolerance) == (1, "abc", 1e-3)


def test_golden_values_need_a_positive_tolerance():
    with pytest.raises(ValidationError, match="greater than 0"):
        Golden(seed=0, prompt="a", image=(1.0,), text=(1.0,), tolerance=0)
