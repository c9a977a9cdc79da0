"""DermLIP: a declaration; the built-in loader does the rest.

Its authors load it by name with their fork of open_clip; public projects do so with the plain one. That the weights are
safetensors and the normalisation is CLIP's is assumed: neither was read. Nor was the card of its weights: the
repository says CC-BY-NC-4.0, the authors' card of its sibling CC-BY-NC-ND-4.0, and the stricter one is taken.
"""

from mmkd_core import contract as mmkd

HOME = "https://github.com/SiyuanYan1/Derm1M"
SIBLING = "https://huggingface.co/redlessone/DermLIP_PanDerm-base-w-PubMed-256"
SPEC = mmkd.TeacherSpec(
    name="derm-lip",
    title="DermLIP ViT-B/16",
    summary="ViT-B/16 on 1 million dermatology images with texts (Derm1M)",
    family="open_clip",
    weights=(mmkd.hub("redlessone/DermLIP_ViT-B-16", "open_clip_config.json", "open_clip_model.safetensors"),),
    image=mmkd.ImageSpec(size=224, mean=mmkd.CLIP_MEAN, std=mmkd.CLIP_STD),
    text=mmkd.TextSpec(tokenizer="open_clip", context_length=77),
    embed_dim=512,
    logit_scale=100.0,  # CLIP's upper limit; the learnt one is read when it is added
    domains=("dermatology",),
    license=mmkd.LicenseInfo(
        code="CC-BY-NC-4.0", weights="CC-BY-NC-ND-4.0", commercial_use=False, derivatives=False, gated=True, url=SIBLING
    ),
    provenance=mmkd.Provenance(
        paper="Yan et al. 2025, ICCV, arXiv:2503.14911",
        homepage=HOME,
        training_data="Derm1M: dermatology images and texts from videos, articles and forums",
    ),
)


@mmkd.hookimpl
def mmkd_teachers() -> list[mmkd.TeacherSpec]:
    """Declare DermLIP."""
    return [SPEC]
