"""BMC-CLIP: a declaration; the built-in loader does the rest.

What is published is the checkpoint of a training run (``state_dict``, names with ``module.``) without a configuration.
Its users build open_clip's ViT-L-14, so that configuration stands here. The licence is the tag of its page on the hub.
"""

from mmkd_core import contract as mmkd

HOME = "https://huggingface.co/BIOMEDICA/BMC_CLIP_CF"
SPEC = mmkd.TeacherSpec(
    name="bmc-clip",
    title="BMC-CLIP",
    summary="ViT-L/14 trained further on the BIOMEDICA figures (BMC_CLIP_CF, key BMCA in the paper's data)",
    family="open_clip",
    arch={
        "model_cfg": {
            "embed_dim": 768,
            "vision_cfg": {"image_size": 224, "layers": 24, "width": 1024, "patch_size": 14},
            "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 768, "heads": 12, "layers": 12},
        }
    },
    weights=(mmkd.hub("BIOMEDICA/BMC_CLIP_CF", "BMC_CLIP_CF.pt"),),
    image=mmkd.ImageSpec(size=224, mean=mmkd.CLIP_MEAN, std=mmkd.CLIP_STD),
    text=mmkd.TextSpec(tokenizer="open_clip", context_length=77),
    embed_dim=768,
    logit_scale=100.0,  # CLIP's upper limit; the learnt one is read when it is added
    domains=("xray", "ct", "mri", "ultrasound", "pathology", "dermatology", "fundus", "oct", "endoscopy", "microscopy"),
    license=mmkd.LicenseInfo(code="MIT", weights="MIT", commercial_use=True, url=HOME),
    provenance=mmkd.Provenance(
        paper="Lozano et al. 2025, BIOMEDICA, arXiv:2501.07171",
        homepage=HOME,
        training_data="BIOMEDICA: figures and captions of PubMed Central articles",
    ),
)


@mmkd.hookimpl
def mmkd_teachers() -> list[mmkd.TeacherSpec]:
    """Declare BMC-CLIP."""
    return [SPEC]
