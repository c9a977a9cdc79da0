"""PMC-CLIP: a ResNet-50 with attention pooling and PubMedBERT, published as three files in a data set repository.

Its own configuration asserts BiomedBERT-abstract-fulltext, whose configuration and vocabulary are taken here; many
users take those of BiomedBERT-abstract. Whether the vocabularies differ was not looked up.
"""

from collections.abc import Mapping
from pathlib import Path

from mmkd_core import contract as mmkd

HOME = "https://github.com/WeixiongLin/PMC-CLIP"
SPEC = mmkd.TeacherSpec(
    name="pmc-clip",
    title="PMC-CLIP",
    summary="ResNet-50 and PubMedBERT on 1.6 million figures with captions from PubMed Central (PMC-OA)",
    family="pmc-clip",
    arch={"layers": [3, 4, 6, 3], "width": 64, "heads": 8},
    weights=(
        mmkd.hub(
            "axiong/pmc_oa",
            "image_encoder(resnet50).pth",
            "text_encoder.pth",
            "text_projection_layer.pth",
            kind="hf-dataset",
        ),
        mmkd.hub(
            "microsoft/BiomedNLP-BiomedBERT-base-uncased-abstract-fulltext",
            "config.json",
            "vocab.txt",
            role="text_tower",
            tokenizer=True,
        ),
    ),
    image=mmkd.ImageSpec(size=224, mean=mmkd.CLIP_MEAN, std=mmkd.CLIP_STD),
    text=mmkd.TextSpec(tokenizer="hf", context_length=77),
    embed_dim=768,
    logit_scale=100.0,  # CLIP's upper limit; the learnt value is not among the published files
    domains=("xray", "ct", "mri", "ultrasound", "pathology", "dermatology", "fundus", "oct", "endoscopy", "microscopy"),
    license=mmkd.LicenseInfo(code="MIT", weights="LicenseRef-unknown", commercial_use=False, url=HOME),
    provenance=mmkd.Provenance(
        paper="Lin et al. 2023, MICCAI, arXiv:2303.07240",
        homepage=HOME,
        training_data="PMC-OA: figures and captions of PubMed Central articles",
    ),
)


@mmkd.hookimpl
def mmkd_teachers() -> list[mmkd.TeacherSpec]:
    """Declare PMC-CLIP."""
    return [SPEC]


@mmkd.hookimpl
def mmkd_load_teacher(spec: mmkd.TeacherSpec, weights: Mapping[str, Path], device: str) -> mmkd.Teacher | None:
    """Build it: neither open_clip nor transformers has this pair of towers."""
    from mmkd_pmc_clip.model import load

    return load(spec, weights, device)
