"""QuiltNet: a declaration; the built-in loader does the rest.

Which variant the paper distilled (B/32, B/16, B/16 with PubMedBERT) is not known; this is the one of the model's own
examples. The commit is the one that several public projects state; nobody here could look it up on the hub.
"""

from mmkd_core import contract as mmkd

SPEC = mmkd.TeacherSpec(
    name="quilt-net",
    title="QuiltNet",
    summary="ViT-B/32 on 1 million histopathology image-text pairs, mostly from lectures on YouTube",
    family="open_clip",
    weights=(
        mmkd.hub(
            "wisdomik/QuiltNet-B-32",
            "open_clip_config.json",
            "open_clip_pytorch_model.bin",
            revision="8ce77289ce35a90b2f1db1137dfa4bc2df175e33",
        ),
    ),
    image=mmkd.ImageSpec(size=224, mean=mmkd.CLIP_MEAN, std=mmkd.CLIP_STD),
    text=mmkd.TextSpec(tokenizer="open_clip", context_length=77),
    embed_dim=512,
    logit_scale=100.0,  # CLIP's upper limit; the learnt one is read when it is added
    domains=("pathology",),
    license=mmkd.LicenseInfo(code="MIT", weights="MIT", commercial_use=True),
    provenance=mmkd.Provenance(
        paper="Ikezogwo et al. 2023, Quilt-1M, arXiv:2306.11207",
        homepage="https://huggingface.co/wisdomik/QuiltNet-B-32",
        training_data="Quilt-1M: YouTube lectures, Twitter, research articles",
    ),
)


@mmkd.hookimpl
def mmkd_teachers() -> list[mmkd.TeacherSpec]:
    """Declare QuiltNet."""
    return [SPEC]
