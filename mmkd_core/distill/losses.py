"""The losses of stage 2 as pure functions on tensors. B samples, D dimensions, K texts.

Each is written as its formula and keeps all logits; ``streamed`` computes FD and ICL of many teachers in little memory
and is held to these. ``s`` is the student, ``t`` the teacher, ``v`` images and ``w`` texts, c a logit scale that is
already exponentiated. Sources: CLIP-KD (Yang et al., CVPR 2024, arXiv 2307.12732, section 3) for FD, CRD, ICL, GD and
AFD; MMKD-CLIP (arXiv 2506.22567) for FD and ICL with several teachers; RADIO (Ranzinger et al., CVPR 2024) for the mix
of cosine and smooth L1.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

COSINE_SHARE = 0.9
"""Of ``feature_distillation``; smooth L1 has the rest."""


def feature_distillation(student: Tensor, teacher: Tensor) -> Tensor:
    """FD as 0.9 x (1 - cosine) + 0.1 x smooth L1, mean over samples.

    Args:
        student: predictions (B, D) of one head.
        teacher: normalised features (B, D) of the same samples (see ``normalise.PhiS``).
    """
    cosine = 1 - F.cosine_similarity(student, teacher, dim=-1).mean()
    return COSINE_SHARE * cosine + (1 - COSINE_SHARE) * F.smooth_l1_loss(student, teacher)


def mse_distillation(student: Tensor, teacher: Tensor) -> Tensor:
    """FD as published: mean squared difference of (B, D) features, over samples and dimensions."""
    return F.mse_loss(student, teacher)


def interactive_contrast(
    student_image: Tensor, student_text: Tensor, teacher_image: Tensor, teacher_text: Tensor, logit_scale: Tensor
) -> Tensor:
    """ICL: the student's images against the teacher's texts, and the student's texts against the teacher's images.

    All are unit-norm (B, D) in the teacher's own space; the negatives are the other samples of the same teacher.
    """
    target = torch.arange(len(student_image), device=student_image.device)
    image = F.cross_entropy(logit_scale * student_image @ teacher_text.T, target)
    text = F.cross_entropy(logit_scale * student_text @ teacher_image.T, target)
    return (image + text) / 2


def contrastive_relation(
    student_image: Tensor,
    student_text: Tensor,
    teacher_image: Tensor,
    teacher_text: Tensor,
    student_scale: Tensor,
    teacher_scale: Tensor,
) -> Tensor:
    """CRD: KL(teacher || student) of each image's posterior over the batch's texts, and of each text's over its images.

    All features are unit-norm (B, D); each side has its own logit scale. Mean over anchors and over both directions.
    """
    student = student_scale * student_image @ student_text.T
    teacher = teacher_scale * teacher_image @ teacher_text.T
    by_image = F.kl_div(student.log_softmax(1), teacher.log_softmax(1), reduction="batchmean", log_target=True)
    by_text = F.kl_div(student.log_softmax(0), teacher.log_softmax(0), reduction="sum", log_target=True) / len(student)
    return (by_image + by_text) / 2


def contrast_gradients(image: Tensor, text: Tensor, scale: Tensor) -> tuple[Tensor, Tensor]:
    """Gradients (B, D) of the summed CLIP loss of unit-norm features with respect to images and to texts.

    With P the posterior of each image over the texts and Q of each text over the images they are
    ``c/2 (P + Q' - 2I) w`` and ``c/2 (P + Q' - 2I)' v``.
    """
    logits = scale * image @ text.T
    pull = logits.softmax(1) + logits.softmax(0) - 2 * torch.eye(len(image), dtype=image.dtype, device=image.device)
    return scale / 2 * pull @ text, scale / 2 * pull.T @ image


def gradient_distillation(
    student_image: Tensor,
    student_text: Tensor,
    teacher_image: Tensor,
    teacher_text: Tensor,
    student_scale: Tensor,
    teacher_scale: Tensor,
) -> Tensor:
    """GD: squared distance between the gradients of the student's and of the teacher's CLIP loss by their features.

    Takes what ``contrastive_relation`` takes. Mean over samples and dimensions, as CLIP-KD's code has it; the sum over
    images and texts.
    """
    student = contrast_gradients(student_image, student_text, student_scale)
    teacher = contrast_gradients(teacher_image, teacher_text, teacher_scale)
    return F.mse_loss(student[0], teacher[0]) + F.mse_loss(student[1], teacher[1])


def clip_contrast(image: Tensor, text: Tensor, scale: Tensor) -> Tensor:
    """The CLIP loss of unit-norm (B, D) features. AFD is this loss of features fused by ``heads.Fusion``."""
    logits = scale * image @ text.T
    target = torch.arange(len(logits), device=logits.device)
    return (F.cross_entropy(logits, target) + F.cross_entropy(logits.T, target)) / 2


def relation(student_logits: Tensor, teacher_posterior: Tensor) -> Tensor:
    """KL(teacher || student) of posteriors over K texts, per sample (B) or per teacher and sample (T, B).

    Args:
        student_logits: (B, K) scaled cosines of images to the texts of their own domain.
        teacher_posterior: (B, K) or, of T teachers, (T, B, K); sums over K are 1.
    """
    student = F.log_softmax(student_logits, dim=-1)
    return torch.xlogy(teacher_posterior, teacher_posterior).sum(-1) - (teacher_posterior * student).sum(-1)
