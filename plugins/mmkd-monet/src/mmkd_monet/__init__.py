"""MONET: a declaration; the built-in loader does the rest.

It was trained with ImageNet's normalisation where CLIP has its own: with CLIP's it works without complaint, and worse.
The repository is the one that its authors' README names; the commit is the one that public projects state.
"""

from mmkd_core import contract as mmkd

HOME = "https://github.com/suinleelab/MONET"
SPEC = mmkd.TeacherSpec(
    name="monet",
    title="MONET",
    summary="ViT-L/14 on 105,550 dermatology images with texts from PubMed articles and textbooks",
    family="transformers",
    weights=(
        mmkd.hub(
            "chanwkim/monet",
            *("config.json", "model.safetensors"),
            revision="1d1efd0b8d61bde82cde22d2e93c28d73441f29e",
            tokenizer=True,
        ),
    ),
    image=mmkd.ImageSpec(size=224, convert="before", mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225)),
    text=mmkd.TextSpec(tokenizer="hf", context_length=77),
    embed_dim=768,
    logit_scale=100.0,  # CLIP's upper limit; the learnt one is read when it is added
    domains=("dermatology",),
    license=mmkd.LicenseInfo(code="CC-BY-NC-SA-4.0", weights="CC-BY-NC-SA-4.0", commercial_use=False, url=HOME),
    provenance=mmkd.Provenance(
        paper="Kim et al. 2024, Nature Medicine 30:1154-1165",
        homepage=HOME,
        training_data="dermatology images and texts from PubMed articles and textbooks",
    ),
)


@mmkd.hookimpl
def mmkd_teachers() -> list[mmkd.TeacherSpec]:
    """Declare MONET."""
    return [SPEC]
