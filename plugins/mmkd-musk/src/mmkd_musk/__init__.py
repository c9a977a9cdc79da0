"""MUSK: a BEiT-3 of the large size for pathology, masked and then contrasted.

Its package holds a copy of torchscale, which pins a timm of 2023; the towers here are plain torch. The tokenizer is no
file of the hub repository: it comes from the authors' code on GitHub, at a commit.
"""

from collections.abc import Mapping
from pathlib import Path

from mmkd_core import contract as mmkd

HOME = "https://github.com/lilab-stanford/MUSK"
CODE = "https://raw.githubusercontent.com/lilab-stanford/MUSK/e1699c27687f44bbf6d4adfcbb2abe89795d347f"
TOKENIZER_SHA256 = "6f5e2fefcf793761a76a6bfb8ad35489f9c203b25557673284b6d032f41043f4"  # measured at that commit
SPEC = mmkd.TeacherSpec(
    name="musk",
    title="MUSK",
    summary="BEiT-3 large on 50 million pathology images, a billion words, and a million pairs of both",
    family="musk",
    arch={
        "width": 1024,
        "heads": 16,
        "layers": 24,
        "hidden": 4096,
        "patch": 16,
        "words": 64010,
        "text_positions": 1024,
    },
    weights=(
        mmkd.hub("xiangjx/musk", "model.safetensors"),
        mmkd.WeightSource(
            role="tokenizer",
            kind="url",
            location=f"{CODE}/musk/models/tokenizer.spm",
            files={"tokenizer.spm": TOKENIZER_SHA256},
        ),
    ),
    image=mmkd.ImageSpec(size=384, convert="before", mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5)),
    text=mmkd.TextSpec(tokenizer="hf", context_length=100),
    embed_dim=1024,
    logit_scale=14.3,  # 1 / 0.07, where it starts; the learnt one is read when it is added
    domains=("pathology",),
    license=mmkd.LicenseInfo(
        code="CC-BY-NC-ND-4.0",
        weights="CC-BY-NC-ND-4.0",
        commercial_use=False,
        derivatives=False,
        gated=True,
        url="https://huggingface.co/xiangjx/musk",
    ),
    provenance=mmkd.Provenance(
        paper="Xiang et al. 2025, Nature 638:769-778",
        homepage=HOME,
        training_data="pathology images and texts, unpaired; pairs of Quilt-1M and PathAsst",
    ),
)


@mmkd.hookimpl
def mmkd_teachers() -> list[mmkd.TeacherSpec]:
    """Declare MUSK."""
    return [SPEC]


@mmkd.hookimpl
def mmkd_load_teacher(spec: mmkd.TeacherSpec, weights: Mapping[str, Path], device: str) -> mmkd.Teacher | None:
    """Build it: neither open_clip nor transformers has a BEiT-3."""
    from mmkd_musk.model import load

    return load(spec, weights, device)
