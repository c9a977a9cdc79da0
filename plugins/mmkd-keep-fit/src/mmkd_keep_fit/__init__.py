"""KeepFIT: FLAIR's towers, trained further with fundus photographs and captions from textbooks (MM-Retinal).

The checkpoint for colour photographs trained on FLAIR's data and MM-Retinal. It lies on Google Drive, so a person
downloads it. Its training had an attention between images, which takes no part in an embedding.
"""

from collections.abc import Mapping
from pathlib import Path

from mmkd_core import contract as mmkd

CHECKPOINT = "keepfit_flair_mm.pth"
TRAINING_ONLY = [f"attention.W_{part}.weight" for part in "qkvo"]

HOME = "https://github.com/lxirich/MM-Retinal"
SPEC = mmkd.TeacherSpec(
    name="keep-fit",
    title="KeepFIT",
    summary="ResNet-50 and Bio_ClinicalBERT on fundus photographs with labels and textbook captions (MM-Retinal)",
    family="flair",
    arch={"layers": [3, 4, 6, 3], "width_per_group": 64},
    weights=(
        mmkd.WeightSource(
            role="model",
            kind="manual",
            location="https://drive.google.com/file/d/1w6poCkZeqSTHsLYz1R9-z5Ttc0Vw0qSw/view",
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
    # Resized as numbers between 0 and 1 and padded right and below (loaders/flair.py): ImageSpec has no word for that.
    image=mmkd.ImageSpec(
        size=512, resize="longest", interpolation="bilinear", convert="before", mean=(0, 0, 0), std=(1, 1, 1)
    ),
    text=mmkd.TextSpec(tokenizer="hf", context_length=256, template="A fundus photograph of {}"),
    embed_dim=512,
    logit_scale=14.3,  # 1 / 0.07, where it starts; the learnt one is read when it is added
    domains=("fundus",),
    license=mmkd.LicenseInfo(
        code="LicenseRef-unknown", weights="LicenseRef-unknown", commercial_use=None, derivatives=None, url=HOME
    ),
    provenance=mmkd.Provenance(
        paper="Wu et al. 2024, MICCAI, arXiv:2405.11793",
        homepage=HOME,
        training_data="FLAIR's public fundus data sets, MM-Retinal (textbooks)",
    ),
)


@mmkd.hookimpl
def mmkd_teachers() -> list[mmkd.TeacherSpec]:
    """Declare KeepFIT."""
    return [SPEC]


@mmkd.hookimpl
def mmkd_load_teacher(spec: mmkd.TeacherSpec, weights: Mapping[str, Path], device: str) -> mmkd.Teacher | None:
    """Build it: neither open_clip nor transformers has this pair of towers."""
    from mmkd_core.plugins.loaders import flair

    return flair.load(spec, weights, device, CHECKPOINT, TRAINING_ONLY)
