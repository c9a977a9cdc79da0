"""PMC-CLIP: a ResNet-50 with attention pooling and PubMedBERT, published as three files in a data set repository.

What no tensor's shape fixes is taken from its training code (src/pmc_clip/model/ in its repository, the same in the
first commit and the last): attention heads, pooling at [CLS], no attention mask. Its quick-start notebook differs in
two of them, see the README. Its configuration asserts BiomedBERT-abstract-fulltext, whose configuration and vocabulary
are taken here; many users take those of BiomedBERT-abstract. Whether the vocabularies differ was not looked up.
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
    # Heads leave no trace in the weights. pmc_clip.py: width * 32 // head_width = 64 * 32 // 64 (config.py).
    arch={"layers": [3, 4, 6, 3], "width": 64, "heads": 32},
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
            revision="e1354b7a3a09615f6aba48dfad4b7a613eef7062",  # as many public projects state it
            tokenizer=True,
        ),
    ),
    image=mmkd.ImageSpec(size=224, mean=mmkd.CLIP_MEAN, std=mmkd.CLIP_STD),
    text=mmkd.TextSpec(tokenizer="hf", context_length=77),
    embed_dim=768,
    logit_scale=83.9,  # exp(4.4292), its authors' quick-start notebook; it is in none of the published files
    domains=("xray", "ct", "mri", "ultrasound", "pathology", "dermatology", "fundus", "oct", "endoscopy", "microscopy"),
    license=mmkd.LicenseInfo(code="MIT", weights="LicenseRef-unknown", commercial_use=None, derivatives=None, url=HOME),
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
