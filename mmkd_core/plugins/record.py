"""What a plugin is before it is asked for anything: an entry point, and the record of what became of it."""

from __future__ import annotations

import importlib.metadata
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from importlib.metadata import EntryPoint
from typing import Literal

from pydantic import ValidationError

from mmkd_core.errors import MmkdError
from mmkd_core.plugins.names import canonical

Status = Literal["loaded", "broken", "incompatible", "disabled"]

_GROUP = re.compile(r"^mmkd\.v(\d+)$")


@dataclass(frozen=True)
class PluginRecord:
    """One entry point and what became of it.

    Args:
        name: the entry point's name.
        distribution: the installed package that declares it; empty for a plugin offered without installation.
        version: the version of that package.
        api: the plugin API that it was written for.
        status: loaded, broken, incompatible (another API; never imported) or disabled (``MMKD_PLUGINS``).
        error: one line; empty when loaded.
        teachers: names of the teachers that it declares; empty unless it could be asked.
    """

    name: str
    distribution: str
    version: str
    api: int
    status: Status
    error: str = ""
    teachers: tuple[str, ...] = ()

    @property
    def provider(self) -> str:
        """How messages name it: plugin, package and version."""
        package = f"{self.distribution} {self.version}".strip()
        return f"{self.name} ({package})" if package else self.name


class Candidate:
    """An entry point of a group ``mmkd.vN``, and the package that declares it."""

    def __init__(self, point: EntryPoint) -> None:
        self.point, self.name = point, point.name
        match = _GROUP.match(point.group)
        assert match is not None
        self.api = int(match[1])
        self.distribution = point.dist.name if point.dist else ""
        self.version = point.dist.version if point.dist else ""

    def load(self) -> object:
        """Import the plugin: runs its code, may raise anything."""
        return self.point.load()

    def record(self, status: Status, error: str = "") -> PluginRecord:
        """The record for what became of it."""
        return PluginRecord(self.name, self.distribution, self.version, self.api, status, error)


@dataclass(frozen=True)
class Given:
    """A plugin that is already an object."""

    plugin: object

    def load(self) -> object:
        """The object."""
        return self.plugin


def describe(error: BaseException) -> str:
    """One line about an exception of a plugin: type and message, or field and message for a wrong spec."""
    if isinstance(error, ValidationError):
        fields = [f"{'.'.join(map(str, e['loc'])) or error.title}: {e['msg']}" for e in error.errors()]
        return f"{error.title} is not valid: " + "; ".join(fields)
    if isinstance(error, MmkdError):
        return str(error).rstrip(".")
    message = " ".join(str(error).split())
    return f"{type(error).__name__}: {message}" if message else type(error).__name__


def installed_points() -> Iterator[EntryPoint]:
    """Entry points of our groups; of a package that is on the path twice, those that Python would import."""
    seen: set[str] = set()
    for distribution in importlib.metadata.distributions():
        points = [point for point in distribution.entry_points if _GROUP.match(point.group)]
        if points and canonical(distribution.name) not in seen:
            seen.add(canonical(distribution.name))
            yield from points


def once(points: Iterable[EntryPoint]) -> Iterator[EntryPoint]:
    """Entry points of our groups; the same plugin from two distributions (bundled and alone) counts once."""
    seen: set[tuple[str, str, str]] = set()
    for point in points:
        key = (point.group, point.name, point.value)
        if _GROUP.match(point.group) and key not in seen:
            seen.add(key)
            yield point


def wanted(environ: Mapping[str, str]) -> set[str] | None:
    """The plugins that ``MMKD_PLUGINS`` names; None if it is unset and all are wanted."""
    value = environ.get("MMKD_PLUGINS")
    return None if value is None else {name.strip() for name in value.split(",") if name.strip()}
