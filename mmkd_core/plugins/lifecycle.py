"""A teacher's way in: resolve, agree, install, discover, validate, verify weights, smoke check, lock.

The lock is written last, so any failure leaves it as it was, and what was installed on the way is taken out again; the
message names the step, the teacher and the next command. What a process that was killed has left is taken out by the
next one.
"""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from typing import Any

from mmkd_core.contract import PLUGIN_API, TeacherSpec, WeightSource
from mmkd_core.plugins import downloads, fresh, offers, packs, runtimes, weights
from mmkd_core.plugins.arrival import Arrival, Choices, bring, freshly, installed, step
from mmkd_core.plugins.consent import Consent, require_accepted
from mmkd_core.plugins.host import PluginHost
from mmkd_core.plugins.licences import needs_consent
from mmkd_core.plugins.lock import LockedRuntime, LockedTeacher, change_lock, read_lock
from mmkd_core.plugins.registry import Registry, load_registry
from mmkd_core.plugins.sources import portable
from mmkd_core.plugins.undo import take_back_unfinished
from mmkd_core.progress import Progress, Silent

__all__ = ["Choices", "add"]


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
    take_back_unfinished(progress)
    registry = load_registry() if registry is None else registry
    with ExitStack() as undo:
        arrival = installed(target, host, registry)
        if arrival is None:
            arrival = bring(target, lock_path, registry, host, choices, consent, progress, undo)
        names = ", ".join(spec.name for spec in arrival.specs)
        with step("validate", target):
            for spec in arrival.specs:
                offers.validate(spec, arrival.package, arrival.version, registry.teachers.get(spec.name))
                require_accepted(target, spec.license, choices.accept_license)
        with step("weights", target):
            found = [(spec, _sources(spec, arrival, choices), _runtime(spec, choices)) for spec in arrival.specs]
            for spec, sources, runtime in found:
                consent.ask(offers.of_weights(target, spec, sources, runtime, root, registry))
            pinned = [_pinned(spec, sources, progress) for spec, sources, _ in found]
            naming_code = _verify_weights(pinned, arrival.host)
            runs = [_with_code(run, target, naming_code[spec.name], consent) for spec, _, run in found]
        locked = [_locked(spec, arrival, run, root, registry) for spec, run in zip(pinned, runs, strict=True)]
        progress.say(f"{names}: weights verified")
        with step("environment", target):
            _environments(locked, root, undo, progress)
        with step("smoke check", target):
            tried = _smoke(arrival, locked, root)
        locked = [entry.model_copy(update={"logit_scale": tried[entry.name].logit_scale}) for entry in locked]
        progress.say(f"{names}: smoke check passed")
        for name, one in tried.items():
            for difference in one.differences:
                progress.say(f"{name}: {difference}; its features follow the spec (`mmkd teachers check {name}`)")
        with step("lock", target):
            change_lock(lock_path, lambda lock: lock.having(*locked))
    return sorted(locked, key=lambda entry: entry.name)


def _sources(spec: TeacherSpec, arrival: Arrival, choices: Choices) -> list[WeightSource]:
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
    spec: TeacherSpec, arrival: Arrival, runtime: LockedRuntime | None, root: Path, registry: Registry
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
        license_accepted=needs_consent(spec.license),
        runtime=runtime,
    )


def _verify_weights(pinned: list[TeacherSpec], host: PluginHost | None) -> dict[str, list[str]]:
    """Hash every file; returns by teacher the configurations that name code."""
    for spec in pinned:
        weights.fetch(spec)  # here, because the fresh interpreter has no network
    if host is not None:
        return {spec.name: fresh.verified(spec) for spec in pinned}
    told: dict[str, list[str]] = freshly("verify", [spec.model_dump(mode="json") for spec in pinned])
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


def _smoke(arrival: Arrival, locked: list[LockedTeacher], root: Path) -> dict[str, fresh.Tried]:
    if arrival.host is not None:
        host = arrival.host
        return {entry.name: fresh.check(host, entry, root) for entry in locked}
    dumped = [entry.model_dump(mode="json") for entry in locked]
    told: dict[str, Any] = freshly("smoke_all", {"teachers": dumped, "root": str(root)})
    return {name: fresh.Tried.model_validate(one) for name, one in told.items()}
