"""Aligners into one space: what each promises, on features with a known answer."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.linalg import orthogonal_procrustes
from sklearn.decomposition import PCA

from mmkd_core.distill import align
from mmkd_core.distill.align import fit_alignment, procrustes
from mmkd_core.errors import TrainingError

ALL = list(range(12))


@pytest.fixture(autouse=True)
def _few_steps(monkeypatch):
    monkeypatch.setattr(align, "STEPS", 30)


def unit(x):
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


def raw(teacher, rows=ALL):
    """Unit-norm features as they were stored, images and then captions."""
    return np.concatenate([unit(teacher.store.features[tower][rows]) for tower in ("image", "text")])


@pytest.mark.parametrize("kind", ["none", "linear", "autoencoder", "phi-s", "procrustes"])
def test_unit_norm_deterministic_and_blind_to_what_is_not_trusted(source, kind):
    trusted = ALL[:9]
    teachers = [source("a", trusted, dim=8), source("b-net.2", trusted, dim=8)]
    one = fit_alignment(kind, teachers, 8, seed=0)
    torch.manual_seed(1)
    two = fit_alignment(kind, teachers, 8, seed=0)
    after = torch.rand(1)
    torch.manual_seed(1)
    assert torch.equal(after, torch.rand(1))  # nobody else's randomness is used up
    for teacher in teachers:
        features = teacher.images(np.array(ALL))
        aligned = one.aligned(teacher.name, features)
        np.testing.assert_allclose(aligned.norm(dim=1), 1, atol=1e-6)
        assert torch.equal(aligned, two.aligned(teacher.name, features))
        for tower in teacher.store.features.values():
            tower[9:] = 100
    three = fit_alignment(kind, teachers, 8, seed=0)
    for name in ("a", "b-net.2"):
        assert torch.equal(one.matrix[name], three.matrix[name])
        assert not one.matrix[name].requires_grad


@pytest.mark.parametrize("kind", ["linear", "autoencoder", "procrustes"])
def test_teachers_of_any_dimension_and_one_that_nobody_trusts(source, kind):
    teachers = [source("a", ALL, dim=5), source("b", ALL[:6], dim=12), source("nobody", [], dim=3)]
    alignment = fit_alignment(kind, teachers, 8, seed=0)
    for teacher in teachers:
        assert alignment.aligned(teacher.name, teacher.images(np.arange(4))).shape == (4, 8)


@pytest.mark.parametrize("kind", ["none", "phi-s"])
def test_what_keeps_the_dimension_needs_the_students(source, kind):
    with pytest.raises(TrainingError, match=f"a has 5 dimensions and the student has 8, which aligner {kind} cannot"):
        fit_alignment(kind, [source("a", ALL, dim=5)], 8, seed=0)


def test_none_changes_nothing(source):
    teacher = source("a", ALL, dim=8)
    features = teacher.images(np.arange(12))
    torch.testing.assert_close(fit_alignment("none", [teacher], 8, seed=0).aligned("a", features), features)


@pytest.mark.parametrize("dim", [4, 9])
def test_linear_is_the_leading_principal_components(source, dim):
    teacher = source("a", ALL, dim=9)
    mine = fit_alignment("linear", [teacher], dim, seed=0).aligned("a", torch.from_numpy(raw(teacher)).float())
    theirs = unit(PCA(dim).fit_transform(raw(teacher)))
    np.testing.assert_allclose(mine @ mine.T, theirs @ theirs.T, atol=1e-5)  # up to signs


def test_phi_s_keeps_angles_around_the_mean(source):
    teacher = source("a", ALL, dim=8)
    mine = fit_alignment("phi-s", [teacher], 8, seed=0).aligned("a", torch.from_numpy(raw(teacher)).float())
    centred = unit(raw(teacher) - raw(teacher).mean(axis=0))
    np.testing.assert_allclose(mine @ mine.T, centred @ centred.T, atol=1e-5)


def test_procrustes_of_two_is_that_of_scipy():
    rng = np.random.default_rng(0)
    one, other = rng.normal(size=(2, 20, 5))
    first, second = procrustes([torch.from_numpy(one), torch.from_numpy(other)])
    rotation, _ = orthogonal_procrustes(one, other)
    np.testing.assert_allclose(first @ second.T, rotation, atol=1e-6)
    for turn in (first, second):
        np.testing.assert_allclose(turn @ turn.T, np.eye(5), atol=1e-12)


def test_procrustes_finds_rotations_back():
    rng = np.random.default_rng(1)
    truth = rng.normal(size=(40, 6))
    turns = [np.linalg.qr(rng.normal(size=(6, 6)))[0] for _ in range(4)]
    views = [torch.from_numpy(truth @ turn) for turn in turns]
    turned = [view @ back for view, back in zip(views, procrustes(views), strict=True)]
    for view in turned[1:]:
        torch.testing.assert_close(view, turned[0], atol=1e-5, rtol=0)


def test_teachers_that_are_rotations_of_one_another_agree_after_procrustes_only(source):
    one, other = source("a", ALL, dim=6), source("b", ALL, dim=6)
    turn = np.linalg.qr(np.random.default_rng(2).normal(size=(6, 6)))[0]
    for tower in ("image", "text"):
        other.store.features[tower][:] = (one.store.features[tower] @ turn).astype(np.float32)
    rows = np.arange(12)

    def agreement(kind):
        alignment = fit_alignment(kind, [one, other], 6, seed=0)
        pair = (alignment.aligned(teacher.name, teacher.images(rows)) for teacher in (one, other))
        return float(torch.stack(list(pair)).prod(0).sum(1).mean())

    assert agreement("procrustes") == pytest.approx(1, abs=1e-4)
    assert agreement("autoencoder") < 0.9
    assert agreement("none") < 0.9


def test_the_autoencoder_learns_to_reconstruct(source, monkeypatch):
    teacher = source("a", ALL)
    features, zero = teacher.images(np.arange(12)), torch.zeros(12, 6)
    made = []
    build = align.Autoencoder.__init__

    def remembered(self, *arguments):
        build(self, *arguments)
        made.append(self)

    monkeypatch.setattr(align.Autoencoder, "__init__", remembered)
    errors = []
    for steps in (0, 30):
        monkeypatch.setattr(align, "STEPS", steps)
        alignment = fit_alignment("autoencoder", [teacher], 8, seed=0)
        errors.append(made[-1].eval().reconstruction("a", "image", features, zero).item())
        into = made[-1].into["a"](features)
        torch.testing.assert_close(alignment.aligned("a", features), torch.nn.functional.normalize(into, dim=-1))
    assert errors[1] < errors[0]
