"""The declaration of a teacher: plain frozen data that can be compared, hashed, written as JSON and read back.

Does not: load anything. What a spec claims is checked when the teacher is added (``mmkd_core.plugins.lifecycle``).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from typing import Annotated, Literal

from pydantic import Field, JsonValue, StringConstraints, field_validator, model_validator

from mmkd_core.contract.golden import Golden
from mmkd_core.contract.sources import Frozen, WeightSource

NAME_PATTERN = r"^[a-z0-9]+(-[a-z0-9]+)*$"

Name = Annotated[str, StringConstraints(pattern=NAME_PATTERN, max_length=64)]
Family = Annotated[str, StringConstraints(pattern=r"^[a-z0-9]+([-_][a-z0-9]+)*$", max_length=64)]
Channels = tuple[float, float, float]

CLIP_MEAN: Channels = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD: Channels = (0.26862954, 0.26130258, 0.27577711)
"""Normalisation of OpenAI's CLIP, which most CLIP-like models kept."""


class ImageSpec(Frozen):
    """How an image becomes a tensor. Every field changes numbers, hence all are in the fingerprint."""

    size: int = Field(ge=1, le=4096, description="Height and width of the model's input, in pixels.")
    resize: Literal["shortest", "longest", "squash"] = Field(
        default="shortest",
        description="Shortest side to size and centre crop; longest side to size and pad; or squash to a square.",
    )
    interpolation: Literal["bicubic", "bilinear"] = Field(
        default="bicubic", description="Pillow's filter, antialiased."
    )
    convert: Literal["before", "after"] = Field(
        default="after", description="Conversion to RGB before or after resizing (open_clip: after)."
    )
    mean: Channels = Field(description="Subtracted from channels scaled to 0..1.")
    std: Channels = Field(description="Divides after the mean was subtracted.")

    @field_validator("std")
    @classmethod
    def _positive(cls, std: Channels) -> Channels:
        if min(std) <= 0:
            raise ValueError("std must be positive in each channel")
        return std


class TextSpec(Frozen):
    """How a text becomes tokens."""

    tokenizer: Literal["open_clip", "hf"] = Field(
        description="open_clip: CLIP's own byte-pair encoding. hf: tokenizer.json in the weights folder."
    )
    context_length: int = Field(ge=2, le=8192, description="Tokens per text; shorter are padded, longer cut.")
    template: str | None = Field(default=None, description="Prompt for a bare class name, with one {} in it.")

    @field_validator("template")
    @classmethod
    def _one_slot(cls, template: str | None) -> str | None:
        if template is not None and template.count("{}") != 1:
            raise ValueError(f"template {template!r} must contain {{}} exactly once")
        return template


class TrustClaim(Frozen):
    """What the authors say about one domain. A claim is never a measurement: reports mark it as unverified."""

    score: float = Field(ge=0, le=1, description="Claimed value of the metric, as a fraction.")
    metric: str = Field(min_length=1, description="e.g. 'zero-shot accuracy' or 'zero-shot AUC'.")
    dataset: str = Field(min_length=1, description="The data set that it was measured on.")
    n: int = Field(ge=1, description="Number of samples behind the score.")
    source: str = Field(min_length=1, description="Paper and table, or the command that measured it.")


class LicenseInfo(Frozen):
    """Under which terms code and weights may be used."""

    code: str = Field(min_length=1, description="SPDX identifier of the code's licence.")
    weights: str = Field(min_length=1, description="SPDX identifier, or LicenseRef-..., of the weights' licence.")
    commercial_use: bool | None = Field(
        description="Whether the weights' licence allows commercial use; null where no licence is stated."
    )
    derivatives: bool | None = Field(
        default=True, description="Whether it allows works derived from them, as students are; null as above."
    )
    gated: bool = Field(default=False, description="Whether the weights need an account that accepted terms.")
    url: str | None = Field(default=None, description="Where the terms are written.")


class Provenance(Frozen):
    """Where the teacher comes from."""

    paper: str | None = Field(default=None, description="Reference or link of the paper.")
    homepage: str | None = Field(default=None, description="Code or model page.")
    training_data: str | None = Field(default=None, description="What it has seen, to judge leakage.")
    images: tuple[str, ...] = Field(
        default=(),
        description="Ids of some images that it was made from: on training images of such data, trust is not measured.",
    )
    citation: str | None = Field(default=None, description="BibTeX, or how to cite.")


class Isolation(Frozen):
    """What a teacher needs that runs in an environment of its own (``runtime="isolated"``).

    There a function of the plugin is called as ``load(spec, weights, device)`` with plain dictionaries. It answers
    with an object that has ``preprocess(pixels)``, ``tokenize(texts)``, ``encode_image(images)`` and
    ``encode_text(tokens)``, which take and give arrays. That environment has what ``requires`` names, and neither mmkd
    nor its libraries.
    """

    worker: str = Field(
        pattern=r"^[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*$",
        description="'mmkd_my_clip.worker:load' (module:function).",
    )
    requires: tuple[str, ...] = Field(default=(), description="What is installed there, e.g. 'torch==1.13.1'.")


class TeacherSpec(Frozen):
    """One teacher, declared. See ``fingerprint`` for which fields change its features."""

    name: Name = Field(description="The one name: registry key, command line argument, e.g. 'quilt-net'.")
    title: str = Field(min_length=1, description="Name for people, e.g. 'QuiltNet ViT-B/32'.")
    summary: str = Field(max_length=120, description="One sentence.")
    family: Family = Field(description="Which loader builds it: open_clip, transformers, or the plugin's own.")
    arch: dict[str, JsonValue] = Field(default_factory=dict, description="What the family's loader needs to know.")
    weights: tuple[WeightSource, ...] = Field(min_length=1, description="At most one source per role; model is needed.")
    image: ImageSpec = Field(description="How an image becomes a tensor.")
    text: TextSpec = Field(description="How a text becomes tokens.")
    embed_dim: int = Field(ge=1, description="Length D of both embeddings.")
    logit_scale: float = Field(
        gt=0,
        description="Multiplies the cosine before softmax; already exponentiated. Where the loaded model tells "
        "another, mmkd.lock keeps that.",
    )
    domains: tuple[Name, ...] = Field(min_length=1, description="Imaging modalities that it was made for.")
    trust: dict[Name, TrustClaim] = Field(default_factory=dict, description="Domain to what the authors claim there.")
    license: LicenseInfo = Field(description="Terms of use.")
    provenance: Provenance = Field(default_factory=Provenance, description="Paper, home, training data.")
    golden: Golden | None = Field(default=None, description="Values that a correct load must reproduce.")
    runtime: Literal["shared", "isolated"] = Field(
        default="shared",
        description="In mmkd's own environment, or, if its libraries exclude mmkd's, in one of its own.",
    )
    isolation: Isolation | None = Field(default=None, description="For runtime isolated: worker and requirements.")

    @model_validator(mode="after")
    def _consistent(self) -> TeacherSpec:
        roles = [source.role for source in self.weights]
        if roles.count("model") != 1 or len(set(roles)) != len(roles):
            raise ValueError(f"weights must hold role model once and no role twice, not {', '.join(roles)}")
        if (self.runtime == "isolated") != (self.isolation is not None):
            raise ValueError("isolation belongs to runtime isolated, and runtime isolated needs it")
        if len(set(self.domains)) != len(self.domains):
            raise ValueError("domains must not repeat")
        strangers = sorted(set(self.trust) - set(self.domains))
        if strangers:
            raise ValueError(f"trust is claimed for {', '.join(strangers)}, which domains does not list")
        return self

    @property
    def pinned(self) -> bool:
        """Whether every file that its loader may read has a sha256. Only a pinned spec is ever loaded."""
        return all(source.pinned for source in self.weights)

    def resolved(self, weights: Sequence[WeightSource]) -> TeacherSpec:
        """This spec with the pinned sources that ``mmkd.lock`` holds for it, or that were just measured.

        Raises:
            ValueError: they are not sources of this spec: other roles, other files, or a hash or commit that the spec
                declares differently.
        """
        found = {source.role: source for source in weights}
        if len(found) != len(weights) or set(found) != {source.role for source in self.weights}:
            raise ValueError("the roles of its weights are not those of the spec")
        for source in self.weights:
            if not source.admits(found[source.role]):
                raise ValueError(f"its {source.role} weights are not those that the spec declares")
        return self.model_copy(update={"weights": tuple(found[source.role] for source in self.weights)})

    @property
    def fingerprint(self) -> str:
        """Hash (32 hex digits) of everything that changes the teacher's features, and of nothing else.

        A new licence text or summary keeps it, other weights or preprocessing change it. ``logit_scale`` is left out
        because raw features do not depend on it, and locations and commits because the files' hashes say it all.
        Of a spec that is not ``pinned`` it names the declaration only; features are stored under the resolved one's.
        """
        parts = self.model_dump(mode="json", include={"family", "arch", "image", "text", "embed_dim"})
        parts["weights"] = sorted(
            [source.role, source.files, *([sorted(source.optional)] if source.optional else [])]
            for source in self.weights
        )
        canonical = json.dumps(parts, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False)
        return hashlib.sha256(canonical.encode()).hexdigest()[:32]
