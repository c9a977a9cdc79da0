"""The declaration of a teacher: plain frozen data that can be compared, hashed, written as JSON and read back.

Does not: load anything. What a spec claims is checked when the teacher is added (``mmkd_core.plugins.lifecycle``).
"""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import PurePosixPath, PureWindowsPath
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, JsonValue, StringConstraints, field_validator, model_validator

from mmkd_core.contract.golden import Golden

NAME_PATTERN = r"^[a-z0-9]+(-[a-z0-9]+)*$"

Name = Annotated[str, StringConstraints(pattern=NAME_PATTERN, max_length=64)]
Family = Annotated[str, StringConstraints(pattern=r"^[a-z0-9]+([-_][a-z0-9]+)*$", max_length=64)]
Sha256 = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
Channels = tuple[float, float, float]

_PACKAGE_LOCATION = re.compile(r"^[A-Za-z_]\w*(\.[A-Za-z_]\w*)*(:[\w.-]+(/[\w.-]+)*)?$", re.ASCII)
_HF_LOCATION = re.compile(r"^[\w.-]+/[\w.-]+$", re.ASCII)
_COMMIT = re.compile(r"^[0-9a-f]{40}$")


class _Frozen(BaseModel):
    """Immutable, and a field that nobody declared is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid", defer_build=True, allow_inf_nan=False)


class WeightSource(_Frozen):
    """Where one folder of files comes from, and what each file must hash to."""

    role: Literal["model", "tokenizer", "text_tower"] = Field(description="What the folder is for.")
    kind: Literal["package", "path", "hf"] = Field(description="In a Python package, a local folder, or on the hub.")
    location: str = Field(description="'mmkd_phantom:radio' (package:folder), an absolute folder, or 'org/repository'.")
    revision: str | None = Field(default=None, description="For hf: the commit, 40 hex digits. Otherwise empty.")
    files: dict[str, Sha256] = Field(min_length=1, description="File name, relative to the folder, to its sha256.")

    @field_validator("files")
    @classmethod
    def _stay_inside(cls, files: dict[str, str]) -> dict[str, str]:
        for name in files:
            if not _is_inside(name):
                raise ValueError(f"file name {name!r} must be relative, with forward slashes, and without '..'")
        return files

    @model_validator(mode="after")
    def _location_fits_kind(self) -> WeightSource:
        if self.kind == "hf":
            if not _HF_LOCATION.match(self.location):
                raise ValueError(f"location {self.location!r} must be 'org/repository' for kind hf")
            if self.revision is None or not _COMMIT.match(self.revision):
                raise ValueError(
                    f"revision of {self.location} must be a commit of 40 hex digits, not a branch or a tag"
                )
        elif self.revision is not None:
            raise ValueError(f"revision belongs to kind hf only, not to {self.kind}")
        if self.kind == "package" and not (_PACKAGE_LOCATION.match(self.location) and ".." not in self.location):
            raise ValueError(f"location {self.location!r} must be 'package' or 'package:folder' for kind package")
        if self.kind == "path" and not _is_absolute(self.location):
            raise ValueError(f"location {self.location!r} must be an absolute folder for kind path")
        return self


class ImageSpec(_Frozen):
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


class TextSpec(_Frozen):
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


class TrustClaim(_Frozen):
    """What the authors say about one domain. A claim is never a measurement: reports mark it as unverified."""

    score: float = Field(ge=0, le=1, description="Claimed value of the metric, as a fraction.")
    metric: str = Field(min_length=1, description="e.g. 'zero-shot accuracy' or 'zero-shot AUC'.")
    dataset: str = Field(min_length=1, description="The data set that it was measured on.")
    n: int = Field(ge=1, description="Number of samples behind the score.")
    source: str = Field(min_length=1, description="Paper and table, or the command that measured it.")


class LicenseInfo(_Frozen):
    """Under which terms code and weights may be used."""

    code: str = Field(min_length=1, description="SPDX identifier of the code's licence.")
    weights: str = Field(min_length=1, description="SPDX identifier, or LicenseRef-..., of the weights' licence.")
    commercial_use: bool = Field(description="Whether the weights' licence allows commercial use.")
    gated: bool = Field(default=False, description="Whether the weights need an account that accepted terms.")
    url: str | None = Field(default=None, description="Where the terms are written.")


class Provenance(_Frozen):
    """Where the teacher comes from."""

    paper: str | None = Field(default=None, description="Reference or link of the paper.")
    homepage: str | None = Field(default=None, description="Code or model page.")
    training_data: str | None = Field(default=None, description="What it has seen, to judge leakage.")
    citation: str | None = Field(default=None, description="BibTeX, or how to cite.")


class TeacherSpec(_Frozen):
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
    logit_scale: float = Field(gt=0, description="Multiplies the cosine before softmax; already exponentiated.")
    domains: tuple[Name, ...] = Field(min_length=1, description="Imaging modalities that it was made for.")
    trust: dict[Name, TrustClaim] = Field(default_factory=dict, description="Domain to what the authors claim there.")
    license: LicenseInfo = Field(description="Terms of use.")
    provenance: Provenance = Field(default_factory=Provenance, description="Paper, home, training data.")
    golden: Golden | None = Field(default=None, description="Values that a correct load must reproduce.")

    @model_validator(mode="after")
    def _consistent(self) -> TeacherSpec:
        roles = [source.role for source in self.weights]
        if roles.count("model") != 1 or len(set(roles)) != len(roles):
            raise ValueError(f"weights must hold role model once and no role twice, not {', '.join(roles)}")
        if len(set(self.domains)) != len(self.domains):
            raise ValueError("domains must not repeat")
        strangers = sorted(set(self.trust) - set(self.domains))
        if strangers:
            raise ValueError(f"trust is claimed for {', '.join(strangers)}, which domains does not list")
        return self

    @property
    def fingerprint(self) -> str:
        """Hash (32 hex digits) of everything that changes the teacher's features, and of nothing else.

        A new licence text or summary keeps it, other weights or preprocessing change it. ``logit_scale`` is left out
        because raw features do not depend on it, and locations because the files' hashes say what they hold.
        """
        parts = self.model_dump(mode="json", include={"family", "arch", "image", "text", "embed_dim"})
        parts["weights"] = sorted([source.role, source.revision or "", source.files] for source in self.weights)
        canonical = json.dumps(parts, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False)
        return hashlib.sha256(canonical.encode()).hexdigest()[:32]


def _is_inside(name: str) -> bool:
    path = PurePosixPath(name)
    plain = "\\" not in name and not path.is_absolute() and not PureWindowsPath(name).drive
    return plain and str(path) == name and name != "." and ".." not in path.parts


def _is_absolute(location: str) -> bool:
    return PurePosixPath(location).is_absolute() or PureWindowsPath(location).is_absolute()
