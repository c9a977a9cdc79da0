"""A teacher's way in: resolve, agree, install, discover, validate, verify weights, smoke check, lock.

The lock is written last, so any failure leaves it as it was, and what was installed on the way is taken out again; the
message names the step, the teacher and the next command. What was just installed is examined in a fresh interpreter,
because the running one may not see it, and because it may crash, hang or eat memory.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mmkd_core.contract import PLUGIN_API, TeacherSpec, WeightSource
from mmkd_core.errors import MmkdError, PluginError
from mmkd_core.plugins import (
    downloads,
    fresh,
    installer,
    isolated,
    offers,
    packs,
    runtimes,
    unpacking,
    versions,
    weights,
)
from mmkd_core.plugins.consent import Agree, Consent, require_accepted
from mmkd_core.plugins.host import PluginHost
from mmkd_core.plugins.licences import forbids
from mmkd_core.plugins.lock import LockedRuntime, LockedTeacher, change_lock, read_lock
from mmkd_core.plugins.names import canonical
from mmkd_core.plugins.registry import Registry, RegistryEntry, load_registry
from mmkd_core.plugins.sources import CORE, Found, find, is_editable, portable, source_of
from mmkd_core.plugins.undo import undone_on_failure
from mmkd_core.progress import Progress, Silent

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
class _Arrival:
    """What ``add`` found: the specs, who provides them, and whether this interpreter can load them."""

    specs: tuple[TeacherSpec, ...]
    package: str
    version: str
    source: str
    host: PluginHost | None
    """None if it must be examined in a fresh interpreter."""
    sources: dict[str, tuple[WeightSource, ...]] = field(default_factory=dict)
    """Of a pack: teacher to where its weights lie."""


def add(
    target: str,
    lock_path: Path,
    *,
    registry: Registry | None = None,
    host: PluginHost | None = None,
    choices: Choices | None = None,
    progress: Progress | None = None,
) -> list[LockedTeacher]:
    """Make a teacher usable: everything from finding its package to writing it into the lock.

    Args:
        target: an installed teacher, a plugin with several teachers, a pack, or what ``sources`` lists.
        lock_path: the lock to extend.
        registry: by default the one that ``load_registry`` finds.
        host: plugins to use as they are, in this interpreter; by default those that are installed, and whatever is not
            mmkd's own is examined in a fresh interpreter.
        choices: what the user said beside the target.
        progress: hears one line per finished step.

    Returns:
        The teachers that were locked, by name.

    Raises:
        PluginError: names the step that failed; the lock and the environment are as they were.
    """
    progress, choices = progress or Silent(), choices or Choices()
    consent = Consent(choices.agree)
    root = lock_path.absolute().parent
    read_lock(lock_path)
    registry = load_registry() if registry is None else registry
    with ExitStack() as undo:
        arrival = _installed(target, host, registry)
        if arrival is None:
            arrival = _bring(target, root, registry, host, choices, consent, progress, undo)
        names = ", ".join(spec.name for spec in arrival.specs)
        with _step("validate", target):
            for spec in arrival.specs:
                offers.validate(spec, arrival.package, arrival.version, registry.teachers.get(spec.name))
                require_accepted(target, spec.license, choices.accept_license)
        with _step("weights", target):
            found = [(spec, _sources(spec, arrival, choices), _runtime(spec, choices)) for spec in arrival.specs]
            for spec, sources, runtime in found:
                consent.ask(offers.of_weights(target, spec, sources, runtime, root, registry))
            pinned = [_pinned(spec, sources, progress) for spec, sources, _ in found]
            naming_code = _verify_weights(pinned, arrival.host)
            runs = [_with_code(run, target, naming_code[spec.name], consent) for spec, _, run in found]
        locked = [_locked(spec, arrival, run, root, registry) for spec, run in zip(pinned, runs, strict=True)]
        progress.say(f"{names}: weights verified")
        with _step("environment", target):
            _environments(locked, root, undo, progress)
        with _step("smoke check", target):
            scales = _smoke(arrival, locked, root)
        locked = [entry.model_copy(update={"logit_scale": scales[entry.name]}) for entry in locked]
        progress.say(f"{names}: smoke check passed")
        with _step("lock", target):
            change_lock(lock_path, lambda lock: lock.having(*locked))
    return sorted(locked, key=lambda entry: entry.name)


def _installed(target: str, host: PluginHost | None, registry: Registry) -> _Arrival | None:
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
    return _Arrival(specs, record.distribution, record.version, source, here)


def _bring(
    target: str,
    root: Path,
    registry: Registry,
    host: PluginHost | None,
    choices: Choices,
    consent: Consent,
    progress: Progress,
    undo: ExitStack,
) -> _Arrival:
    """Find, show, agree, install and discover; ``undo`` takes it back if anything fails from here on."""
    with _step("resolve", target):
        scratch = Path(undo.enter_context(tempfile.TemporaryDirectory(prefix="mmkd-add-")))
        if target.endswith(packs.SUFFIX):
            pack = undo.enter_context(unpacking.unpacked(Path(target), root))
            found, wheels = Found(pack.package, target, code=False), pack.wheels
            wanted, sources = pack.teachers, pack.sources
        else:
            found, wheels = find(target, registry, host or PluginHost.discover(), scratch), None
            wanted, sources = (found.teacher,) if found.teacher else (), {}
        if is_editable(found.package.name):
            raise PluginError(
                f"package {found.package.name} is installed in place (editable) and is not replaced",
                next="Add its teachers by their names: `mmkd teachers list` shows them",
            )
    if found.entry is not None:
        with _step("resolve", target):
            require_accepted(target, found.entry.license, choices.accept_license)
    with _step("agreement", target):
        consent.ask(offers.of_package(target, found))
    with _step("install", target):
        undo.enter_context(installer.alone())
        undo.enter_context(undone_on_failure(found.package.name))
        _install(found, wheels)
    progress.say(f"{target}: installed {found.package.name}")
    with _step("discover", target):
        told = _freshly("describe", {"package": found.package.name, "listed": _listed(found.entry)})
        specs = tuple(TeacherSpec.model_validate(spec) for spec in told["specs"])
        specs = tuple(spec for spec in specs if not wanted or spec.name in wanted)
        if not specs:
            raise PluginError(f"package {found.package.name} offers no teacher called {' or '.join(wanted) or target}")
    return _Arrival(specs, told["package"], told["version"], told["source"], None, sources)


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


def _sources(spec: TeacherSpec, arrival: _Arrival, choices: Choices) -> list[WeightSource]:
    """Where its weights will come from; of what a repository has now, from the commit that it has now."""
    if choices.weights is not None:
        sources = weights.given(spec, choices.weights)
    else:
        sources = arrival.sources.get(spec.name, spec.weights)
    return [downloads.at_newest_commit(source) for source in sources]


def _runtime(spec: TeacherSpec, choices: Choices) -> LockedRuntime | None:
    if spec.isolation is None:
        return None
    python = str(choices.python.absolute()) if choices.python else None
    return LockedRuntime(python=python, requires=() if python else spec.isolation.requires)


def _pinned(spec: TeacherSpec, sources: list[WeightSource], progress: Progress) -> TeacherSpec:
    """The spec with nothing left open; says so where the plugin left it: what comes first is trusted."""
    if not spec.pinned:
        progress.say(f"{spec.name}: its plugin declares no sha256 for some files; what comes now is trusted and locked")
    return weights.pin(spec, sources)


def _locked(
    spec: TeacherSpec, arrival: _Arrival, runtime: LockedRuntime | None, root: Path, registry: Registry
) -> LockedTeacher:
    """The entry that will be written if all goes well."""
    return LockedTeacher(
        name=spec.name,
        package=arrival.package,
        version=arrival.version,
        source=portable(arrival.source, arrival.package, root, registry.teachers.get(spec.name)),
        fingerprint=spec.fingerprint,
        plugin_api=PLUGIN_API,
        weights=spec.weights,
        license=spec.license,
        license_accepted=bool(forbids(spec.license)),
        runtime=runtime,
    )


def _verify_weights(pinned: list[TeacherSpec], host: PluginHost | None) -> dict[str, list[str]]:
    """Hash every file; returns by teacher the configurations that name code."""
    for spec in pinned:
        weights.fetch(spec)  # here, because the fresh interpreter has no network
    if host is not None:
        return {spec.name: fresh.verified(spec) for spec in pinned}
    told: dict[str, list[str]] = _freshly("verify", [spec.model_dump(mode="json") for spec in pinned])
    return told


def _with_code(
    runtime: LockedRuntime | None, target: str, naming_code: list[str], consent: Consent
) -> LockedRuntime | None:
    """Ask before an isolated teacher may run code that its files name; a shared one is refused when it is loaded."""
    if runtime is None or not naming_code:
        return runtime
    consent.ask(offers.of_remote_code(target, naming_code))
    return runtime.model_copy(update={"remote_code": True})


def _environments(locked: list[LockedTeacher], root: Path, undo: ExitStack, progress: Progress) -> None:
    for entry in locked:
        if entry.runtime is None:
            continue
        wheels = sorted(packs.runtime_wheels(root, entry.name).glob("*.whl"))
        if runtimes.prepare(root, entry.name, entry.runtime, wheels):
            undo.push(_discarding(root, entry.name))
            progress.say(f"{entry.name}: environment made")


def _discarding(root: Path, name: str) -> Any:
    """For ``ExitStack.push``: on failure the environment goes again."""

    def leave(kind: object, *_: object) -> None:
        if kind is not None:
            runtimes.discard(root, name)

    return leave


def _smoke(arrival: _Arrival, locked: list[LockedTeacher], root: Path) -> dict[str, float | None]:
    if arrival.host is not None:
        host = arrival.host
        return {entry.name: fresh.check(host, entry, root) for entry in locked}
    dumped = [entry.model_dump(mode="json") for entry in locked]
    scales: dict[str, float | None] = _freshly("smoke_all", {"teachers": dumped, "root": str(root)})
    return scales


def _freshly(function: str, argument: Any) -> Any:
    name = f"{fresh.__name__}:{function}"
    return isolated.run_isolated(name, argument, time_limit_s=CHECK_LIMIT_S, memory=CHECK_MEMORY)


@contextmanager
def _step(step: str, name: str) -> Iterator[None]:
    """Put the step and the teacher in front of whatever goes wrong inside."""
    try:
        yield
    except MmkdError as error:
        raise PluginError(
            f"{name} was not added, at step {step}: {error.what}",
            where=error.where,
            next=error.next or f"When that is mended, run `mmkd teachers add {name}` again",
        ) from error
