"""Finds plugins, keeps the broken ones from harming the others, and loads teachers.

pluggy's own ``load_setuptools_entrypoints`` stops at the first plugin that raises, so the host walks the entry points
itself and guards each one. The rest of mmkd sees this façade and no pluggy.

Does not: install anything (``installer``), decide which teachers are in use (``lock``), import torch.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import replace
from importlib.metadata import EntryPoint
from typing import cast

import pluggy

from mmkd_core.contract import PLUGIN_API, Teacher, TeacherSpec, hookspecs
from mmkd_core.errors import MmkdError, PluginError
from mmkd_core.plugins import loaders, remote_code, weights
from mmkd_core.plugins.names import did_you_mean
from mmkd_core.plugins.observe import watching, within
from mmkd_core.plugins.record import Candidate, Given, PluginRecord, describe, installed_points, once, wanted
from mmkd_core.plugins.registry import Registry, load_registry

IMPORT_LIMIT_S = 30.0
"""How long a plugin may take to be imported and to declare its teachers."""
_BUILT_IN = "mmkd built-in loaders"


class PluginHost:
    """The plugins of this interpreter. Use ``discover``; ``offering`` is for tests and for embedding.

    ``MMKD_PLUGINS`` unset means all plugins, empty means none, a comma list means only those. ``MMKD_STRICT=1`` turns
    a broken plugin into an error instead of a record.
    """

    def __init__(self) -> None:
        self._manager = pluggy.PluginManager("mmkd")
        self._manager.add_hookspecs(hookspecs)
        self._manager.register(loaders, name=_BUILT_IN)
        self._records: list[PluginRecord] = []
        self._specs: dict[str, TeacherSpec] = {}
        self._owner: dict[str, PluginRecord] = {}

    @classmethod
    def discover(
        cls, entry_points: Iterable[EntryPoint] | None = None, environ: Mapping[str, str] | None = None
    ) -> PluginHost:
        """Load the plugins that are installed here.

        Args:
            entry_points: candidates of any group; by default those of all installed distributions.
            environ: where ``MMKD_PLUGINS`` and ``MMKD_STRICT`` are read; by default the process's environment.

        Raises:
            PluginError: a plugin is broken and ``MMKD_STRICT`` is 1.
        """
        environ = os.environ if environ is None else environ
        found = installed_points() if entry_points is None else entry_points
        host = cls()
        candidates = [Candidate(point) for point in once(found)]
        ours = [candidate for candidate in candidates if candidate.api == PLUGIN_API]
        both = {(candidate.name, candidate.distribution) for candidate in ours}
        chosen = wanted(environ)
        names = [candidate.name for candidate in ours]
        for candidate in ours:
            if chosen is not None and candidate.name not in chosen:
                host._records.append(candidate.record("disabled", "left out by MMKD_PLUGINS"))
            elif names.count(candidate.name) > 1:
                rivals = " and ".join(c.record("broken").provider for c in ours if c.name == candidate.name)
                host._records.append(candidate.record("broken", f"entry point {candidate.name} is claimed by {rivals}"))
            else:
                host._admit(candidate.record("loaded"), candidate)
        for candidate in candidates:
            if candidate.api != PLUGIN_API and (candidate.name, candidate.distribution) not in both:
                reason = f"written for plugin API {candidate.api}, this mmkd has {PLUGIN_API}"
                host._records.append(candidate.record("incompatible", reason))
        host._settle(strict=environ.get("MMKD_STRICT") == "1")
        return host

    @classmethod
    def offering(cls, plugins: Mapping[str, object]) -> PluginHost:
        """A host with exactly these plugins (name to module or object), whatever is installed."""
        host = cls()
        for name, plugin in plugins.items():
            host._admit(PluginRecord(name, "", "", PLUGIN_API, "loaded"), Given(plugin))
        host._settle(strict=False)
        return host

    def records(self) -> list[PluginRecord]:
        """All plugins by name, those that do not work included."""
        return sorted(self._records, key=lambda record: (record.name, record.distribution, record.api))

    def specs(self) -> list[TeacherSpec]:
        """All teachers that can be loaded, by name."""
        return [self._specs[name] for name in sorted(self._specs)]

    def teacher(self, name: str, registry: Registry | None = None) -> TeacherSpec:
        """The declaration of one installed teacher.

        Raises:
            PluginError: nobody offers it; says why if its plugin does not work, else which names are near and whether
                the registry (by default the one that ``load_registry`` finds) knows it.
        """
        if name in self._specs:
            return self._specs[name]
        raise self._unknown(name, registry)

    def record_of(self, name: str) -> PluginRecord:
        """The plugin that offers the teacher ``name``; raises like ``teacher``."""
        self.teacher(name)
        return self._owner[name]

    def load(self, spec: TeacherSpec, device: str = "cpu") -> Teacher:
        """Build one teacher after its files were verified.

        Only the plugin that declared this very spec (pinned or not) and the built-in loaders are asked; a spec that no
        plugin declared (an earlier student, for example) goes to the built-in loaders alone.

        Raises:
            PluginError: files missing or changed, a configuration that names code, no loader for the family, or the
                loader failed.
        """
        if spec.runtime == "isolated":
            raise PluginError(
                f"teacher {spec.name} runs in an environment of its own, which `mmkd teachers add {spec.name}` makes",
                next="In Python, load it with mmkd_core.plugins.opening.open_teacher",
            )
        folders = weights.resolve(spec)
        remote_code.refuse(spec, folders)
        owner = self._owner[spec.name].name if self._declares(spec) else None
        call = self._manager.subset_hook_caller("mmkd_load_teacher", self._strangers_to(owner, _BUILT_IN))
        try:
            teacher = call(spec=spec, weights=folders, device=device)
        except MmkdError:
            raise
        except (Exception, SystemExit) as error:
            raise PluginError(
                f"teacher {spec.name} cannot be loaded: {describe(error)}",
                where=self._owner[spec.name].provider if owner else f"family {spec.family}",
                next=f"Run `mmkd teachers add {spec.name} --debug` for the traceback",
            ) from error
        if teacher is None:
            raise PluginError(
                f"no loader knows family {spec.family!r} of teacher {spec.name}",
                next="Built in are open_clip and transformers; other families need mmkd_load_teacher in the plugin",
            )
        return cast(Teacher, teacher)

    def _declares(self, spec: TeacherSpec) -> bool:
        """Whether a plugin declared this spec, apart from what the lock filled in."""
        declared = self._specs.get(spec.name)
        try:
            return declared is not None and declared.resolved(spec.weights) == spec.model_copy(
                update={"logit_scale": declared.logit_scale}
            )
        except ValueError:
            return False

    def _admit(self, record: PluginRecord, source: Candidate | Given) -> None:
        """Import, register and ask one plugin; whatever it raises ends up in its record."""
        try:
            with watching(block=False) as seen, within(IMPORT_LIMIT_S):
                plugin = source.load()
                self._manager.register(plugin, name=record.name)
                self._check_hooks(plugin)
                specs = self._collect(record.name)
            for fault in seen.faults():
                raise PluginError(f"when it is asked for its teachers {fault}")
        except (Exception, SystemExit) as error:
            self._expel(record.name)
            self._records.append(replace(record, status="broken", error=describe(error)))
            return
        names = tuple(spec.name for spec in specs)
        self._records.append(replace(record, teachers=names))
        for spec in specs:
            if spec.name not in self._specs:
                self._specs[spec.name], self._owner[spec.name] = spec, self._records[-1]

    def _check_hooks(self, plugin: object) -> None:
        self._manager.check_pending()  # notices misspelt hooks, which pluggy otherwise accepts in silence
        for caller in self._manager.get_hookcallers(plugin) or []:
            for implementation in caller.get_hookimpls():
                if implementation.plugin is plugin and implementation.kwargnames:
                    # pluggy passes no argument that has a default, so the default would always win
                    arguments = ", ".join(implementation.kwargnames)
                    raise PluginError(f"{caller.name} must not give defaults to its arguments: {arguments}")

    def _collect(self, name: str) -> list[TeacherSpec]:
        answers = self._manager.subset_hook_caller("mmkd_teachers", self._strangers_to(name))()
        if not answers:
            raise PluginError("it has no mmkd_teachers hook marked with @hookimpl")
        specs = list(answers[0])
        for spec in specs:
            if not isinstance(spec, TeacherSpec):
                raise PluginError(f"mmkd_teachers must yield TeacherSpec, not {type(spec).__name__}")
            if spec.name != name and not spec.name.startswith(f"{name}-"):
                raise PluginError(f"teacher {spec.name} must be called {name} or {name}-..., after its entry point")
        names = [spec.name for spec in specs]
        twice = sorted({spec.name for spec in specs if names.count(spec.name) > 1})
        if twice:
            raise PluginError(f"it declares {', '.join(twice)} twice")
        return specs

    def _settle(self, strict: bool) -> None:
        """Break both sides of every name clash, then complain if asked to."""
        claims: dict[str, list[PluginRecord]] = {}
        for record in self._records:
            for name in record.teachers:
                claims.setdefault(name, []).append(record)
        for name, rivals in sorted(claims.items()):
            if len(rivals) > 1:
                providers = " and ".join(record.provider for record in rivals)
                self._break(rivals, f"teacher {name} is declared by {providers}; uninstall one of them")
        for record in self._records:
            if strict and record.status == "broken":
                raise PluginError(
                    f"plugin {record.provider} is broken: {record.error}",
                    next="MMKD_STRICT=1 makes this an error; unset it to go on without this plugin",
                )

    def _break(self, rivals: list[PluginRecord], reason: str) -> None:
        for rival in rivals:
            self._expel(rival.name)
            self._records = [
                replace(record, status="broken", error=record.error or reason, teachers=())
                if (record.name, record.distribution) == (rival.name, rival.distribution)
                else record
                for record in self._records
            ]
            for name in rival.teachers:
                self._specs.pop(name, None)
                self._owner.pop(name, None)

    def _expel(self, name: str) -> None:
        if self._manager.has_plugin(name):
            self._manager.unregister(name=name)

    def _strangers_to(self, *names: str | None) -> list[object]:
        return [plugin for name, plugin in self._manager.list_name_plugin() if plugin is not None and name not in names]

    def _unknown(self, name: str, registry: Registry | None) -> PluginError:
        for record in self.records():
            if record.status != "loaded" and (name == record.name or name.startswith(f"{record.name}-")):
                return PluginError(
                    f"teacher {name} is not available: plugin {record.provider} is {record.status}: {record.error}",
                    next="Run `mmkd teachers list` to see all plugins",
                )
        listed = _listed(registry)
        if name in listed:
            return PluginError(f"teacher {name} is not installed", next=f"Run `mmkd teachers add {name}`")
        guess = did_you_mean(name, [*self._specs, *listed])
        return PluginError(
            f"no teacher is called {name!r}", next=f"{guess}Run `mmkd teachers list` to see all teachers".strip()
        )


def _listed(registry: Registry | None) -> list[str]:
    if registry is not None:
        return list(registry.teachers)
    try:
        return list(load_registry().teachers)
    except PluginError:  # a damaged registry must not hide the error that is being written
        return []
