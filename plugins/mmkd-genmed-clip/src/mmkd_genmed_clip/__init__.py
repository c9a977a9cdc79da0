"""GenMedClip: a declaration; the built-in loader does the rest.

Its configuration asks timm for pretrained weights and the hub for PubMedBERT under its former name; the loader fetches
neither and builds both towers from local configurations. Which variant the paper distilled is not known. It learnt from
MedicalNarratives, whose twelve domains its authors do not tie to ours one by one: all are listed.
"""

from mmkd_core import contract as mmkd

SPEC = mmkd.TeacherSpec(
    name="genmed-clip",
    title="GenMedClip",
    summary="ViT-B/16 and PubMedBERT by the authors of QuiltNet, for medical images in general",
    family="open_clip",
    weights=(
        mmkd.hub("wisdomik/GenMedClip-B-16-PMB", "open_clip_config.json", "open_clip_model.safetensors"),
        mmkd.hub(
            "microsoft/BiomedNLP-BiomedBERT-base-uncased-abstract",
            "config.json",
            "vocab.txt",
            role="text_tower",
            revision="d673b8835373c6fa116d6d8006b33d48734e305d",
            tokenizer=True,
        ),
    ),
    image=mmkd.ImageSpec(size=224, mean=mmkd.CLIP_MEAN, std=mmkd.CLIP_STD),
    text=mmkd.TextSpec(tokenizer="hf", context_length=256),
    embed_dim=512,
    logit_scale=100.0,  # CLIP's upper limit; the learnt one is read when it is added
    domains=("xray", "ct", "mri", "ultrasound", "pathology", "dermatology", "fundus", "oct", "endoscopy", "microscopy"),
    license=mmkd.LicenseInfo(code="MIT", weights="MIT", commercial_use=True),
    provenance=mmkd.Provenance(
        paper="Ikezogwo et al. 2025, MedicalNarratives, arXiv:2501.04184",
        homepage="https://medical-narratives.github.io",
        training_data="MedicalNarratives: 4.7 million pairs from teaching videos and articles, 12 domains",
    ),
)


@mmkd.hookimpl
def mmkd_teachers() -> list[mmkd.TeacherSpec]:
    """Declare GenMedClip."""
    return [SPEC]
