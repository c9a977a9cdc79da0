from __future__ import annotations

import numpy as np
import pytest

from mmkd_core.trust.beliefs import posterior
from mmkd_core.trust.sureness import best_posterior, sureness


@pytest.mark.parametrize(
    ("scale", "texts", "best"), [(1, 64, 0.105), (2, 64, 0.464), (3.16, 64, 0.898), (1, 2, 0.881), (14.3, 64, 1.0)]
)
def test_the_surest_that_a_scale_allows(scale, texts, best):
    assert best_posterior(scale, texts) == pytest.approx(best, abs=5e-4)


def test_no_features_are_surer():
    """One text in the image's own direction, all others opposite: as sure as it gets, and the softmax says the same."""
    image, texts = np.array([[2.0, 0.0]]), np.array([[1.0, 0.0], *[[-3.0, 0.0]] * 63])
    assert posterior(image, texts, 2.5).max() == pytest.approx(best_posterior(2.5, 64), abs=1e-6)


@pytest.mark.parametrize(
    ("scale", "says"),
    [
        (
            1.0,
            "can never be 90 % sure of one caption among 64 (at best 10.5 %) nor of one of two classes (at best 88.1",
        ),
        (3.16, "can never be 90 % sure of one caption among 64 (at best 89.8 %), however good it is"),
        (3.18, "90 % sure of one caption among 64 where its cosine is 2 above all others"),
        (14.3, "90 % sure of one caption among 64 where its cosine is 0.44 above all others"),
        (100.0, "90 % sure of one caption among 64 where its cosine is 0.063 above all others"),
    ],
)
def test_it_is_said_in_a_sentence(scale, says):
    assert sureness(scale).startswith(says)
