"""CXR-CLIP: a Swin transformer and Bio_ClinicalBERT for chest radiographs, published as a training checkpoint.

Of six checkpoints (ResNet-50 or Swin-T, on one, two or three data sets) this is the Swin-T on all three. The one with
ResNet-50 has another normalisation and another pooling, so it would be a teacher of its own.
"""

from collections.abc import Mapping
from pathlib import Path

from mmkd_core import contract as mmkd

CHECKPOINT = "swint_mcc.tar"

HOME = "https://github.com/Soombit-ai/cxr-clip"
SPEC = mmkd.TeacherSpec(
    name="cxr-clip",
    title="CXR-CLIP Swin-T",
    summary="Swin-T and Bio_ClinicalBERT on chest radiographs with reports, and with sentences made of labels",
    family="cxr-clip",
    arch={"embed_dim": 96, "depths": [2, 2, 6, 2], "num_heads": [3, 6, 12, 24], "window_size": 7},
    weights=(
        mmkd.WeightSource(
            role="model",
            kind="url",
            location="https://twg.kakaocdn.net/brainrepo/models/cxr-clip/a25ce760064591c899f67c97ed7790de/swint_mcc.tar",
            files={CHECKPOINT: None},
        ),
        mmkd.hub(
            "emilyalsentzer/Bio_ClinicalBERT",
            "config.json",
            "vocab.txt",
            role="text_tower",
            revision="d5892b39a4adaed74b92212a44081509db72f87b",
            tokenizer=True,
        ),
    ),
    image=mmkd.ImageSpec(
        size=224, interpolation="bilinear", convert="before", mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5)
    ),
    text=mmkd.TextSpec(tokenizer="hf", context_length=256),
    embed_dim=512,
    logit_scale=14.3,  # 1 / 0.07, where it starts; the learnt one is read when it is added
    domains=("xray",),
    license=mmkd.LicenseInfo(code="CC-BY-NC-SA-4.0", weights="CC-BY-NC-SA-4.0", commercial_use=False, url=HOME),
    provenance=mmkd.Provenance(
        paper="You et al. 2023, MICCAI, arXiv:2310.13292",
        homepage=HOME,
        training_data="MIMIC-CXR, CheXpert, ChestX-ray14",
    ),
)


@mmkd.hookimpl
def mmkd_teachers() -> list[mmkd.TeacherSpec]:
    """Declare CXR-CLIP."""
    return [SPEC]


@mmkd.hookimpl
def mmkd_load_teacher(spec: mmkd.TeacherSpec, weights: Mapping[str, Path], device: str) -> mmkd.Teacher | None:
    """Build it: neither open_clip nor transformers has this pair of towers."""
    from mmkd_cxr_clip.model import load

    return load(spec, weights, device)
