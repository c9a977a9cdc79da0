"""Embeddings as a file, and fidelity by hand."""

import numpy as np
import pytest

from mmkd_core.errors import DataError
from mmkd_core.evaluate.embeddings import Embeddings
from mmkd_core.evaluate.fidelity import agreement, cosines, trusted_with
from mmkd_core.evaluate.predictions import DomainPredictions


def column(values):
    result = np.empty(len(values), dtype=object)
    result[:] = values
    return result


def predictions(names, labels, scores):
    return DomainPredictions.build(column([*names]), column([*names]), column([*labels]), np.log(scores), ("a", "b"))


def test_round_trip_to_the_bit(tmp_path):
    rng = np.random.default_rng(0)
    images, texts, more = (rng.normal(size=(n, 4)).astype(np.float32) for n in (3, 3, 2))
    path = tmp_path / "kept" / "embeddings.safetensors"
    Embeddings(column(["x", "y", "z"]), images, texts, more, np.array([0, 2])).save(path)
    found = Embeddings.load(path)
    np.testing.assert_array_equal(found.images, images)
    np.testing.assert_array_equal(found.texts, texts)
    np.testing.assert_array_equal(found.pairs[0], images[[0, 1, 2, 0, 2]])
    np.testing.assert_array_equal(found.pairs[1], [*texts, *more])
    assert list(found.sample_id) == ["x", "y", "z"]
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(DataError, match="the embeddings cannot be read"):
        Embeddings.load(path)
    with pytest.raises(DataError, match="the embeddings cannot be read"):
        Embeddings.load(tmp_path / "none")


def test_fidelity():
    assert cosines(np.array([[2.0, 0], [1, 1]]), np.array([[5.0, 0], [0, 1]])) == pytest.approx([1, 0.5**0.5])
    student = predictions("xyz", "aab", [[0.9, 0.1], [0.2, 0.8], [0.1, 0.9]])
    teacher = predictions("zyw", "bab", [[0.05, 0.95], [0.7, 0.3], [0.5, 0.5]])
    assert agreement(student, teacher) == {"y": False, "z": True}
    assert list(trusted_with(teacher, whole=True, threshold=0.9)) == [0, 1, 2]
    assert list(trusted_with(teacher, whole=False, threshold=0.9)) == [0]  # y is right and not sure
