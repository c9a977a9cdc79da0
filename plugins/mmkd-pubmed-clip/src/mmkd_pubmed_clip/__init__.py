"""PubMedCLIP: a declaration; the built-in loader does the rest.

This is the copy for transformers; the original (sarahESL/PubMedCLIP) is a checkpoint of OpenAI's code. Commit and
sha256 are those that several public projects state. That it keeps CLIP's normalisation is assumed: its
preprocessor_config.json was not read here, and is compared with this when the teacher is checked.
"""

from mmkd_core import contract as mmkd

SPEC = mmkd.TeacherSpec(
    name="pubmed-clip",
    title="PubMedCLIP",
    summary="ViT-B/32 trained further on the radiology figures of ROCO",
    family="transformers",
    weights=(
        mmkd.hub(
            "flaviagiammarino/pubmed-clip-vit-base-patch32",
            *("config.json", "pytorch_model.bin"),
            revision="26c0c67f6da303ad2a38909130bd35744ea93517",
            sha256={"pytorch_model.bin": "4daa7650d2b47e55c37b5ca7dcabe826fd82407c26028a574bcc422f35a94aa4"},
            tokenizer=True,
        ),
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
