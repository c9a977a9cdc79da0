"""``registry.yaml``: which package provides which teacher. Needed only before installation.

It holds what somebody must know before a package is here: where to get it, its licence, its domains. What the model is
stands once, in the plugin's spec, and must agree with the stanza (checked by ``lifecycle.add``).
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError

import mmkd_core
from mmkd_core import advice
from mmkd_core.contract import NAME_PATTERN, PLUGIN_API
from mmkd_core.errors import PluginError
from mmkd_core.plugins.names import did_you_mean
from mmkd_core.settings import first_fault, read_yaml

SCHEMA_VERSION = 1

Name = Annotated[str, StringConstraints(pattern=NAME_PATTERN)]


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", defer_build=True)


class BundledSource(_Frozen):
    """Comes with mmkd itself."""

    kind: Literal["bundled"]


class PathSource(_Frozen):
    """A plugin folder beside the registry."""

    kind: Literal["path"]
    path: str = Field(min_length=1, description="Folder with a pyproject.toml; relative to the registry file.")


class IndexSource(_Frozen):
    """A package index, e.g. PyPI."""

    kind: Literal["index"]


class GitSource(_Frozen):
    """One commit of a repository."""

    kind: Literal["git"]
    url: str = Field(pattern=r"^https://", description="Repository.")
    commit: str = Field(pattern=r"^[0-9a-f]{40}$", description="Full commit id.")


class WheelSource(_Frozen):
    """One wheel file."""

    kind: Literal["wheel"]
    url: str = Field(pattern=r"^https://.*\.whl$", description="Where the wheel lies.")
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$", description="What it must hash to.")


Source = Annotated[BundledSource | PathSource | IndexSource | GitSource | WheelSource, Field(discriminator="kind")]


class RegistryLicense(_Frozen):
    """What is shown before installation; must equal the spec's."""

    weights: str = Field(min_length=1, description="SPDX identifier, or LicenseRef-..., of the weights' licence.")
    commercial_use: bool | None = Field(
        description="Whether the weights' licence allows commercial use; null where no licence is stated."
    )
    derivatives: bool | None = Field(default=True, description="Whether it allows works derived from the weights.")
    gated: bool = Field(default=False, description="Whether the weights need an account that accepted terms.")
    url: str | None = Field(default=None, pattern=r"^https://", description="Where the terms are written.")


class RegistryEntry(_Frozen):
    """One teacher's stanza."""

    package: str = Field(pattern=r"^[A-Za-z0-9]([A-Za-z0-9._-]*[A-Za-z0-9])?$", description="Distribution.")
    requires: str = Field(default="", description="Tested range of versions, e.g. '>=0.1,<1'.")
    source: Source = Field(description="Where the package comes from.")
    plugin_api: int = Field(default=PLUGIN_API, ge=1, description="The plugin API that it is written for.")
    summary: str = Field(max_length=120, description="One sentence.")
    domains: tuple[Name, ...] = Field(min_length=1, description="Imaging modalities that it was made for.")
    license: RegistryLicense = Field(description="Terms of the weights.")
    status: Literal["verified", "community", "deprecated"] = Field(description="Who vouches for it.")
    download: int | None = Field(default=None, ge=0, description="Bytes of weights to fetch; left out if not known.")
    maintainers: tuple[str, ...] = Field(min_length=1, description="Who answers for the stanza.")
    yanked: dict[str, str] = Field(default_factory=dict, description="Version to the reason not to use it.")


class Registry(_Frozen):
    """The whole file."""

    schema_version: Literal[1] = Field(description="Version of this format.")
    teachers: dict[Name, RegistryEntry] = Field(default_factory=dict, description="Teacher name to its stanza.")

    def lookup(self, name: str) -> RegistryEntry:
        """The stanza of ``name``; raises PluginError with the nearest names."""
        if name in self.teachers:
            return self.teachers[name]
        raise PluginError(
            f"the registry knows no teacher called {name!r}",
            next=f"{did_you_mean(name, self.teachers)}Run `mmkd teachers list` to see all teachers",
        )

    def search(self, words: Iterable[str]) -> dict[str, RegistryEntry]:
        """Stanzas whose name, summary or domains hold every word, whatever its case, by name."""
        texts = {name: " ".join([name, entry.summary, *entry.domains]).lower() for name, entry in self.teachers.items()}
        wanted = [word.lower() for phrase in words for word in phrase.split()]
        return {name: self.teachers[name] for name, text in sorted(texts.items()) if all(w in text for w in wanted)}


def find_registry(path: Path | None = None, environ: Mapping[str, str] | None = None) -> Path:
    """The registry file in force: ``path``, else ``MMKD_REGISTRY``, else ``./registry.yaml``, else the packaged copy.

    The packaged copy lies in ``mmkd_core/first_party``, beside our own plugins; in an editable install both lie one
    directory up.
    """
    environ = os.environ if environ is None else environ
    named = path or (Path(environ["MMKD_REGISTRY"]) if environ.get("MMKD_REGISTRY") else None)
    if named is not None:
        return named
    package = Path(mmkd_core.__file__).parent
    for candidate in (
        Path("registry.yaml"),
        package / "first_party" / "registry.yaml",
        package.parent / "registry.yaml",
    ):
        if candidate.is_file():
            return candidate
    raise PluginError("there is no registry.yaml", next="Name one with MMKD_REGISTRY")


def load_registry(path: Path | None = None, environ: Mapping[str, str] | None = None) -> Registry:
    """Read and validate the registry in force; folders of path sources come back absolute.

    Raises:
        PluginError: no such file, no YAML, a name twice, a newer format, or a field that is wrong (named).
    """
    file = find_registry(path, environ)
    try:
        raw = read_yaml(file, "", PluginError)
    except FileNotFoundError as error:
        raise PluginError("the registry cannot be read: there is no such file", where=str(file)) from error
    version = raw.get("schema_version") if isinstance(raw, dict) else None
    if isinstance(version, int) and version > SCHEMA_VERSION:
        raise PluginError(
            f"the registry has format {version}, this mmkd reads {SCHEMA_VERSION}",
            where=str(file),
            next=advice.NEWER,
        )
    try:
        registry = Registry.model_validate(raw)
    except ValidationError as error:
        key, what = first_fault(error)
        raise PluginError(f"the registry is not valid at {key or 'the top'}: {what}", where=str(file)) from None
    return _with_absolute_paths(registry, file.resolve().parent)


def _with_absolute_paths(registry: Registry, folder: Path) -> Registry:
    teachers = {
        name: entry.model_copy(update={"source": PathSource(kind="path", path=str(folder / entry.source.path))})
        if isinstance(entry.source, PathSource)
        else entry
        for name, entry in registry.teachers.items()
    }
    return registry.model_copy(update={"teachers": teachers})
