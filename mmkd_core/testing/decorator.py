"""The decorator that turns conformance checks into parametrised pytest tests."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from types import ModuleType
from typing import Any

from mmkd_core.contract import TeacherSpec
from mmkd_core.errors import PluginError
from mmkd_core.plugins import weights
from mmkd_core.plugins.conformance import Check, Level, Subject, chosen, run
from mmkd_core.plugins.host import PluginHost

Target = str | TeacherSpec | ModuleType


class _Lazy:
    """One teacher that is loaded when its first check runs, and let go after its last."""

    def __init__(self, name: str, find: Callable[[], tuple[PluginHost, TeacherSpec]]) -> None:
        self.name, self._find = name, find
        self._subject: Subject | None = None

    def subject(self) -> Subject:
        if self._subject is None:
            host, declared = self._find()
            spec = weights.pin(declared)  # what its author left open is measured, as adding it would
            self._subject = Subject(spec, partial(host.load, spec))
        return self._subject

    def release(self) -> None:
        self._subject = None


def conformance(
    target: Target, *, level: Level = "standard", expected_failures: Mapping[str, str] | None = None
) -> Callable[[Callable[[], object]], Any]:
    """Replace a test by one test per conformance check; its own body runs after each check that passed.

    Args:
        target: the name of an installed teacher; a plugin's module, all of whose teachers are checked without
            installing it; or a spec of a built-in family.
        level: ``full`` also hashes every file again.
        expected_failures: check to the reason why the teacher must fail it; that it passes is then a failure.

    Raises:
        PluginError: the module is no working plugin, or ``expected_failures`` names an unknown check.
    """
    import pytest

    checks, reasons = chosen(level), dict(expected_failures or {})
    unknown = sorted(set(reasons) - {check.name for check in checks})
    if unknown:
        raise PluginError(
            f"there is no check called {', '.join(unknown)}", next=f"Known are {', '.join(c.name for c in checks)}"
        )
    teachers = _teachers(target)
    cases = [
        pytest.param(
            teacher,
            check,
            id=check.name if len(teachers) == 1 else f"{teacher.name}-{check.name}",
            marks=[pytest.mark.xfail(strict=True, reason=reasons[check.name])] if check.name in reasons else [],
        )
        for teacher in teachers
        for check in checks
    ]

    def decorate(body: Callable[[], object]) -> Any:
        # Not functools.wraps: pytest would follow it to the body's signature, which has no parameters.
        @pytest.mark.parametrize(("teacher", "check"), cases)
        def test(teacher: _Lazy, check: Check) -> None:
            outcome = run(teacher.subject(), check)
            if check is checks[-1]:
                teacher.release()
            if outcome.status == "failed":
                pytest.fail(f"{teacher.name}: {outcome.name}: {outcome.reason}", pytrace=False)
            if outcome.status == "skipped":
                pytest.skip(outcome.reason)
            body()

        test.__name__, test.__qualname__ = body.__name__, body.__qualname__
        test.__doc__, test.__module__ = body.__doc__, body.__module__
        return test

    return decorate


def _teachers(target: Target) -> list[_Lazy]:
    if isinstance(target, str):
        return [_Lazy(target, partial(_installed, target))]
    if isinstance(target, TeacherSpec):
        return [_Lazy(target.name, lambda: (PluginHost.offering({}), target))]
    name = target.__name__.rpartition(".")[2].removeprefix("mmkd_").replace("_", "-")
    host = PluginHost.offering({name: target})
    (record,) = host.records()
    if record.status != "loaded":
        raise PluginError(f"module {target.__name__} is no working plugin: {record.error}")
    return [_Lazy(teacher, partial(_offered, host, teacher)) for teacher in record.teachers]


def _installed(name: str) -> tuple[PluginHost, TeacherSpec]:
    host = PluginHost.discover()
    return host, host.teacher(name)


def _offered(host: PluginHost, name: str) -> tuple[PluginHost, TeacherSpec]:
    return host, host.teacher(name)
