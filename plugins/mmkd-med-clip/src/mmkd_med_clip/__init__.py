"""MedCLIP: a Swin transformer and Bio_ClinicalBERT for chest radiographs, published as an archive on a web server.

That it is the paper's ninth teacher is said by a third party only. The package ``medclip`` downloads both base models
only to overwrite them, and needs a GPU for texts; here both towers are built from configurations and run anywhere.
"""

from collections.abc import Mapping
from pathlib import Path

from mmkd_core import contract as mmkd

GRAY = 0.5862785803043838
SPREAD = 0.27950088968644304

HOME = "https://github.com/RyanWangZf/MedCLIP"
SPEC = mmkd.TeacherSpec(
    name="med-clip",
    title="MedCLIP-ViT",
    summary="Swin-T and Bio_ClinicalBERT on chest radiographs and reports that need not be paired",
    family="med-clip",
    arch={"embed_dim": 96, "depths": [2, 2, 6, 2], "num_heads": [3, 6, 12, 24], "window_size": 7},
    weights=(
        mmkd.WeightSource(
            role="model",
            kind="url",
            location="https://storage.googleapis.com/pytrial/medclip-vit-pretrained.zip",
            files={"pytorch_model.bin": None},
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
    # The image is made gray and square before it is resized (model.py): ImageSpec has no word for the order.
    image=mmkd.ImageSpec(size=224, resize="longest", mean=(GRAY, GRAY, GRAY), std=(SPREAD, SPREAD, SPREAD)),
    text=mmkd.TextSpec(tokenizer="hf", context_length=77),
    embed_dim=512,
    logit_scale=14.3,  # 1 / 0.07, where it starts; the learnt one is read when it is added
    domains=("xray",),
    license=mmkd.LicenseInfo(
        code="LicenseRef-unknown", weights="LicenseRef-unknown", commercial_use=None, derivatives=None, url=HOME
    ),
    provenance=mmkd.Provenance(
        paper="Wang et al. 2022, EMNLP, arXiv:2210.10163",
        homepage=HOME,
        training_data="MIMIC-CXR, CheXpert",
    ),
)


@mmkd.hookimpl
def mmkd_teachers() -> list[mmkd.TeacherSpec]:
    """Declare MedCLIP."""
    return [SPEC]


@mmkd.hookimpl
def mmkd_load_teacher(spec: mmkd.TeacherSpec, weights: Mapping[str, Path], device: str) -> mmkd.Teacher | None:
    """Build it: neither open_clip nor transformers has this pair of towers."""
    from mmkd_med_clip.model import load

    return load(spec, weights, device)
