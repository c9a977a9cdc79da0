"""The losses of stage 2 as pure functions on tensors. B samples, D dimensions, K texts.

Notation: ``s`` student, ``t`` teacher. Sources: CLIP-KD (Yang et al., CVPR 2024, arXiv 2307.12732) for FD (eq. 7) and
ICL (eqs. 9-10); MMKD-CLIP (arXiv 2506.22567) for their use with several teachers; RADIO (Ranzinger et al., CVPR 2024)
for the mix of cosine and smooth L1.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F


def feature_distillation(student: Tensor, teacher: Tensor) -> Tensor:
    """0.9 x (1 - cosine) + 0.1 x smooth L1, mean over samples.

    Args:
        student: predictions (B, D) of one head.
        teacher: normalised features (B, D) of the same samples (see ``normalise.PhiS``).
    """
    cosine = 1 - F.cosine_similarity(student, teacher, dim=-1).mean()
    return 0.9 * cosine + 0.1 * F.smooth_l1_loss(student, teacher)


def mse_distillation(student: Tensor, teacher: Tensor) -> Tensor:
    """FD as published: mean squared difference of (B, D) features, over samples and dimensions."""
    return F.mse_loss(student, teacher)


def interactive_contrast(
    student_image: Tensor, student_text: Tensor, teacher_image: Tensor, teacher_text: Tensor, logit_scale: Tensor
) -> Tensor:
    """ICL: the student's images against the teacher's texts, and the student's texts against the teacher's images.

    All are unit-norm (B, D) in the teacher's own space; the negatives are the other samples of the same teacher.
    """
    target = torch.arange(len(student_image))
    image = F.cross_entropy(logit_scale * student_image @ teacher_text.T, target)
    text = F.cross_entropy(logit_scale * student_text @ teacher_image.T, target)
    return (image + text) / 2


def relation(student_logits: Tensor, teacher_posterior: Tensor, weight: Tensor) -> Tensor:
    """KL(teacher || student) of posteriors over K texts, weighted mean over samples.

    Args:
        student_logits: (B, K) scaled cosines of images to the texts of their own domain.
        teacher_posterior: (B, K), rows sum to 1.
        weight: (B,) 0 where the teacher does not count.
    """
    divergence = -(teacher_posterior * F.log_softmax(student_logits, dim=-1)).sum(-1)
    entropy = -(teacher_posterior * teacher_posterior.clamp_min(1e-12).log()).sum(-1)
    return ((divergence - entropy) * weight).sum() / weight.sum().clamp_min(1.0)
