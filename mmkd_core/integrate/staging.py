"""From a student in memory to a release: evaluated, with all that it was made with beside it, and committed whole."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mmkd_core.audit.gate import GATE, Gate, write_gate
from mmkd_core.data.manifest import Corpus
from mmkd_core.distill.heads import TeacherHead, save_heads
from mmkd_core.errors import ReleaseError
from mmkd_core.integrate import releases
from mmkd_core.integrate.inputs import require_same
from mmkd_core.integrate.releases import Release
from mmkd_core.integrate.stage_one import stage_one_facts
from mmkd_core.integrate.student_data import Pixels, embed, predict
from mmkd_core.integrate.workspace import CONFIG, LOCK, Config, Workspace, read_config, write_json
from mmkd_core.student.checkpoint import forget_checkpoint
from mmkd_core.student.config import PretrainConfig
from mmkd_core.student.model import Student
from mmkd_core.trust import TeacherTrust


@dataclass(frozen=True)
class Background:
    """What a student was made with, and is evaluated on."""

    workspace: Workspace
    corpus: Corpus
    pixels: Pixels
    gate: Gate
    trust: Mapping[str, TeacherTrust]
    parent: Release | None


def commit_student(
    background: Background,
    student: Student,
    heads: dict[str, TeacherHead],
    replayed: Mapping[str, list[str]],
    log: Path,
    facts: dict[str, Any],
) -> Release:
    """Make a release of a student.

    Args:
        replayed: sample ids by ``teacher/domain``.
        log: the ``log.jsonl`` of its training; the release is staged beside it.
        facts: for ``release.json``.
    """
    workspace, corpus, pixels = background.workspace, background.corpus, background.pixels
    staging = log.parent / "staging"
    shutil.rmtree(staging, ignore_errors=True)
    student.save(staging / "student")
    save_heads(heads, staging)
    for name in facts["teachers"]:
        if name in background.trust:
            (staging / "trust").mkdir(exist_ok=True)
            background.trust[name].save(staging / "trust" / f"{name}.npz")
    write_json(staging / "replay.json", replayed)
    embedded = embed(student, corpus, pixels)
    embedded.save(staging / "embeddings.safetensors")
    predict(student, corpus, pixels, embedded=embedded).save(staging / "predictions.parquet")
    write_gate(staging / GATE, background.gate)  # as it was before anybody looked at this candidate
    (staging / CONFIG).write_text(settings_of(workspace, background.parent).dump())
    shutil.copyfile(workspace.lock_file, staging / LOCK)
    shutil.copyfile(log, staging / "log.jsonl")
    made = releases.commit(workspace, staging, facts)
    forget_checkpoint(log.parent)
    return made


def settings_of(workspace: Workspace, parent: Release | None) -> Config:
    """The settings that a release is made with: of stage 1 those that were used then, overrides included."""
    if parent:
        used = read_config(parent.file(CONFIG)).pretrain
    else:
        used = PretrainConfig.model_validate(stage_one_facts(workspace)["pretrain"])
    return workspace.config.model_copy(update={"pretrain": used})


def require_same_student(workspace: Workspace, parent: Release) -> None:
    """Refuse to build on a release whose student is made otherwise than mmkd.yaml says.

    Raises:
        ReleaseError: names the settings that differ.
    """
    was, now = (
        {"student": config.student.model_dump(mode="json", exclude={"start"})}
        for config in (read_config(parent.file(CONFIG)), workspace.config)
    )
    next = "Put mmkd.yaml back; or make a new student with `mmkd pretrain` and `mmkd distill`"
    require_same(was, now, f"release {parent.id}", next, ReleaseError)
