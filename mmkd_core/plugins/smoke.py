"""Does a teacher do what its spec says? The fast conformance checks, at once and in one sentence.

`mmkd teachers add` runs them before the lock is written, and extraction before a teacher's first feature is stored.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

from mmkd_core.contract import Teacher, TeacherSpec
from mmkd_core.errors import PluginError
from mmkd_core.plugins.conformance import Subject, run_all

if TYPE_CHECKING:
    from mmkd_core.plugins.host import PluginHost


def smoke(spec: TeacherSpec, load: Callable[[], Teacher]) -> Teacher:
    """Load a teacher and run the fast checks; returns it, loaded.

    Raises:
        PluginError: names the teacher, every check that failed, and why; what the teacher raised, if that was one.
    """
    subject = Subject(spec, load)
    if subject.failure is not None:
        raise subject.failure
    failed = [f"{one.name}: {one.reason}" for one in run_all(subject, "fast") if one.status == "failed"]
    if failed:
        raise PluginError(
            f"{spec.name}: smoke check failed at {'; at '.join(failed)}",
            next=f"Mend the plugin, then run `mmkd teachers check {spec.name}`",
        )
    return subject.teacher


def smoke_check(host: PluginHost, spec: TeacherSpec, device: str = "cpu") -> Teacher:
    """``smoke`` of an installed teacher, loaded from where its spec says."""
    return smoke(spec, partial(host.load, spec, device))
