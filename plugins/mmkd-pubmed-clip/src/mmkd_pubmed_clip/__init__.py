"""PubMedCLIP: a declaration; the built-in loader does the rest.

This is the copy for transformers; the original (sarahESL/PubMedCLIP) is a checkpoint of OpenAI's code. That it keeps
CLIP's normalisation is assumed: its preprocessor_config.json was not read.
"""

from mmkd_core import contract as mmkd

SPEC = mmkd.TeacherSpec(
    name="pubmed-clip",
    title="PubMedCLIP",
    summary="ViT-B/32 trained further on the radiology figures of ROCO",
    family="transformers",
    weights=(
        mmkd.hub("flaviagiammarino/pubmed-clip-vit-base-patch32", "config.json", "pytorch_model.bin", tokenizer=True),
    ),
    image=mmkd.ImageSpec(size=224, convert="before", mean=mmkd.CLIP_MEAN, std=mmkd.CLIP_STD),
    text=mmkd.TextSpec(tokenizer="hf", context_length=77),
    embed_dim=512,
    logit_scale=100.0,  # CLIP's upper limit; the learnt one is read when it is added
    domains=("xray", "ct", "mri", "ultrasound"),
    license=mmkd.LicenseInfo(code="MIT", weights="MIT", commercial_use=True),
    provenance=mmkd.Provenance(
        paper="Eslami et al. 2023, Findings of EACL, arXiv:2112.13906",
        homepage="https://huggingface.co/flaviagiammarino/pubmed-clip-vit-base-patch32",
        training_data="ROCO: radiology figures and captions of PubMed Central articles",
    ),
)


@mmkd.hookimpl
def mmkd_teachers() -> list[mmkd.TeacherSpec]:
    """Declare PubMedCLIP."""
    return [SPEC]
