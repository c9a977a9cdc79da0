"""Version ranges and requirements (PEP 440, PEP 508), read by ``packaging`` and answered for this environment."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Iterable, Iterator
from importlib.metadata import Distribution, PackageNotFoundError

from packaging.requirements import InvalidRequirement, Requirement
from packaging.specifiers import InvalidSpecifier, SpecifierSet
from packaging.version import InvalidVersion, Version

from mmkd_core.errors import PluginError
from mmkd_core.plugins.names import canonical


def satisfies(version: str, ranges: str) -> bool:
    """Whether ``version`` lies in ``ranges`` (e.g. ``>=0.1,<1``); a local part, as in 2.13.0+cpu, does not matter.

    Raises:
        PluginError: one of them is not written as PEP 440 wants.
    """
    try:
        return SpecifierSet(ranges).contains(Version(version), prereleases=True)
    except (InvalidSpecifier, InvalidVersion) as error:
        raise PluginError(
            f"{error} (in {version!r} and {ranges!r})", next="Write it as PEP 440 says, e.g. >=0.1"
        ) from None


def installed(requirement: str) -> bool:
    """Whether a requirement (``Requires-Dist``) is surely met in this environment.

    One whose marker does not hold here is met; one with a URL or with extras is left to the installer.
    """
    try:
        wanted = Requirement(requirement)
        if wanted.marker is not None and not wanted.marker.evaluate({"extra": ""}):
            return True
        found = importlib.metadata.version(wanted.name)
    except (InvalidRequirement, PackageNotFoundError):
        return False
    return not wanted.url and not wanted.extras and satisfies(found, str(wanted.specifier))


def closure(packages: Iterable[str], without: Iterable[str] = ()) -> tuple[dict[str, Distribution], list[str]]:
    """Installed distributions that ``packages`` need, themselves included, and what of it is not installed.

    Args:
        packages: names of distributions, or requirements.
        without: canonical names that are left out, and not followed.

    Returns:
        Canonical name to distribution, and the requirements (sorted) that no installed distribution meets.
    """
    found: dict[str, Distribution] = {}
    lacking: set[str] = set()
    without = set(without)
    pending = [Requirement(package) for package in packages]
    seen: set[tuple[str, str]] = set()
    while pending:
        wanted = pending.pop()
        name = canonical(wanted.name)
        if name in without:
            continue
        distribution = found.get(name) or _distribution(name)
        if distribution is None or not wanted.specifier.contains(distribution.version, prereleases=True):
            lacking.add(f"{wanted.name}{wanted.specifier}")
            continue
        found[name] = distribution
        for extra in ("", *wanted.extras):
            if (name, extra) not in seen:
                seen.add((name, extra))
                pending += _needs(distribution, extra)
    return found, sorted(lacking)


def _distribution(name: str) -> Distribution | None:
    try:
        return importlib.metadata.distribution(name)
    except PackageNotFoundError:
        return None


def _needs(distribution: Distribution, extra: str) -> Iterator[Requirement]:
    for line in distribution.requires or ():
        try:
            needed = Requirement(line)
        except InvalidRequirement:
            continue  # of a package that pip has installed nevertheless
        if needed.marker is None or needed.marker.evaluate({"extra": extra}):
            yield needed
