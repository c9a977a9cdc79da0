"""BiomedCLIP: a declaration; the built-in loader does the rest.

The configuration is open_clip's own; its text tower is built from the configuration of BiomedBERT, whose tokenizer it
uses. Commit and sha256 are those that several public projects state; nobody here could look them up on the hub.
"""

from mmkd_core import contract as mmkd

WEIGHTS = "52cc993c5c5ff962bd0c60931874bc001e7e9b41666a385530f4a036294576be"
CONFIG = "9a41f334a8c444678772c0ebb9ab854c97ab350bced3a17b803e258d39c23dc0"
SPEC = mmkd.TeacherSpec(
    name="biomed-clip",
    title="BiomedCLIP",
    summary="ViT-B/16 and PubMedBERT on 15 million figures with captions from PubMed Central",
    family="open_clip",
    weights=(
        mmkd.hub(
            "microsoft/BiomedCLIP-PubMedBERT_256-vit_base_patch16_224",
            "open_clip_config.json",
            "open_clip_pytorch_model.bin",
            revision="9f341de24bfb00180f1b847274256e9b65a3a32e",
            sha256={"open_clip_pytorch_model.bin": WEIGHTS, "open_clip_config.json": CONFIG},
        ),
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
    logit_scale=85.2,  # exp(4.4454), as a converted copy lists it
    domains=("xray", "ct", "mri", "ultrasound", "pathology", "dermatology", "fundus", "oct", "endoscopy", "microscopy"),
    license=mmkd.LicenseInfo(code="MIT", weights="MIT", commercial_use=True),
    provenance=mmkd.Provenance(
        paper="Zhang et al. 2023, arXiv:2303.00915",
        homepage="https://huggingface.co/microsoft/BiomedCLIP-PubMedBERT_256-vit_base_patch16_224",
        training_data="PMC-15M: figures and captions of PubMed Central articles",
    ),
)


@mmkd.hookimpl
def mmkd_teachers() -> list[mmkd.TeacherSpec]:
    """Declare BiomedCLIP."""
    return [SPEC]
