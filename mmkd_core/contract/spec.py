"""The declaration of a teacher: plain frozen data that can be compared, hashed, written as JSON and read back.

Does not: load anything. What a spec claims is checked when the teacher is added (``mmkd_core.plugins.lifecycle``).
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import PurePosixPath, PureWindowsPath
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, JsonValue, StringConstraints, field_validator, model_validator

from mmkd_core.contract.golden import Golden

NAME_PATTERN = r"^[a-z0-9]+(-[a-z0-9]+)*$"

Name = Annotated[str, StringConstraints(pattern=NAME_PATTERN, max_length=64)]
Family = Annotated[str, StringConstraints(pattern=r"^[a-z0-9]+([-_][a-z0-9]+)*$", max_length=64)]
Sha256 = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
Channels = tuple[float, float, float]

CLIP_MEAN: Channels = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD: Channels = (0.26862954, 0.26130258, 0.27577711)
"""Normalisation of OpenAI's CLIP, which most CLIP-like models kept."""

_PACKAGE_LOCATION = re.compile(r"^[A-Za-z_]\w*(\.[A-Za-z_]\w*)*(:[\w.-]+(/[\w.-]+)*)?$", re.ASCII)
_HF_LOCATION = re.compile(r"^[\w.-]+/[\w.-]+$", re.ASCII)
_URL_LOCATION = re.compile(r"^https://[\w.-]+(:\d+)?/[!-~]+$", re.ASCII)
_COMMIT = re.compile(r"^[0-9a-f]{40}$")
_HUB = ("hf", "hf-dataset")
_TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "vocab.txt",
)


class _Frozen(BaseModel):
    """Immutable, and a field that nobody declared is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid", defer_build=True, allow_inf_nan=False)


class WeightSource(_Frozen):
    """Where one folder of files comes from, and what each file must hash to.

    What is downloaded may be declared without commit and hashes where its author could not look them up. Then the first
    download is trusted: ``mmkd teachers add`` writes commit and measured sha256 into ``mmkd.lock``, and every later use
    is held to those. Nothing is loaded from a source that is not pinned in one of the two ways.
    """

    role: Literal["model", "tokenizer", "text_tower"] = Field(description="What the folder is for.")
    kind: Literal["package", "path", "hf", "hf-dataset", "url", "manual"] = Field(
        description="In a Python package, a local folder, a model or data set repository of the hub, a download, or on "
        "a web page from which only a person can download it (`mmkd teachers add NAME --weights PATH`)."
    )
    location: str = Field(
        description="'mmkd_phantom:radio' (package:folder), an absolute folder, 'org/repository', or 'https://...': "
        "a .zip that holds the files, or the one file itself; for manual the page."
    )
    revision: str | None = Field(default=None, description="For the hub: the commit, 40 hex digits. Otherwise empty.")
    files: dict[str, Sha256 | None] = Field(
        min_length=1, description="File name, relative to the folder, to its sha256; null if it is not known yet."
    )
    optional: tuple[str, ...] = Field(
        default=(), description="Further files that are taken if the source has them. Empty once pinned."
    )

    @property
    def pinned(self) -> bool:
        """Whether every file that may be read has a sha256 here."""
        return not self.optional and None not in self.files.values()

    def admits(self, other: WeightSource) -> bool:
        """Whether ``other`` is this source, pinned: no hash or commit of this one is contradicted, no file missing.

        Kind and location may differ: the same bytes may come from a mirror or from the user's disk.
        """
        allowed = {*self.files, *self.optional}
        return (
            self.role == other.role
            and other.pinned
            and set(self.files) <= set(other.files) <= allowed
            and all(digest in (None, other.files[name]) for name, digest in self.files.items())
            and (self.revision is None or other.revision in (None, self.revision))
        )

    @field_validator("files")
    @classmethod
    def _stay_inside(cls, files: dict[str, str | None]) -> dict[str, str | None]:
        for name in files:
            _refuse_outside(name)
        return files

    @field_validator("optional")
    @classmethod
    def _optional_stay_inside(cls, optional: tuple[str, ...]) -> tuple[str, ...]:
        for name in optional:
            _refuse_outside(name)
        return optional

    @model_validator(mode="after")
    def _location_fits_kind(self) -> WeightSource:
        if self.kind in _HUB:
            if not _HF_LOCATION.match(self.location):
                raise ValueError(f"location {self.location!r} must be 'org/repository' for kind {self.kind}")
            if self.revision is not None and not _COMMIT.match(self.revision):
                raise ValueError(
                    f"revision of {self.location} must be a commit of 40 hex digits, not a branch or a tag"
                )
        elif self.revision is not None:
            raise ValueError(f"revision belongs to kind hf and hf-dataset only, not to {self.kind}")
        if self.kind == "package" and not (_PACKAGE_LOCATION.match(self.location) and ".." not in self.location):
            raise ValueError(f"location {self.location!r} must be 'package' or 'package:folder' for kind package")
        if self.kind == "path" and not _is_absolute(self.location):
            raise ValueError(f"location {self.location!r} must be an absolute folder for kind path")
        if self.kind in ("url", "manual") and not _URL_LOCATION.match(self.location):
            raise ValueError(f"location {self.location!r} must begin with https:// for kind {self.kind}")
        if self.kind == "url" and not self.location.endswith(".zip") and len({*self.files, *self.optional}) != 1:
            raise ValueError(f"location {self.location!r} is one file, so files must name exactly one")
        if self.kind in ("package", "path") and not self.pinned:
            raise ValueError(f"files of kind {self.kind} lie here already, so each needs its sha256")
        twice = sorted(set(self.files) & set(self.optional))
        if twice:
            raise ValueError(f"{', '.join(twice)} cannot be both needed and optional")
        return self


def hub(
    location: str,
    *files: str,
    role: Literal["model", "tokenizer", "text_tower"] = "model",
    kind: Literal["hf", "hf-dataset"] = "hf",
    revision: str | None = None,
    sha256: Mapping[str, str] | None = None,
    tokenizer: bool = False,
) -> WeightSource:
    """Files of a hub repository, in one line.

    Args:
        location: 'org/repository'.
        files: names of the files that are needed.
        role: what they are for.
        kind: a model repository or one of data.
        revision: the commit, where it is known.
        sha256: hashes of files, where they are known.
        tokenizer: take whichever of the usual tokenizer files the repository has.
    """
    return WeightSource(
        role=role,
        kind=kind,
        location=location,
        revision=revision,
        files={name: (sha256 or {}).get(name) for name in files},
        optional=tuple(name for name in _TOKENIZER_FILES if name not in files) if tokenizer else (),
    )


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
    derivatives: bool = Field(default=True, description="Whether it allows works derived from them, as students are.")
    gated: bool = Field(default=False, description="Whether the weights need an account that accepted terms.")
    url: str | None = Field(default=None, description="Where the terms are written.")


class Provenance(_Frozen):
    """Where the teacher comes from."""

    paper: str | None = Field(default=None, description="Reference or link of the paper.")
    homepage: str | None = Field(default=None, description="Code or model page.")
    training_data: str | None = Field(default=None, description="What it has seen, to judge leakage.")
    citation: str | None = Field(default=None, description="BibTeX, or how to cite.")


class Isolation(_Frozen):
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


def _refuse_outside(name: str) -> None:
    path = PurePosixPath(name)
    plain = "\\" not in name and not path.is_absolute() and not PureWindowsPath(name).drive
    if not (plain and str(path) == name and name != "." and ".." not in path.parts):
        raise ValueError(f"file name {name!r} must be relative, with forward slashes, and without '..'")


def _is_absolute(location: str) -> bool:
    return PurePosixPath(location).is_absolute() or PureWindowsPath(location).is_absolute()
