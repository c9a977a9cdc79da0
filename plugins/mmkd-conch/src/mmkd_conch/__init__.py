"""CONCH: a CoCa model for histopathology, with a ViT-B/16, attention pooling, and a tokenizer of its own.

Its captioning branch (text decoder, second pooler) gives no embedding and is left out. The tokenizer is no file of the
hub repository: it comes from the authors' code on GitHub, at a commit.
"""

from collections.abc import Mapping
from pathlib import Path

from mmkd_core import contract as mmkd

HOME = "https://github.com/mahmoodlab/CONCH"
CODE = "https://raw.githubusercontent.com/mahmoodlab/CONCH/e9c9e5b7910d88adf14db77a2108286b7eacc652"
TOKENIZER = "conch_byte_level_bpe_uncased.json"
TOKENIZER_SHA256 = "a3861e67c64d32670eb6725a8e52d7dbdd2a06646a4a3c7463052ae7110760fb"  # measured at that commit
SPEC = mmkd.TeacherSpec(
    name="conch",
    title="CONCH",
    summary="CoCa with a ViT-B/16 on 1.17 million histopathology images with captions",
    family="conch",
    arch={
        "vision": {"patch_size": 16, "embed_dim": 768, "depth": 12, "num_heads": 12},
        "pooler_heads": 8,
        "text": {"vocab_size": 32007, "width": 768, "heads": 12, "layers": 12},
    },
    weights=(
        # The commit is the one that many public projects state; nobody here could look it up on the hub.
        mmkd.hub("MahmoodLab/CONCH", "pytorch_model.bin", revision="f9ca9f877171a28ade80228fb195ac5d79003357"),
        mmkd.WeightSource(
            role="tokenizer",
            kind="url",
            location=f"{CODE}/conch/open_clip_custom/tokenizers/{TOKENIZER}",
            files={TOKENIZER: TOKENIZER_SHA256},
        ),
    ),
    image=mmkd.ImageSpec(size=448, mean=mmkd.CLIP_MEAN, std=mmkd.CLIP_STD),
    text=mmkd.TextSpec(tokenizer="hf", context_length=128),
    embed_dim=512,
    logit_scale=14.3,  # 1 / 0.07, where it starts; the learnt one is read when it is added
    domains=("pathology",),
    license=mmkd.LicenseInfo(
        code="CC-BY-NC-ND-4.0",
        weights="CC-BY-NC-ND-4.0",
        commercial_use=False,
        derivatives=False,
        gated=True,
        url="https://huggingface.co/MahmoodLab/CONCH",
    ),
    provenance=mmkd.Provenance(
        paper="Lu et al. 2024, Nature Medicine 30:863-874, arXiv:2307.12914",
        homepage=HOME,
        training_data="histopathology images and captions from educational sources and PubMed Central",
    ),
)


@mmkd.hookimpl
def mmkd_teachers() -> list[mmkd.TeacherSpec]:
    """Declare CONCH."""
    return [SPEC]


@mmkd.hookimpl
def mmkd_load_teacher(spec: mmkd.TeacherSpec, weights: Mapping[str, Path], device: str) -> mmkd.Teacher | None:
    """Build it: open_clip's CoCa has no trunk of timm under two poolers, and no such text context."""
    from mmkd_conch.model import load

    return load(spec, weights, device)
