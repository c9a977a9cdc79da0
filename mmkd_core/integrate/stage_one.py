"""Stage 1 on disk: what it was made from, which is compared with what there is, and whether its files are whole.

Imports no torch: the next command depends on it.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from mmkd_core.data.manifest import Corpus
from mmkd_core.errors import ReleaseError
from mmkd_core.files import hashes_of, require, sha256_of
from mmkd_core.integrate.inputs import read_record, require_same, write_record
from mmkd_core.integrate.releases import Release
from mmkd_core.integrate.workspace import Workspace
from mmkd_core.progress import Progress
from mmkd_core.student.config import PretrainConfig

DONE, WEIGHTS = "done.json", "open_clip_model.safetensors"
AGAIN = "Run `mmkd pretrain` to make it again"
BACK = f"{AGAIN}, or put back what changed"


def stage_one(workspace: Workspace) -> Path:
    """Folder of the stage-1 student, which is whole and made from what is there now.

    Raises:
        ReleaseError: it was not trained yet, is damaged, or was made from other data or settings, which are named.
    """
    facts = stage_one_facts(workspace)
    _require_same(workspace, facts["inputs"], workspace.corpus().fingerprint)
    return _whole(workspace.runs / "pretrain" / "student", facts["files"])


def has_stage_one(workspace: Workspace) -> bool:
    """Whether there is a stage 1 of the present settings; the data and its files are not looked at."""
    try:
        was = stage_one_facts(workspace)["inputs"]
        _require_same(workspace, was, was["corpus"])
    except ReleaseError:
        return False
    return True


def _require_same(workspace: Workspace, was: Mapping[str, Any], corpus: str) -> None:
    now = _inputs(workspace, corpus)
    now["start"] = now["start"] or was["start"]  # its weights may be gone after they were used
    require_same(was, now, "stage 1", BACK, ReleaseError)


def stage_one_facts(workspace: Workspace) -> dict[str, Any]:
    """What is kept of the training of stage 1: its inputs, the hashes of its files, ``pretrain`` as it was used.

    Raises:
        ReleaseError: it was not trained yet.
    """
    path = workspace.runs / "pretrain" / DONE
    facts = read_record(path, "stage 1", AGAIN, ReleaseError)
    if facts is None:
        raise ReleaseError(
            "there is no stage-1 student", where=str(path.parent / "student"), next="Run `mmkd pretrain`"
        )
    return facts


def stage_one_of(workspace: Workspace, first: Release) -> Path:
    """Folder of the stage-1 student that a first release was made from, whatever mmkd.yaml says by now.

    Raises:
        ReleaseError: it is damaged, or was trained again since.
    """
    folder = _whole(workspace.runs / "pretrain" / "student", stage_one_facts(workspace)["files"])
    if sha256_of(folder / WEIGHTS) != first.facts.get("inputs", {}).get("start"):
        raise ReleaseError(f"release {first.id} was not made from the stage 1 that is there now", where=str(folder))
    return folder


def pretrained(folder: Path) -> dict[str, Any]:
    """What is kept of the training of a student of ``pretrain --out``; empty for a folder from elsewhere.

    Raises:
        ReleaseError: its files are not those that the training left.
    """
    again = "Run `mmkd pretrain --out` again"
    facts = read_record(run_of(folder) / DONE, f"the student {folder.name}", again, ReleaseError) or {}
    _whole(folder, facts.get("files", {}))
    return facts


def run_of(out: Path) -> Path:
    """The folder of the training of a student that lies at ``out``."""
    return out.parent / f".{out.name}.run"


def _whole(folder: Path, files: Mapping[str, str]) -> Path:
    for name in files:
        require(folder, files, name, "the stage-1 student", AGAIN, ReleaseError)
    return folder


def _inputs(workspace: Workspace, corpus: str) -> dict[str, Any]:
    """What decides stage 1: data (by their fingerprint), settings as mmkd.yaml has them, weights to start from."""
    config, start = workspace.config, {}
    if config.student.start.image or config.student.start.text:
        from mmkd_core.student.start import digests  # which imports torch

        with suppress(ReleaseError):
            start = {tower: found["sha256"] for tower, found in digests(config.student.start, workspace.root).items()}
    return {
        "corpus": corpus,
        "seed": config.seed,
        "student": config.student.model_dump(mode="json", exclude={"start": {"license"}}),
        "pretrain": config.pretrain.model_dump(mode="json"),
        "start": start,
    }


def note_stage_one(
    workspace: Workspace, corpus: Corpus, config: PretrainConfig, run: Path, folder: Path, facts: Mapping[str, Any]
) -> None:
    """Keep what a finished stage 1 was made from, and the hashes of its files."""
    used = {"inputs": _inputs(workspace, corpus.fingerprint), "pretrain": config.model_dump(mode="json")}
    write_record(run / DONE, {**facts, **used, "files": hashes_of(folder)})


def finished(
    workspace: Workspace, corpus: Corpus, run: Path, folder: Path, key: str, progress: Progress
) -> dict[str, Any] | None:
    """Facts of a finished run of the same inputs; none where its files are damaged, which is said."""
    try:
        facts = read_record(run / DONE, "stage 1", AGAIN, ReleaseError)
        if facts is None or facts["identity"] != key:
            return None
        _whole(folder, facts["files"])
        if facts["inputs"] != (
            now := _inputs(workspace, corpus.fingerprint)
        ):  # mmkd.yaml says by now what an option did
            write_record(run / DONE, {**facts, "inputs": now})
    except ReleaseError as error:
        progress.say(f"{error.what}; it is made again")
        return None
    return {name: value for name, value in facts.items() if name not in ("inputs", "pretrain", "files")}
