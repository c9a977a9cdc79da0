"""A whole teacher plugin: a declaration and no loading code, because the weights are an open_clip folder."""

import json
from pathlib import Path

from mmkd_core.contract import ImageSpec, LicenseInfo, Provenance, TeacherSpec, TextSpec, WeightSource, hookimpl

# File name to sha256. It is a file only because run.py makes the weights; in a plugin of yours, paste the hashes here.
HASHES = json.loads((Path(__file__).parent / "sha256.json").read_text())

SPEC = TeacherSpec(
    name="tiny-clip",
    title="Tiny CLIP",
    summary="An untrained CLIP of 32 pixels, to show what a plugin is made of",
    family="open_clip",
    weights=(WeightSource(role="model", kind="package", location="mmkd_tiny_clip:weights", files=HASHES),),
    image=ImageSpec(
        size=32,
        resize="squash",
        mean=(0.48145466, 0.4578275, 0.40821073),
        std=(0.26862954, 0.26130258, 0.27577711),
    ),
    text=TextSpec(tokenizer="hf", context_length=12),
    embed_dim=16,
    logit_scale=14.3,
    domains=("xray",),
    license=LicenseInfo(code="Apache-2.0", weights="Apache-2.0", commercial_use=True),
    provenance=Provenance(training_data="none: random weights"),
)


@hookimpl
def mmkd_teachers() -> list[TeacherSpec]:
    """Declare the teacher. Must be quick: no torch, no weights, no network."""
    return [SPEC]
