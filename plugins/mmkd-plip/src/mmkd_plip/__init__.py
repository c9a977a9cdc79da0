"""PLIP: a declaration; the built-in loader does the rest.

The commit is the one that many public projects state; nobody here could look it up on the hub. The licence of the code
is that of its setup.py; of the weights nothing is stated.
"""

from mmkd_core import contract as mmkd

HOME = "https://huggingface.co/vinid/plip"
SPEC = mmkd.TeacherSpec(
    name="plip",
    title="PLIP",
    summary="ViT-B/32 on 208,000 pathology images with their captions from Twitter (OpenPath)",
    family="transformers",
    weights=(
        mmkd.hub(
            "vinid/plip",
            *("config.json", "pytorch_model.bin"),
            revision="67ade53ddd32195868f422585f72698ef5d15094",
            tokenizer=True,
        ),
    ),
    image=mmkd.ImageSpec(size=224, convert="before", mean=mmkd.CLIP_MEAN, std=mmkd.CLIP_STD),
    text=mmkd.TextSpec(tokenizer="hf", context_length=77),
    embed_dim=512,
    logit_scale=100.0,  # CLIP's upper limit; the learnt one is read when it is added
    domains=("pathology",),
    license=mmkd.LicenseInfo(code="MIT", weights="LicenseRef-unknown", commercial_use=None, derivatives=None, url=HOME),
    provenance=mmkd.Provenance(paper="Huang et al. 2023, Nature Medicine 29:2307-2316", homepage=HOME),
)


@mmkd.hookimpl
def mmkd_teachers() -> list[mmkd.TeacherSpec]:
    """Declare PLIP."""
    return [SPEC]
