"""How a teacher's package gets here: found among what is installed, or resolved, agreed to, installed and discovered.

What was just installed is examined in a fresh interpreter, because the running one may not see it, and because it may
crash, hang or eat memory. Whatever goes wrong names its step (``step``).

Does not: look at weights, or write the lock (``lifecycle``).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mmkd_core.contract import TeacherSpec, WeightSource
from mmkd_core.errors import MmkdError, PluginError
from mmkd_core.plugins import fresh, installer, isolated, offers, packs, unpacking, versions
from mmkd_core.plugins.consent import Agree, Consent, require_accepted
from mmkd_core.plugins.host import PluginHost
from mmkd_core.plugins.names import canonical
from mmkd_core.plugins.registry import Registry, RegistryEntry
from mmkd_core.plugins.scratch import scratch
from mmkd_core.plugins.sources import CORE, Found, find, is_editable, source_of
from mmkd_core.plugins.undo import undone_on_failure
from mmkd_core.progress import Progress

CHECK_LIMIT_S = 600.0
CHECK_MEMORY: int | None = None
"""Bytes that a smoke check may use; None is most of the machine's."""


@dataclass(frozen=True)
class Choices:
    """What the user said beside the target."""

    weights: Path | None = None
    """Files that are here already."""
    python: Path | None = None
    """A ready interpreter for an isolated teacher."""
    accept_license: bool = False
    agree: Agree | None = None


@dataclass(frozen=True)
class Arrival:
    """What ``add`` found: the specs, who provides them, and whether this interpreter can load them."""

    specs: tuple[TeacherSpec, ...]
    package: str
    version: str
    source: str
    host: PluginHost | None
    """None if it must be examined in a fresh interpreter."""
    sources: dict[str, tuple[WeightSource, ...]] = field(default_factory=dict)
    """Of a pack: teacher to where its weights lie."""


def installed(target: str, host: PluginHost | None, registry: Registry) -> Arrival | None:
    """The teachers that ``target`` names among the installed ones; None if it names none."""
    given, host = host, host or PluginHost.discover()
    specs = tuple(spec for spec in host.specs() if spec.name == target)
    if not specs:
        names = [name for record in host.records() if record.name == target for name in record.teachers]
        specs = tuple(spec for spec in host.specs() if spec.name in names)
    if not specs:
        return None
    record = host.record_of(specs[0].name)
    source = source_of(record.distribution, _listed(registry.teachers.get(specs[0].name)))
    here = given or (host if canonical(record.distribution) == CORE else None)
    return Arrival(specs, record.distribution, record.version, source, here)


def bring(
    target: str,
    lock: Path,
    registry: Registry,
    host: PluginHost | None,
    choices: Choices,
    consent: Consent,
    progress: Progress,
    undo: ExitStack,
) -> Arrival:
    """Find, show, agree, install and discover; ``undo`` takes it back if anything fails from here on."""
    with step("resolve", target):
        work = undo.enter_context(scratch("mmkd-add-"))
        if target.endswith(packs.SUFFIX):
            pack = undo.enter_context(unpacking.unpacked(Path(target), lock.absolute().parent))
            found, wheels = Found(pack.package, target, code=False), pack.wheels
            wanted, sources = pack.teachers, pack.sources
        else:
            found, wheels = find(target, registry, host or PluginHost.discover(), work), None
            wanted, sources = (found.teacher,) if found.teacher else (), {}
        if is_editable(found.package.name):
            raise PluginError(
                f"package {found.package.name} is installed in place (editable) and is not replaced",
                next="Add its teachers by their names: `mmkd teachers list` shows them",
            )
    if found.entry is not None:
        with step("resolve", target):
            require_accepted(target, found.entry.license, choices.accept_license)
    with step("agreement", target):
        consent.ask(offers.of_package(target, found))
    with step("install", target):
        undo.enter_context(installer.alone())
        undo.enter_context(undone_on_failure(found.package.name, lock))
        _install(found, wheels)
    progress.say(f"{target}: installed {found.package.name}")
    with step("discover", target):
        told = freshly("describe", {"package": found.package.name, "listed": _listed(found.entry)})
        specs = tuple(TeacherSpec.model_validate(spec) for spec in told["specs"])
        specs = tuple(spec for spec in specs if not wanted or spec.name in wanted)
        if not specs:
            raise PluginError(f"package {found.package.name} offers no teacher called {' or '.join(wanted) or target}")
    return Arrival(specs, told["package"], told["version"], told["source"], None, sources)


def _install(found: Found, wheels: Path | None) -> None:
    package = found.package
    if versions.installed(package.name) and (
        package.folder or Path(package.target).exists() or "://" in package.target
    ):
        # pip keeps an installed package if a file has the same version, whatever else the file holds
        installer.uninstall(package.name)
    installer.install(package.target, package.requires, wheels, package.folder)


def _listed(entry: RegistryEntry | None) -> str:
    return entry.source.kind if entry else ""


def freshly(function: str, argument: Any) -> Any:
    """What a function of ``fresh`` answers in an interpreter of its own."""
    name = f"{fresh.__name__}:{function}"
    return isolated.run_isolated(name, argument, time_limit_s=CHECK_LIMIT_S, memory=CHECK_MEMORY)


@contextmanager
def step(step: str, name: str) -> Iterator[None]:
    """Put the step and the teacher in front of whatever goes wrong inside."""
    try:
        yield
    except MmkdError as error:
        raise PluginError(
            f"{name} was not added, at step {step}: {error.what}",
            where=error.where,
            next=error.next or f"When that is mended, run `mmkd teachers add {name}` again",
        ) from error
