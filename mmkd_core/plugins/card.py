"""The capability card of a teacher: what it is, how fast it is here, and what every conformance check says.

The teacher is loaded in a fresh interpreter without a network, so that one that crashes, hangs or fills the memory
takes nothing with it.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from mmkd_core.contract import Golden, Teacher, TeacherSpec, measure_golden
from mmkd_core.errors import PluginError
from mmkd_core.plugins import isolated, weights
from mmkd_core.plugins.conformance import Level, Outcome, Subject, run_all
from mmkd_core.plugins.host import PluginHost
from mmkd_core.plugins.lock import LockedTeacher, as_locked, is_as_locked, read_lock
from mmkd_core.plugins.opening import open_teacher

TIME_LIMIT_S = 900.0
BATCH = 4


class Card(BaseModel):
    """What `mmkd teachers check` shows."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    spec: TeacherSpec = Field(description="What was checked: the locked teacher, or what its plugin declares now.")
    fingerprint: str = Field(description="Features are stored under it.")
    weights_bytes: int | None = Field(description="Size of all declared files; None if they are not all on disk.")
    seconds_per_image: float | None = Field(description="Preprocessing and encoding, in batches of 4, on this CPU.")
    seconds_per_text: float | None = Field(description="Tokenizing and encoding, in batches of 4, on this CPU.")
    threads: int = Field(description="Threads that torch used for it.")
    checks: tuple[Outcome, ...] = Field(description="Every check that was run, in order.")
    golden: Golden | None = Field(description="Measured golden values, to be written into the spec.")

    @property
    def passed(self) -> bool:
        """Whether no check failed."""
        return all(check.status != "failed" for check in self.checks)


def check(name: str, lock_path: Path, *, full: bool = False, host: PluginHost | None = None) -> Card:
    """Run the conformance checks of one installed teacher in a fresh interpreter.

    Args:
        name: an installed teacher; what is missing of its weights is fetched first, and measured where its plugin
            leaves hashes open.
        lock_path: where it may be locked; then it is opened as its entry says, isolated if that is its runtime. An
            entry of another version of the teacher does not count: an author checks before adding again.
        full: also read and hash every file again.

    Raises:
        PluginError: it cannot be checked: unknown, its plugin is broken, its weights are not to be had, or the
            interpreter crashed or took too long.
    """
    return Card.model_validate(in_fresh(f"{__name__}:card_fresh", name, lock_path, full=full, host=host))


def in_fresh(
    function: str, name: str, lock_path: Path, *, host: PluginHost | None = None, **further: Any
) -> dict[str, Any]:
    """Call ``module:function`` in a fresh interpreter with what ``loader`` needs for a teacher, and what else it takes.

    Raises:
        PluginError: as ``check``.
    """
    declared = (host or PluginHost.discover()).teacher(name)
    locked = read_lock(lock_path).teachers.get(name)
    if locked is not None and not is_as_locked(declared, locked):
        locked = None
    if locked is None and declared.runtime == "isolated":
        raise PluginError(
            f"teacher {name} runs in an environment of its own, which is not there yet",
            next=f"Run `mmkd teachers add {name}` first",
        )
    spec = as_locked(declared, locked) if locked else weights.pin(declared)
    weights.fetch(spec)
    request = {
        "spec": spec.model_dump(mode="json"),
        "locked": locked.model_dump(mode="json") if locked else None,
        "root": str(lock_path.absolute().parent),
        **further,
    }
    try:
        answer: dict[str, Any] = isolated.run_isolated(function, request, time_limit_s=TIME_LIMIT_S, network=True)
    except PluginError as error:
        raise PluginError(
            f"teacher {name} cannot be checked: {error.what}",
            where=error.where,
            next=error.next or f"Report it to the plugin's author, or run `mmkd teachers remove {name}`",
        ) from error
    return answer


def card_fresh(request: dict[str, Any]) -> dict[str, Any]:
    """In a fresh interpreter: load, check, measure.

    The checks refuse the network themselves, because they must also notice an attempt that the teacher hides.
    """
    level: Level = "full" if request["full"] else "standard"
    return card_of(*loader(request), level).model_dump(mode="json")


def loader(request: dict[str, Any]) -> tuple[TeacherSpec, Callable[[], Teacher]]:
    """In a fresh interpreter: the teacher that ``in_fresh`` was asked about, and how it is built."""
    os.environ.update(isolated.OFFLINE)
    host = PluginHost.discover(environ={})
    spec = TeacherSpec.model_validate(request["spec"])
    if not request["locked"]:
        return spec, partial(host.load, spec)
    locked = LockedTeacher.model_validate(request["locked"])
    return spec, partial(open_teacher, host, spec, locked, Path(request["root"]))


def card_of(spec: TeacherSpec, load: Callable[[], Teacher], level: Level) -> Card:
    """The card, made in this process."""
    import torch

    subject = Subject(spec, load)
    checks = tuple(run_all(subject, level))
    teacher = None if subject.load_error else subject.teacher
    image = text = golden = None
    if teacher is not None and all(one.status != "failed" for one in checks):
        image = _seconds(
            lambda: teacher.encode_image(torch.stack([teacher.preprocess(subject.images[i % 3]) for i in range(BATCH)]))
        )
        text = _seconds(lambda: teacher.encode_text(teacher.tokenize([subject.texts[i % 3] for i in range(BATCH)])))
        seed, prompt = (spec.golden.seed, spec.golden.prompt) if spec.golden else (0, subject.texts[0])
        golden = measure_golden(teacher, seed, prompt)
    return Card(
        spec=spec,
        fingerprint=spec.fingerprint,
        weights_bytes=_size(spec),
        seconds_per_image=image,
        seconds_per_text=text,
        threads=torch.get_num_threads(),
        checks=checks,
        golden=golden,
    )


def _seconds(work: Callable[[], object]) -> float:
    """Seconds per input; the better of two, because the first may still allocate."""
    found = []
    for _ in range(2):
        start = time.perf_counter()
        work()
        found.append((time.perf_counter() - start) / BATCH)
    return min(found)


def _size(spec: TeacherSpec) -> int | None:
    try:
        folders = weights.resolve(spec)
    except PluginError:
        return None
    return sum((folders[source.role] / name).stat().st_size for source in spec.weights for name in source.files)
