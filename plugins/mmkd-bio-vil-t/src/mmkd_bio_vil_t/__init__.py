"""BioViL-T: a ResNet-50 and CXR-BERT for chest radiographs, each of which may be compared with an earlier one.

A sample here is one radiograph, so the earlier one is missing, for which the model has a learnt vector. Its repository
holds code for transformers to run; here none of it runs, and its configurations, which name that code, are not read:
what they say of text tower and tokenizer stands in ``arch``.
"""

from collections.abc import Mapping
from pathlib import Path

from mmkd_core import contract as mmkd

IMAGE, TEXT = "biovil_t_image_model_proj_size_128.pt", "model.safetensors"
VOCABULARY = "vocab.txt"

SPEC = mmkd.TeacherSpec(
    name="bio-vil-t",
    title="BioViL-T",
    summary="ResNet-50 and CXR-BERT on chest radiographs with reports and earlier radiographs",
    family="bio-vil-t",
    arch={
        "resnet": {"layers": [3, 4, 6, 3], "width_per_group": 64},
        "channels": 256,
        "resize": 512,  # the short side, before the crop
        "lower_case": True,
        "bert": {
            "vocab_size": 30522,
            "hidden_size": 768,
            "num_hidden_layers": 12,
            "num_attention_heads": 12,
            "intermediate_size": 3072,
            "max_position_embeddings": 512,
            "type_vocab_size": 2,
        },
    },
    weights=(
        mmkd.hub(
            "microsoft/BiomedVLP-BioViL-T",
            IMAGE,
            TEXT,
            VOCABULARY,
            revision="692f09e9be1bfe5fdd5f3efdd0e1eca7d2c10b23",
            sha256={
                IMAGE: "b2399d73dc2a68b9f3a1950e864ae0ecd24093fb07aa459d7e65807ebdc0fb77",
                TEXT: "70bed344872e0a4f4dca2352564c44f44cb7a9cfcac3d878be2dd08a5fff9aba",
            },
        ),
    ),
    # Its gray values are stretched, and more than the crop is resized (model.py): ImageSpec has no words for that.
    image=mmkd.ImageSpec(size=448, interpolation="bilinear", convert="before", mean=(0, 0, 0), std=(1, 1, 1)),
    text=mmkd.TextSpec(tokenizer="hf", context_length=512),
    embed_dim=128,
    logit_scale=14.3,  # 1 / 0.07, CLIP's start; its own is not among the published files
    domains=("xray",),
    license=mmkd.LicenseInfo(
        code="MIT", weights="MIT", commercial_use=True, url="https://huggingface.co/microsoft/BiomedVLP-BioViL-T"
    ),
    provenance=mmkd.Provenance(
        paper="Bannur et al. 2023, CVPR, arXiv:2301.04558",
        homepage="https://huggingface.co/microsoft/BiomedVLP-BioViL-T",
        training_data="MIMIC-CXR; its text tower PubMed abstracts and MIMIC-III as well",
    ),
)


@mmkd.hookimpl
def mmkd_teachers() -> list[mmkd.TeacherSpec]:
    """Declare BioViL-T."""
    return [SPEC]


@mmkd.hookimpl
def mmkd_load_teacher(spec: mmkd.TeacherSpec, weights: Mapping[str, Path], device: str) -> mmkd.Teacher | None:
    """Build it: its own code is not run, and no library has its towers."""
    from mmkd_bio_vil_t.model import load

    return load(spec, weights, device)
