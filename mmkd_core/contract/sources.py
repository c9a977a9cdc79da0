"""Where a teacher's files come from, and what they must hash to."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import PurePosixPath, PureWindowsPath
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, field_validator, model_validator

Sha256 = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]

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
_PREPROCESSOR = "preprocessor_config.json"


class Frozen(BaseModel):
    """Immutable, and a field that nobody declared is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid", defer_build=True, allow_inf_nan=False)


class WeightSource(Frozen):
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
        tokenizer: take whichever of the usual tokenizer files the repository has and, for a model, the configuration of
            its image processor, with which `mmkd teachers check` compares the spec.
    """
    usual = (*_TOKENIZER_FILES, _PREPROCESSOR) if role == "model" else _TOKENIZER_FILES
    return WeightSource(
        role=role,
        kind=kind,
        location=location,
        revision=revision,
        files={name: (sha256 or {}).get(name) for name in files},
        optional=tuple(name for name in usual if name not in files) if tokenizer else (),
    )


def _refuse_outside(name: str) -> None:
    path = PurePosixPath(name)
    plain = "\\" not in name and not path.is_absolute() and not PureWindowsPath(name).drive
    if not (plain and str(path) == name and name != "." and ".." not in path.parts):
        raise ValueError(f"file name {name!r} must be relative, with forward slashes, and without '..'")


def _is_absolute(location: str) -> bool:
    return PurePosixPath(location).is_absolute() or PureWindowsPath(location).is_absolute()
