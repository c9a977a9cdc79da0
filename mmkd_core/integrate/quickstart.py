"""The whole way in one call: data, teachers, features, trust, student, a new teacher, an audit, a report.

Does not: do anything that the other commands cannot. Every step is idempotent, so a run that was killed goes on from
what was finished and ends with the same summary.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from mmkd_core.data.importers import ImportOptions
from mmkd_core.data.manifest import MANIFEST
from mmkd_core.data.phantom.generate import PhantomConfig, generate
from mmkd_core.integrate.extracting import run_extract
from mmkd_core.integrate.importing import import_corpus
from mmkd_core.integrate.measuring import run_audit, zero_shot_of
from mmkd_core.integrate.releases import all_releases, current
from mmkd_core.integrate.specialists import make_specialists
from mmkd_core.integrate.student_data import run_pretrain
from mmkd_core.integrate.summary import write_summary
from mmkd_core.integrate.teaching import locked_names, run_distill, run_incremental, run_trust
from mmkd_core.integrate.workspace import Config, Workspace, read_facts, read_json, write_json
from mmkd_core.plugins.lifecycle import add
from mmkd_core.progress import Progress

FIRST_TEACHERS = ("phantom-radio", "phantom-tissue", "phantom-eye")
NEW_TEACHER = "phantom-sono"
T = TypeVar("T")


def quickstart(
    root: Path,
    config: Config,
    phantom: PhantomConfig | None,
    data: Path | None,
    progress: Progress,
    command: str = "mmkd quickstart",
) -> dict[str, Any]:
    """Run everything in the workspace ``root``; return the facts of ``summary.json``.

    Args:
        config: settings of the workspace.
        phantom: what to generate, or None to use ``data``.
        data: real images: a manifest, a folder with one, or a folder of MedMNIST files.
        command: what the report says to run for the same result.
    """
    workspace = Workspace.create(root, config)
    with workspace.writing():
        clock = Clock(workspace)
        write_json(workspace.state / "reproduce.json", [command])
        target = root / config.data
        if phantom:
            clock.time("data", lambda: generate(target, phantom, workers=os.cpu_count() or 1, progress=progress))
            teachers = {name: name for name in (*FIRST_TEACHERS, NEW_TEACHER)}
        else:
            assert data is not None
            clock.time("data", lambda: imported(workspace, data, progress))
            teachers = clock.time("specialists", lambda: make_specialists(workspace, progress))
        *first, new = teachers
        clock.time("teachers", lambda: add_missing(workspace, teachers, first, progress))
        clock.time("extract", lambda: run_extract(workspace, progress).require())
        clock.time("pretrain", lambda: run_pretrain(workspace, config.pretrain, progress=progress))
        clock.time("trust", lambda: run_trust(workspace, progress))
        # A run that goes on after a kill may find the new teacher locked already: a stage that has its release is over.
        if current(workspace) is None:
            clock.time("distill", lambda: run_distill(workspace, progress))
        clock.time("teachers", lambda: add_missing(workspace, teachers, [new], progress))
        clock.time("extract", lambda: run_extract(workspace, progress).require())
        if not any(found.parent for found in all_releases(workspace)):
            clock.time("integrate", lambda: run_incremental(workspace, progress))
        clock.time(
            "evaluate", lambda: [zero_shot_of(workspace, name) for name in [*locked_names(workspace), "stage-1"]]
        )
        clock.time("audit", lambda: run_audit(workspace))
        write_summary(workspace, progress)
    return read_json(root / "summary.json")  # type: ignore[no-any-return]


def imported(workspace: Workspace, source: Path, progress: Progress) -> None:
    """Import real data once; a corpus that is already there is used."""
    if not (workspace.root / workspace.config.data / MANIFEST).exists():
        import_corpus(workspace, source, ImportOptions(progress=progress))


def add_missing(workspace: Workspace, targets: dict[str, str], names: list[str], progress: Progress) -> None:
    """Add those of ``names`` that are not in use yet; ``targets`` says what to give to ``mmkd teachers add``."""
    here = set(locked_names(workspace))
    for name in names:
        if name not in here:
            add(targets[name], workspace.lock_file, progress=progress)


class Clock:
    """Seconds by step, summed over the runs that it took, in ``.mmkd/seconds.json``."""

    def __init__(self, workspace: Workspace) -> None:
        self.path = workspace.state / "seconds.json"

    def time(self, step: str, work: Callable[[], T]) -> T:
        """Do one step and add its time."""
        start = time.monotonic()
        result = work()
        seconds = read_facts(self.path)
        seconds[step] = round(seconds.get(step, 0.0) + time.monotonic() - start, 2)
        write_json(self.path, seconds)
        return result
