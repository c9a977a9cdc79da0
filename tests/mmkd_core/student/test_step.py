"""The step in three phases: shares and pieces change who computes, not what comes out."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from mmkd_core.student.batches import Epochs
from mmkd_core.student.config import StudentConfig, TextConfig
from mmkd_core.student.model import Student
from mmkd_core.student.pretrain import ClipObjective
from mmkd_core.student.step import Share, backward, losses_of

CAPTIONS = [f"{word} of patient {i}" for i, word in enumerate(("nodule", "liver", "skin", "retina") * 3)]


@pytest.fixture(scope="module")
def vit() -> Student:
    text = TextConfig(vocab_size=128, context_length=12, width=32, heads=2, layers=1)
    config = StudentConfig(vision="vit-tiny", image_size=32, embed_dim=16, text=text)
    return Student.build(config, CAPTIONS, seed=0)


@pytest.fixture
def objective(vit, pixels):
    batches = partial(Epochs(np.arange(12), 0).batch, size=11)
    return ClipObjective(vit, pixels, vit.tokenize(CAPTIONS), batches, 0.7, seed=2)


def gradients(objective, **options):
    objective.student.model.zero_grad(set_to_none=True)
    losses = backward(objective, 3, **options)
    return losses, {name: p.grad.clone() for name, p in objective.student.model.named_parameters()}


@given(total=st.integers(0, 100), count=st.integers(1, 12))
def test_shares_follow_one_another_and_leave_nothing_out(total, count):
    places = list(range(total))
    parts = [places[Share(i, count).of(total)] for i in range(count)]
    assert [place for part in parts for place in part] == places
    assert max(map(len, parts)) - min(map(len, parts)) <= 1


def test_one_piece_is_plain_backpropagation(objective):
    losses, ours = gradients(objective)
    objective.student.model.zero_grad(set_to_none=True)
    whole = losses_of(objective, 3)
    whole["clip"].backward()
    assert torch.equal(losses["clip"], whole["clip"].detach())
    for name, p in objective.student.model.named_parameters():
        assert torch.equal(ours[name], p.grad), name


@pytest.mark.parametrize(
    ("pieces", "dtype", "close"), [(2, "float32", 1e-5), (4, "float32", 1e-5), (4, "bfloat16", 0.05)]
)
def test_pieces_have_the_gradient_of_the_whole_batch(objective, pieces, dtype, close):
    dtype = getattr(torch, dtype)
    losses, whole = gradients(objective, dtype=dtype)
    again, parts = gradients(objective, dtype=dtype, pieces=pieces)
    assert again["clip"].item() == pytest.approx(losses["clip"].item(), rel=max(1e-6, close / 10))
    for name, gradient in whole.items():
        assert gradient.norm() > 0, name
        assert (parts[name] - gradient).norm() <= close * gradient.norm(), name


def test_shares_of_the_losses_add_up(objective):
    whole = losses_of(objective, 3)
    embedded = objective.embed(objective.batch(3, Share()), Share())
    parts = [objective.losses(objective.batch(3, Share(i, 3)), embedded) for i in range(3)]
    assert sum(part["clip"].item() for part in parts) == pytest.approx(whole["clip"].item(), rel=1e-6)


def test_shares_embed_the_batch_in_its_order(objective):
    whole = objective.embed(objective.batch(3, Share()), Share())
    parts = [objective.embed(objective.batch(3, Share(i, 3)), Share(j, 2)) for i in range(3) for j in range(2)]
    for tower, pieces in zip(whole, zip(*parts, strict=True), strict=True):
        torch.testing.assert_close(torch.cat(pieces), tower, rtol=1e-5, atol=1e-6)


class Dropping:
    """One linear tower behind a dropout; the loss is linear, so the gradient shows the mask."""

    def __init__(self):
        self.tower = nn.Linear(5, 2)
        self.masks = []

    def batch(self, step, share):
        return torch.ones(4, 5)

    def embed(self, batch, piece):
        kept = nn.functional.dropout(batch[piece.of(4)], 0.5, training=True)
        self.masks.append(kept)
        return (self.tower(kept),)

    def losses(self, batch, embedded):
        return {"sum": embedded[0].sum()}


def test_a_piece_that_is_computed_twice_drops_the_same_and_nobody_else_notices():
    objective = Dropping()
    torch.manual_seed(7)
    backward(objective, 0, pieces=2, key="a")
    after = torch.rand(1)
    torch.manual_seed(7)
    assert torch.equal(after, torch.rand(1))
    first, second, first_again = objective.masks
    assert torch.equal(first, first_again)
    assert not torch.equal(first, second)
    torch.testing.assert_close(objective.tower.weight.grad, torch.cat([first, second]).sum(0).expand(2, 5))
    backward(objective, 1, pieces=2, key="a")
    assert not torch.equal(objective.masks[3], first)
