"""FLAIR: a ResNet-50 and Bio_ClinicalBERT for fundus photographs, with its own way to prepare an image.

Its authors put each class name into one sentence, which stands in the spec's template; captions go in as they are.
"""

from collections.abc import Mapping
from pathlib import Path

from mmkd_core import contract as mmkd

CHECKPOINT = "model.safetensors"

SPEC = mmkd.TeacherSpec(
    name="flair",
    title="FLAIR",
    summary="ResNet-50 and Bio_ClinicalBERT on fundus photographs with expert descriptions of their labels",
    family="flair",
    arch={"layers": [3, 4, 6, 3], "width_per_group": 64},
    weights=(
        # The commit is the one that several public projects state; nobody here could look it up on the hub.
        mmkd.hub("jusiro2/FLAIR", CHECKPOINT, revision="5f6bdd0a068353dc41a896ba3abdd7c0f6d35938"),
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
    text=mmkd.TextSpec(tokenizer="hf", context_length=77, template="A fundus photograph of {}"),
    embed_dim=512,
    logit_scale=14.3,  # 1 / 0.07, where it starts; the learnt one is read when it is added
    domains=("fundus",),
    license=mmkd.LicenseInfo(code="Apache-2.0", weights="Apache-2.0", commercial_use=True),
    provenance=mmkd.Provenance(
        paper="Silva-Rodriguez et al. 2025, Medical Image Analysis 99, arXiv:2308.07898",
        homepage="https://github.com/jusiro/FLAIR",
        training_data="38 public fundus data sets, labels turned into sentences",
    ),
)


@mmkd.hookimpl
def mmkd_teachers() -> list[mmkd.TeacherSpec]:
    """Declare FLAIR."""
    return [SPEC]


@mmkd.hookimpl
def mmkd_load_teacher(spec: mmkd.TeacherSpec, weights: Mapping[str, Path], device: str) -> mmkd.Teacher | None:
    """Build it: neither open_clip nor transformers has this pair of towers."""
    from mmkd_core.plugins.loaders import flair

    return flair.load(spec, weights, device, CHECKPOINT)
