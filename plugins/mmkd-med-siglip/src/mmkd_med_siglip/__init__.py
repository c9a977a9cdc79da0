"""MedSigLIP: a SiglipModel of transformers, whose built-in loader builds it; only the tokenizer is read here.

It learnt with a sigmoid for each pair, ``sigmoid(scale * cosine + bias)``. Trust asks a teacher with a
softmax over texts for one image, which does not change when all get one number more: only the scale matters.
"""

from collections.abc import Mapping
from pathlib import Path

from mmkd_core import contract as mmkd

SPEC = mmkd.TeacherSpec(
    name="med-siglip",
    title="MedSigLIP-448",
    summary="SO400M/14 by Google on radiographs, slices of CT and MRI, slides, skin and eyes with texts",
    family="med-siglip",
    weights=(
        mmkd.hub(
            "google/medsiglip-448",
            *("config.json", "model.safetensors", "spiece.model"),
            revision="9cea28a1a1195f665105faa6e8544c112fd960a4",  # as many public projects state it
            tokenizer=True,
        ),
    ),
    image=mmkd.ImageSpec(size=448, resize="squash", convert="before", mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5)),
    text=mmkd.TextSpec(tokenizer="hf", context_length=64),
    embed_dim=1152,
    logit_scale=10.0,  # where SigLIP starts; the learnt one is read when it is added
    domains=("xray", "ct", "mri", "pathology", "dermatology", "fundus"),
    license=mmkd.LicenseInfo(
        code="Apache-2.0",
        weights="LicenseRef-HAI-DEF",
        commercial_use=False,
        gated=True,
        url="https://developers.google.com/health-ai-developer-foundations/terms",
    ),
    provenance=mmkd.Provenance(
        paper="Sellergren et al. 2025, MedGemma Technical Report, arXiv:2507.05201",
        homepage="https://huggingface.co/google/medsiglip-448",
        training_data="de-identified medical images with reports or descriptions, and images of the web",
    ),
)


@mmkd.hookimpl
def mmkd_teachers() -> list[mmkd.TeacherSpec]:
    """Declare MedSigLIP."""
    return [SPEC]


@mmkd.hookimpl
def mmkd_load_teacher(spec: mmkd.TeacherSpec, weights: Mapping[str, Path], device: str) -> mmkd.Teacher | None:
    """Build it with the built-in loader and SigLIP's tokenizer."""
    from mmkd_med_siglip.model import load

    return load(spec, weights, device)
