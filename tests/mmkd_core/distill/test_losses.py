from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.special import log_softmax, softmax
from scipy.stats import entropy

from mmkd_core.distill.heads import Fusion
from mmkd_core.distill.losses import (
    clip_contrast,
    contrast_gradients,
    contrastive_relation,
    feature_distillation,
    gradient_distillation,
    interactive_contrast,
    mse_distillation,
    relation,
)

RNG = np.random.default_rng(0)
STUDENT, TEACHER, IMAGES, TEXTS = RNG.normal(size=(4, 5, 3))


def leaves(*values):
    return [torch.tensor(value, dtype=torch.float64, requires_grad=True) for value in values]


def unit(x):
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


def test_feature_distillation():
    cosine = (unit(STUDENT) * unit(TEACHER)).sum(axis=1)
    difference = np.abs(STUDENT - TEACHER)
    assert (difference < 1).any()
    assert (difference > 1).any()
    smooth = np.where(difference < 1, difference**2 / 2, difference - 0.5)
    expected = 0.9 * (1 - cosine).mean() + 0.1 * smooth.mean()
    assert feature_distillation(*leaves(STUDENT, TEACHER)).item() == pytest.approx(expected, rel=1e-12)
    assert torch.autograd.gradcheck(feature_distillation, leaves(STUDENT, TEACHER))


def test_feature_distillation_by_hand():
    student, teacher = leaves([[1.0, 0.0]], [[0.0, 1.0]])
    assert feature_distillation(student, teacher).item() == pytest.approx(0.9 + 0.1 * 0.5)
    assert feature_distillation(student, student).item() == pytest.approx(0)
    assert feature_distillation(student, -student).item() == pytest.approx(0.9 * 2 + 0.1 * 0.75)


def test_mse_distillation():
    expected = ((STUDENT - TEACHER) ** 2).mean()
    assert mse_distillation(*leaves(STUDENT, TEACHER)).item() == pytest.approx(expected, rel=1e-12)
    assert torch.autograd.gradcheck(mse_distillation, leaves(STUDENT, TEACHER))


def test_interactive_contrast():
    images, texts, t_images, t_texts = map(unit, (STUDENT, TEACHER, IMAGES, TEXTS))
    own = np.arange(5)
    by_image = -log_softmax(8.0 * images @ t_texts.T, axis=1)[own, own].mean()
    by_text = -log_softmax(8.0 * texts @ t_images.T, axis=1)[own, own].mean()
    inputs = leaves(images, texts, t_images, t_texts, 8.0)
    assert interactive_contrast(*inputs).item() == pytest.approx((by_image + by_text) / 2, rel=1e-12)
    assert torch.autograd.gradcheck(interactive_contrast, inputs)


def test_the_students_images_meet_the_teachers_texts_and_not_its_images():
    """Two samples, the teacher's texts crossed over: only the image half is wrong then."""
    axes = np.eye(2)
    right = interactive_contrast(*leaves(axes, axes, axes, axes, 20.0)).item()
    crossed = interactive_contrast(*leaves(axes, axes, axes, axes[::-1].copy(), 20.0)).item()
    assert right == pytest.approx(0, abs=1e-8)
    assert crossed == pytest.approx(10, abs=1e-6)


def quartet():
    """Unit-norm images and texts of student and teacher, and the logit scale of each."""
    features = np.random.default_rng(1).normal(size=(4, 5, 3))
    return [*map(unit, features), 6.0, 11.0]


def test_contrastive_relation():
    images, texts, t_images, t_texts, scale, t_scale = quartet()
    logits, t_logits = scale * images @ texts.T, t_scale * t_images @ t_texts.T
    by_image = entropy(softmax(t_logits, axis=1), softmax(logits, axis=1), axis=1).mean()
    by_text = entropy(softmax(t_logits, axis=0), softmax(logits, axis=0), axis=0).mean()
    inputs = leaves(*quartet())
    assert contrastive_relation(*inputs).item() == pytest.approx((by_image + by_text) / 2, rel=1e-12)
    assert torch.autograd.gradcheck(contrastive_relation, inputs)
    same = leaves(images, texts, images, texts, scale, scale)
    assert contrastive_relation(*same).item() == pytest.approx(0, abs=1e-12)


def test_gradients_of_the_contrast_are_those_of_autograd():
    image, text, scale = leaves(*quartet()[:2], 6.0)
    summed = 5 * clip_contrast(image, text, scale)
    for mine, true in zip(
        contrast_gradients(image, text, scale), torch.autograd.grad(summed, [image, text]), strict=True
    ):
        torch.testing.assert_close(mine, true)


def test_gradients_of_the_contrast_by_hand():
    """Two samples, logits of +-1: every posterior of the right one is 1 / (1 + e^-2)."""
    image = text = torch.tensor([[1.0], [-1.0]], dtype=torch.float64)
    by_image, by_text = contrast_gradients(image, text, torch.tensor(1.0))
    wrong = 1 / (1 + np.exp(2))
    np.testing.assert_allclose(by_image, [[-2 * wrong], [2 * wrong]])
    np.testing.assert_allclose(by_text, by_image)


def test_gradient_distillation():
    inputs = leaves(*quartet())
    images, texts, t_images, t_texts, scale, t_scale = inputs

    def by_autograd(image, text, factor):
        leaf = [x.detach().requires_grad_() for x in (image, text)]
        return torch.autograd.grad(5 * clip_contrast(*leaf, factor.detach()), leaf)

    student, teacher = by_autograd(images, texts, scale), by_autograd(t_images, t_texts, t_scale)
    expected = sum(((a - b) ** 2).numpy().mean() for a, b in zip(student, teacher, strict=True))
    assert gradient_distillation(*inputs).item() == pytest.approx(expected, rel=1e-12)
    assert torch.autograd.gradcheck(gradient_distillation, inputs)


def test_clip_contrast():
    images, texts, *_ = quartet()
    own, logits = np.arange(5), 6.0 * images @ texts.T
    expected = -(log_softmax(logits, axis=1)[own, own] + log_softmax(logits, axis=0)[own, own]).mean() / 2
    inputs = leaves(images, texts, 6.0)
    assert clip_contrast(*inputs).item() == pytest.approx(expected, rel=1e-12)
    assert torch.autograd.gradcheck(clip_contrast, inputs)


def test_augmented_features_are_fused_by_a_linear_map_per_tower():
    images, texts, t_images, t_texts, *_ = quartet()
    fusion = Fusion(3).double()
    image, text, scale = fusion(*leaves(images, texts, t_images, t_texts))
    for fused, layer, pair in (
        (image, fusion.image, (images, t_images)),
        (text, fusion.text, (texts, t_texts)),
    ):
        weight, bias = (p.detach().numpy() for p in layer.parameters())
        np.testing.assert_allclose(fused.detach(), unit(np.hstack(pair) @ weight.T + bias))
    assert scale.item() == pytest.approx(1 / 0.07)
    assert torch.autograd.gradcheck(
        lambda *pair: clip_contrast(*fusion(*pair)), leaves(images, texts, t_images, t_texts)
    )


def test_relation():
    logits, posterior = RNG.normal(size=(6, 4)) * 3, softmax(RNG.normal(size=(6, 4)) * 2, axis=1)
    expected = [entropy(p, q) for p, q in zip(posterior, softmax(logits, axis=1), strict=True)]
    inputs = leaves(logits, posterior)
    np.testing.assert_allclose(relation(*inputs).detach(), expected, rtol=1e-10)
    assert torch.autograd.gradcheck(lambda x: relation(x, inputs[1].detach()), inputs[:1])


def test_relation_of_several_teachers_is_that_of_each():
    logits, posterior = RNG.normal(size=(6, 4)), softmax(RNG.normal(size=(3, 6, 4)), axis=-1)
    together = relation(*leaves(logits, posterior))
    assert together.shape == (3, 6)
    for row, one in zip(together, posterior, strict=True):
        torch.testing.assert_close(row, relation(*leaves(logits, one)))


rows = arrays(np.float64, (3, 4), elements=st.floats(-8, 8))


@given(student=rows, teacher=rows, shift=st.floats(-5, 5))
def test_relation_is_zero_if_and_only_if_posteriors_are_equal(student, teacher, shift):
    posterior = torch.tensor(softmax(teacher, axis=1))
    assert relation(torch.tensor(teacher + shift), posterior).tolist() == pytest.approx([0, 0, 0], abs=1e-9)
    value = relation(torch.tensor(student), posterior).numpy()
    distance = np.abs(softmax(student, axis=1) - posterior.numpy()).sum(axis=1)
    # Pinsker: the divergence is at least half the square of the distance in the L1 norm
    assert (value >= distance**2 / 2 - 1e-9).all()


def test_relation_of_a_posterior_with_zeros_is_finite():
    logits = torch.tensor([[0.0, 0.0]], requires_grad=True)
    value = relation(logits, torch.tensor([[1.0, 0.0]]))
    assert value.item() == pytest.approx(np.log(2))
    value.backward()
    assert logits.grad.tolist() == [[-0.5, 0.5]]
