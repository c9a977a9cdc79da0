"""Embeddings as a file, and fidelity by hand."""

from dataclasses import replace

import numpy as np
import pytest

from mmkd_core.errors import DataError
from mmkd_core.evaluate.embeddings import Embeddings
from mmkd_core.evaluate.fidelity import agreement, cosines, trusted_with
from mmkd_core.evaluate.predictions import DomainPredictions
from mmkd_core.trust import DomainTrust


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
    trust = DomainTrust(20, 0.9, 0.7, None, True, True, 5, 5, "because", sure_of=("a", "b"))
    part = replace(trust, trusted=False)
    assert list(trusted_with(teacher, trust, 0.9)) == [0, 1, 2]
    assert list(trusted_with(teacher, part, 0.9)) == [0]  # y is right and not sure
    assert list(trusted_with(teacher, part, 0.6)) == [0, 1]
    assert list(trusted_with(teacher, replace(part, sure_of=("a",)), 0.6)) == [1]  # "b" has not proved right
    assert list(trusted_with(teacher, replace(part, temperature=0.2), 0.9)) == [0, 1]
