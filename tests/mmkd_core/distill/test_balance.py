"""Factors of teachers' FD: by spread, and by dropping against a loop over samples."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from mmkd_core.distill.balance import dispersion, dropping, shares


def test_dispersion_by_hand():
    """Two directions 60 degrees apart are 30 degrees from their mean; length does not matter."""
    targets = torch.tensor([[1.0, 0.0], [2 * math.cos(math.pi / 3), 2 * math.sin(math.pi / 3)]])
    assert dispersion(targets) == pytest.approx((math.pi / 6) ** 2, rel=1e-6)
    assert dispersion(torch.ones(4, 3)) == pytest.approx(0, abs=1e-12)


def test_centred_targets_spread_by_a_right_angle():
    """So after PHI-S this balance changes little; without centring it does."""
    targets = torch.randn(4000, 64, generator=torch.Generator().manual_seed(0))
    assert dispersion(targets - targets.mean(0)) == pytest.approx((math.pi / 2) ** 2, rel=0.02)
    assert dispersion(targets + 3) < 0.2


def test_shares():
    assert shares({"narrow": 0.1, "wide": 0.4}) == pytest.approx({"narrow": 1.6, "wide": 0.4})
    assert shares({"a": 0.2, "constant": 0.0, "b": 0.2}) == pytest.approx({"a": 1, "constant": 1, "b": 1})
    assert shares({}) == {}


@given(
    losses=st.lists(st.lists(st.floats(0, 9), min_size=3, max_size=3), min_size=1, max_size=40),
    seed=st.integers(0, 99),
    step=st.integers(0, 99),
)
def test_the_worst_teacher_of_a_sample_is_never_dropped(losses, seed, step):
    table = torch.tensor(losses).T.contiguous()
    table[1, ::2] = -torch.inf  # the second teacher does not teach every sample
    kept = dropping(table, seed, step)
    assert set(kept.unique().tolist()) <= {0.0, 1.0}
    for sample in range(table.shape[1]):
        assert kept[table[:, sample].argmax(), sample] == 1
    assert torch.equal(kept, dropping(table, seed, step))


def test_half_of_the_others_are_dropped_another_half_in_each_step():
    table = torch.arange(4.0).unsqueeze(1).expand(4, 5000).contiguous()
    one, two = dropping(table, 0, 0), dropping(table, 0, 1)
    assert one[:3].mean().item() == pytest.approx(0.5, abs=0.02)
    assert (one[3] == 1).all()
    assert (one[:3] == two[:3]).float().mean().item() == pytest.approx(0.5, abs=0.02)
