"""What ``add`` shows before it goes on, and whether a plugin is what the registry says it is."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from mmkd_core.contract import TeacherSpec, WeightSource
from mmkd_core.errors import PluginError
from mmkd_core.plugins import downloads, packs, runtimes, versions, weights
from mmkd_core.plugins.consent import Offer
from mmkd_core.plugins.licences import named
from mmkd_core.plugins.limits import in_words
from mmkd_core.plugins.lock import LockedRuntime
from mmkd_core.plugins.names import canonical
from mmkd_core.plugins.registry import Registry, RegistryEntry
from mmkd_core.plugins.sources import Found


def of_package(target: str, found: Found) -> Offer:
    """A package that is about to be installed."""
    facts = [("package", found.package.name), ("source", found.origin)]
    needs = [f"installs {found.package.name} from {found.origin}, whose code runs here with your rights"] * found.code
    entry = found.entry
    if entry is not None:
        facts += [("licence", named(entry.license)), ("status", entry.status)]
        facts += [("gated", "an account that accepted the terms is needed")] * entry.license.gated
        if entry.download:
            facts.append(("download", in_words(entry.download)))
            needs.append(f"downloads {in_words(entry.download)} of weights")
    return Offer(target, tuple(facts), tuple(needs))


def of_weights(
    target: str,
    spec: TeacherSpec,
    sources: Sequence[WeightSource],
    runtime: LockedRuntime | None,
    root: Path,
    registry: Registry,
) -> Offer:
    """Weights and environment of one teacher, as far as they are not here yet.

    Args:
        sources: where its weights will come from.
        runtime: its own environment, if it has one.
    """
    facts: list[tuple[str, str]] = []
    needs = []
    absent = weights.to_fetch(sources)
    if absent:
        entry = registry.teachers.get(spec.name)
        size = entry.download if entry and entry.download else downloads.size(absent)
        words = in_words(size) if size is not None else "an unknown amount"
        facts += [("licence", named(spec.license)), ("download", words)]
        facts += [("weights", ", ".join(source.location for source in absent))]
        facts += [("gated", "an account that accepted the terms is needed")] * spec.license.gated
        needs.append(f"downloads {words} of weights")
    if runtime and not runtime.python and runtime.requires and not runtimes.is_ready(root, spec.name, runtime):
        facts.append(("environment", ", ".join(runtime.requires)))
        if not packs.runtime_wheels(root, spec.name).is_dir():
            needs.append(f"installs {', '.join(runtime.requires)} into an environment of its own")
    return Offer(target, tuple(facts), tuple(needs))


def of_remote_code(target: str, configurations: Sequence[str]) -> Offer:
    """Code that an isolated teacher's files name, for its libraries to run."""
    named = ", ".join(configurations)
    needs = (f"may run code that its files name, in its own environment: {named}",) if configurations else ()
    return Offer(target, tuple(("remote code", one) for one in configurations), needs)


def validate(spec: TeacherSpec, package: str, version: str, entry: RegistryEntry | None) -> None:
    """The registry's stanza, if there is one, must be true.

    Raises:
        PluginError: names what differs, or why the version was withdrawn.
    """
    if entry is None:
        return
    if canonical(package) != canonical(entry.package):
        raise PluginError(f"it comes from {package}, the registry says {entry.package}")
    if version in entry.yanked:
        raise PluginError(f"version {version} of {entry.package} was withdrawn: {entry.yanked[version]}")
    if not versions.satisfies(version, entry.requires):
        raise PluginError(f"{entry.package} {version} is installed, the registry requires {entry.requires}")
    claims: list[tuple[str, object, object]] = [
        ("domains", sorted(spec.domains), sorted(entry.domains)),
        ("licence of the weights", spec.license.weights, entry.license.weights),
        ("commercial use", spec.license.commercial_use, entry.license.commercial_use),
        ("derivatives", spec.license.derivatives, entry.license.derivatives),
        ("gated", spec.license.gated, entry.license.gated),
    ]
    for what, declared, listed in claims:
        if declared != listed:
            raise PluginError(f"its {what}: the plugin says {declared}, the registry says {listed}")
