from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from mmkd_core.distill.normalise import PhiS, _equalise


def features(dim, seed, spread=2.0, count=None):
    """Random features whose covariance has eigenvalues over ``2 * spread`` orders of e, and a mean."""
    rng = np.random.default_rng(seed)
    basis = np.linalg.qr(rng.normal(size=(dim, dim)))[0]
    scales = np.exp(rng.uniform(-spread, spread, dim))
    count = count or 3 * dim + 5
    return (rng.normal(size=(count, dim)) * scales @ basis + 3 * rng.normal(size=dim)).astype(np.float32)


dims, seeds = st.integers(1, 40), st.integers(0, 2**31)


@given(dim=dims, seed=seeds, rank=st.integers(1, 40))
def test_equalise_in_float64(dim, seed, rank):
    data = np.random.default_rng(seed).normal(size=(min(rank, dim), dim))
    covariance = data.T @ data
    rotation = _equalise(covariance)
    np.testing.assert_allclose(rotation @ rotation.T, np.eye(dim), atol=1e-12)
    diagonal = np.diag(rotation @ covariance @ rotation.T)
    np.testing.assert_allclose(diagonal, np.trace(covariance) / dim, rtol=1e-8)


@given(dim=dims, seed=seeds)
def test_every_dimension_gets_variance_one(dim, seed):
    data = features(dim, seed)
    fitted = PhiS.fit(data)
    exact = PhiS(fitted.mean.double(), fitted.rotation.double(), fitted.scale)  # what is stored has 24 bits
    out = exact.forward(torch.from_numpy(data).double()).numpy()
    np.testing.assert_allclose(out.mean(axis=0), 0, atol=1e-5)
    np.testing.assert_allclose(out.var(axis=0), 1, atol=1e-5)
    np.testing.assert_allclose(fitted.rotation @ fitted.rotation.T, np.eye(dim), atol=1e-6)
    in_float32 = fitted.forward(torch.from_numpy(data))
    assert in_float32.dtype == torch.float32
    np.testing.assert_allclose(in_float32.var(dim=0, correction=0), 1, atol=1e-3)


@given(dim=dims, seed=seeds)
def test_inverse_undoes_forward(dim, seed):
    data = torch.from_numpy(features(dim, seed))
    fitted = PhiS.fit(data.numpy())
    size = data.abs().max().item()
    np.testing.assert_allclose(fitted.inverse(fitted.forward(data)), data, atol=1e-5 * size)
    out = fitted.forward(data)
    np.testing.assert_allclose(fitted.forward(fitted.inverse(out)), out, atol=2e-4 * out.abs().max().item())


@given(dim=st.integers(2, 40), seed=seeds)
def test_distances_are_multiplied_by_one_number(dim, seed):
    """The teacher's geometry is kept: that is the difference to whitening."""
    data = torch.from_numpy(features(dim, seed))
    fitted = PhiS.fit(data.numpy())
    before, after = torch.pdist(data.double()), torch.pdist(fitted.forward(data).double())
    np.testing.assert_allclose(after, fitted.scale * before, rtol=1e-3, atol=1e-3)
    total = data.double().var(dim=0, correction=0).sum()
    assert fitted.scale == pytest.approx((dim / total.item()) ** 0.5, rel=1e-4)


def test_a_diagonal_of_two_values_by_hand():
    """Variances 4 and 0 turn by 45 degrees to 2 and 2."""
    rotation = _equalise(np.diag([4.0, 0.0]))
    np.testing.assert_allclose(np.abs(rotation), np.full((2, 2), 0.5**0.5), atol=1e-12)


@pytest.mark.parametrize("dim", [1, 2, 7])
def test_constant_features_are_only_centred(dim):
    data = np.full((5, dim), 3.0, np.float32)
    fitted = PhiS.fit(data)
    assert fitted.scale == 1.0
    assert torch.equal(fitted.forward(torch.from_numpy(data)), torch.zeros(5, dim))
    assert torch.equal(fitted.inverse(torch.zeros(2, dim)), torch.full((2, dim), 3.0))
    np.testing.assert_allclose(fitted.rotation @ fitted.rotation.T, np.eye(dim), atol=1e-6)


def test_one_constant_dimension_gets_its_share_of_the_variance():
    data = features(6, 0)
    data[:, 2] = 1.5
    np.testing.assert_allclose(PhiS.fit(data).forward(torch.from_numpy(data)).var(dim=0, correction=0), 1, atol=1e-4)


def test_a_single_sample_is_constant():
    fitted = PhiS.fit(np.array([[1.0, 2.0, 3.0]], np.float32))
    assert (fitted.scale, fitted.mean.tolist()) == (1.0, [1, 2, 3])


@given(dim=dims, seed=seeds)
def test_state_round_trip_is_exact(dim, seed):
    fitted = PhiS.fit(features(dim, seed))
    again = PhiS.from_state(fitted.state("a/image") | PhiS.fit(features(dim, seed + 1)).state("b/image"), "a/image")
    assert torch.equal(again.mean, fitted.mean)
    assert torch.equal(again.rotation, fitted.rotation)
    assert again.scale == fitted.scale


def test_state_goes_through_safetensors(tmp_path):
    fitted = PhiS.fit(features(9, 4))
    save_file(fitted.state("x"), tmp_path / "state.safetensors")
    again = PhiS.from_state(load_file(tmp_path / "state.safetensors"), "x")
    assert torch.equal(again.rotation, fitted.rotation)
    assert again.scale == fitted.scale


@given(dim=dims, seed=seeds)
def test_turned_and_turned_back_are_one_space(dim, seed):
    """What is compared with a student's prediction is rotated like it: cosines are those of the teacher's own space."""
    data = torch.from_numpy(features(dim, seed)).double()
    fitted = PhiS.fit(data.float().numpy())
    phi = PhiS(fitted.mean.double(), fitted.rotation.double(), fitted.scale)
    torch.testing.assert_close(phi.scale * phi.turned(data), phi.forward(data))
    back = phi.turned_back(phi.forward(data)) / phi.scale
    torch.testing.assert_close(back, data @ phi.rotation.T, atol=1e-4, rtol=1e-4)


def test_identity_changes_nothing():
    data = torch.randn(4, 3)
    phi = PhiS.identity(3)
    for way in (phi.forward, phi.inverse, phi.turned, phi.turned_back):
        assert torch.equal(way(data), data)
