"""UniMed-CLIP: a declaration; the built-in loader does the rest.

Its authors load it with a copy of open_clip 1.3 that cannot stand beside a present one. The same architecture is
open_clip's ViT-B-16-quickgelu with a Hugging Face text tower; the copy calls that tower ``text_encoder``.
"""

from mmkd_core import contract as mmkd

HOME = "https://github.com/mbzuai-oryx/UniMed-CLIP"
SPEC = mmkd.TeacherSpec(
    name="unimed-clip",
    title="UniMed-CLIP",
    summary="ViT-B/16 and BiomedBERT on 5.3 million pairs of six imaging modalities",
    family="open_clip",
    arch={
        "model_cfg": {
            "embed_dim": 512,
            "quick_gelu": True,
            "vision_cfg": {"image_size": 224, "layers": 12, "width": 768, "patch_size": 16},
            "text_cfg": {
                "hf_model_name": "microsoft/BiomedNLP-BiomedBERT-base-uncased-abstract",
                "hf_tokenizer_name": "microsoft/BiomedNLP-BiomedBERT-base-uncased-abstract",
                "hf_proj_type": "mlp",
                "hf_pooler_type": "cls_last_hidden_state_pooler",
                "context_length": 256,
            },
        },
        "renames": {"text_encoder.": "text."},
        # The embedding is the last hidden state of [CLS], so BERT's own pooler is unused where it was saved.
        "ignore": ["text.transformer.pooler.dense.weight", "text.transformer.pooler.dense.bias"],
    },
    weights=(
        # As a public project states it, which fills its authors' own model from this file, dropping position_ids only.
        mmkd.hub(
            "UzairK/unimed-clip-vit-b16", "unimed-clip-vit-b16.pt", revision="84a67cb0331b511b630136e4878beaa5a3fdc657"
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
    logit_scale=100.0,  # CLIP's upper limit; the learnt one is read when it is added
    domains=("xray", "ct", "mri", "ultrasound", "pathology", "fundus"),
    license=mmkd.LicenseInfo(code="CC-BY-NC-4.0", weights="CC-BY-NC-4.0", commercial_use=False, url=HOME),
    provenance=mmkd.Provenance(
        paper="Khattak et al. 2024, UniMed-CLIP, arXiv:2412.10372",
        homepage=HOME,
        training_data="UniMed: 5.3 million public image-text pairs, partly from labels",
    ),
)


@mmkd.hookimpl
def mmkd_teachers() -> list[mmkd.TeacherSpec]:
    """Declare UniMed-CLIP."""
    return [SPEC]
