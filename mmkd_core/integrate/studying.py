"""Studies: each cell and seed is a workspace of its own below ``.mmkd/studies``, so that each can be looked into.

    .mmkd/studies/losses/seed-0/stage-1/     shared by the cells of a seed
    .mmkd/studies/losses/seed-0/fd/          mmkd.yaml, releases/, ...
    .mmkd/studies/losses/study.json          its runs: those that are finished, and which were asked for last
    .mmkd/studies/losses/study.md, study.svg

A cell reads the features of the base workspace and writes none there. A run that is finished is not run again; one
that was killed goes on from its checkpoint. Runs share the cores, one thread each.
"""

from __future__ import annotations

import multiprocessing
import os
import shutil
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mmkd_core.evaluate.predictions import Predictions
from mmkd_core.evaluate.zero_shot import class_texts
from mmkd_core.integrate import releases
from mmkd_core.integrate.features import weights_digest
from mmkd_core.integrate.stage_one import has_stage_one, note_stage_one
from mmkd_core.integrate.student_data import run_pretrain
from mmkd_core.integrate.teaching import run_distill, run_incremental
from mmkd_core.integrate.workspace import CONFIG, Config, Workspace, identity, read_facts, write_json
from mmkd_core.plugins import read_lock, write_lock
from mmkd_core.progress import Progress, Silent
from mmkd_core.report.study_page import changes_plot, write_study
from mmkd_core.report.svg import standalone
from mmkd_core.student.model import Student
from mmkd_core.study.cells import STUDIES, Cell, Given, Study, StudyError
from mmkd_core.study.findings import Row, Run, in_words, markdown, rows
from mmkd_core.trust import TeacherTrust

SCHEMA, STUDY = "mmkd.study/v1", "study.json"


@dataclass(frozen=True)
class Studied:
    """A finished study: what it is called here, its table, its paragraph and its files."""

    study: Study
    name: str
    table: list[Row]
    words: str
    files: list[Path]


def run_study(
    workspace: Workspace, name: str, seeds: Sequence[int], holdout: str | None = None, progress: Progress | None = None
) -> Studied:
    """Run the cells of a study that are not finished, and say what they found.

    Raises:
        StudyError: no such study, or it cannot be made of the teachers and domains that are there.
    """
    if name not in STUDIES:
        raise StudyError(f"there is no study {name!r}", next=f"There are {', '.join(STUDIES)}")
    study, cells, folder = STUDIES[name], _cells(workspace, name, holdout), _folder(workspace, name, holdout)
    inputs = _inputs(workspace)
    facts = {
        "schema": SCHEMA,
        "name": folder.name,
        "question": study.question,
        "cells": {cell.name: cell.in_words() for cell in cells},
        "asked": [_key(inputs, cell, seed) for cell in cells for seed in seeds],
    }
    write_json(folder / STUDY, {**facts, "runs": _read(folder)["runs"]})
    _run_cells(workspace, folder, inputs, cells, seeds, progress or Silent())
    table = rows(_asked(_read(folder)), cells[0].name)
    files = _written(folder, study.question, table)
    return Studied(study, folder.name, table, in_words(study.question, table), files)


def studied(workspace: Workspace, name: str) -> tuple[list[Row], list[str]]:
    """What the finished runs of a study say of the data, teachers and settings that are there now; runs nothing.

    Returns:
        Their table, over every seed that was run, and the cells of which no run is finished.
    """
    inputs, cells = _inputs(workspace), _cells(workspace, name)
    done = {key: Run(**facts) for key, facts in _read(_folder(workspace, name))["runs"].items()}
    seeds = sorted({run.seed for run in done.values()})
    runs = [run for cell in cells for seed in seeds if (run := done.get(_key(inputs, cell, seed)))]
    finished = {run.cell for run in runs}
    return rows(runs, cells[0].name), [cell.name for cell in cells if cell.name not in finished]


def _cells(workspace: Workspace, name: str, holdout: str | None = None) -> list[Cell]:
    weights = workspace.config.distill.factors.model_dump()
    teachers = tuple(read_lock(workspace.lock_file).teachers)
    return STUDIES[name].cells(Given(teachers, tuple(workspace.corpus().domains), weights, holdout))


def _folder(workspace: Workspace, name: str, holdout: str | None = None) -> Path:
    return workspace.state / "studies" / (f"{name}-{holdout}" if holdout else name)


def _run_cells(
    workspace: Workspace, folder: Path, inputs: str, cells: Sequence[Cell], seeds: Sequence[int], progress: Progress
) -> None:
    """As many runs at once as there are cores. Stage 1 of each seed comes first: its cells wait for it."""
    done = _read(folder)["runs"]
    open_ = [(cell, seed) for seed in seeds for cell in cells if _key(inputs, cell, seed) not in done]
    root, at_once = workspace.root.absolute(), min(os.cpu_count() or 1, max(1, len(open_)))
    with (
        progress.task("study", len(cells) * len(seeds), "runs", done=len(cells) * len(seeds) - len(open_)) as advance,
        ProcessPoolExecutor(at_once, multiprocessing.get_context("spawn"), _one_thread) as pool,
    ):
        shared = sorted({seed for cell, seed in open_ if cell.stage_one and not cell.without})
        list(pool.map(_stage_one, [root] * len(shared), [folder] * len(shared), shared))
        waiting = {pool.submit(_run, root, folder, cell, seed): (cell, seed) for cell, seed in open_}
        for future in as_completed(waiting):
            cell, seed = waiting[future]
            _note(folder, _key(inputs, cell, seed), future.result())
            advance(1, f"{cell.name}, seed {seed}")


def _one_thread() -> None:
    import torch

    torch.set_num_threads(1)


def _stage_one(root: Path, folder: Path, seed: int) -> None:
    """The student that all cells of a seed start from; the base workspace's own where the seed is its own."""
    base = Workspace.open(root)
    workspace = _workspace(base, folder / f"seed-{seed}" / "stage-1", seed, {})
    own = has_stage_one(base)
    if own and seed == base.config.seed and not workspace.runs.exists():
        shutil.copytree(base.runs / "pretrain", workspace.runs / "pretrain")
    run_pretrain(workspace, workspace.config.pretrain)


def _run(root: Path, folder: Path, cell: Cell, seed: int) -> Run:
    """One cell with one seed."""
    base = Workspace.open(root)
    workspace = _workspace(base, folder / f"seed-{seed}" / cell.name, seed, _settings(base, cell))
    if cell.without:
        corpus = base.corpus()
        kept = ~((corpus.domain == cell.without) & (corpus.split == "train"))
        if not (workspace.root / "data").exists():
            corpus.take(kept).save(workspace.root / "data")
    _start(workspace, folder / f"seed-{seed}" / "stage-1", cell)
    lock = read_lock(base.lock_file)
    if cell.order is None:
        names = cell.teachers or tuple(lock.teachers)
        write_lock(workspace.lock_file, lock.only(names))
        last = run_distill(workspace).release
        chain = [Predictions.load(last.predictions)]
    else:
        chain = []
        for count in range(1, len(cell.order) + 1):
            write_lock(workspace.lock_file, lock.only(cell.order[:count]))
            last = (run_distill(workspace) if count == 1 else run_incremental(workspace)).release
            releases.promote(workspace, last.id, "study")  # the study asks what happens, not whether it may
            chain.append(Predictions.load(last.predictions))
    auc = {domain: value for domain, value in chain[-1].auc().items() if value is not None}
    pairs = sum(int(TeacherTrust.load(path).mask.sum()) for name in last.teachers if (path := last.trust(name)))
    counts: dict[str, float] = {"trusted pairs": pairs}
    if len(chain) > 1:
        matrix = np.array([[found.auc()[domain] or np.nan for domain in auc] for found in chain])
        counts["forgetting"] = float(np.nanmax(np.nanmax(matrix, axis=0) - matrix[-1]))
    return Run(cell.name, seed, auc, counts)


def _workspace(base: Workspace, root: Path, seed: int, settings: dict[str, Any]) -> Workspace:
    """A workspace beside the base: its data and features, another seed and other settings."""
    facts: dict[str, Any] = base.config.model_dump(mode="json", by_alias=True)
    facts |= {"seed": seed, "log": [], "data": str((base.root / base.config.data).absolute())}
    facts["features"] = str(base.store.absolute())
    for section, values in settings.items():
        facts[section] = {**facts[section], **values} if isinstance(values, dict) else values
    facts["trust"]["seed"] = seed
    config = Config.model_validate(facts)
    if (root / CONFIG).exists() and Workspace.open(root).config != config:
        shutil.rmtree(root)  # of an earlier study with other settings
    workspace = Workspace.create(root, config)
    pixels = workspace.state / "pixels"
    if not pixels.exists():
        (base.state / "pixels").mkdir(exist_ok=True)
        pixels.symlink_to(base.state.absolute() / "pixels")
    return workspace


def _settings(base: Workspace, cell: Cell) -> dict[str, Any]:
    settings = {name: dict(values) for name, values in cell.settings.items()}
    if not cell.stage_one:  # as many steps in all
        settings.setdefault("distill", {})["steps"] = base.config.distill.steps + base.config.pretrain.steps
    if cell.without:
        settings["data"] = "data"  # type: ignore[assignment]
    return settings


def _start(workspace: Workspace, shared: Path, cell: Cell) -> None:
    """What the cell's distillation starts from: the seed's stage 1, one of its own, or random weights."""
    own = workspace.runs / "pretrain"
    if (own / "done.json").exists():
        return
    if cell.without:
        run_pretrain(workspace, workspace.config.pretrain)
    elif cell.stage_one and not set(cell.settings) & {"pretrain", "student"}:
        shutil.copytree(shared / ".mmkd" / "runs" / "pretrain", own)
    elif cell.stage_one:
        run_pretrain(workspace, workspace.config.pretrain)
    else:
        corpus = workspace.corpus()
        texts = corpus.take(corpus.where(split="train")).texts
        student = Student.build(workspace.config.student, [*texts, *class_texts(corpus)], workspace.config.seed)
        student.save(own / "student")
        facts = {"identity": f"random {weights_digest(own / 'student')}", "steps": 0, "start": {}}
        unused = workspace.config.pretrain.model_copy(update={"steps": 0})
        note_stage_one(workspace, corpus, unused, own, own / "student", facts)


def _inputs(workspace: Workspace) -> str:
    """What all runs depend on: a change of data, teachers or settings makes them other ones."""
    config = workspace.config.model_dump(mode="json", exclude={"seed", "log"})
    lock = {name: teacher.fingerprint for name, teacher in read_lock(workspace.lock_file).teachers.items()}
    return identity(config, workspace.corpus().fingerprint, lock)


def _key(inputs: str, cell: Cell, seed: int) -> str:
    return identity(inputs, vars(cell), seed)


def studies(workspace: Workspace) -> list[str]:
    """Names of the studies that were begun here."""
    found = sorted(path.parent for path in (workspace.state / "studies").glob(f"*/{STUDY}"))
    return [path.name for path in found if _read(path)["cells"]]


def report_study(workspace: Workspace, name: str) -> tuple[dict[str, Any], Path]:
    """Write ``report-NAME.html`` about a study that was begun; return its table as facts, and the path.

    Raises:
        StudyError: it has no run yet of the cell that the others are compared with.
    """
    facts = _read(_folder(workspace, name))
    runs, first = _asked(facts), next(iter(facts["cells"]))
    if not any(run.cell == first for run in runs):
        what = f"study {name} has no finished run of {first!r} yet, which the others are compared with"
        raise StudyError(what, next=f"Run `mmkd study {name.replace('-', ' ', 1)}`; it goes on where it was")
    page = write_study(facts, runs, workspace.root / f"report-{name}.html")
    about = {"study": name, "question": facts["question"], "asked": len(facts["asked"]), "runs": len(runs)}
    table = rows(runs, first)
    return {**about, "words": in_words(facts["question"], table), "rows": [row.to_json() for row in table]}, page


def _read(folder: Path) -> dict[str, Any]:
    """``study.json``; one of another version counts as none."""
    facts = read_facts(folder / STUDY)
    return facts if facts.get("schema") == SCHEMA else {"schema": SCHEMA, "cells": {}, "asked": [], "runs": {}}


def _asked(facts: dict[str, Any]) -> list[Run]:
    """The runs of the study as it was asked for last that are finished, cell by cell."""
    return [Run(**facts["runs"][key]) for key in facts["asked"] if key in facts["runs"]]


def _note(folder: Path, key: str, run: Run) -> None:
    facts = _read(folder)
    facts["runs"][key] = {**vars(run), "auc": dict(run.auc), "counts": dict(run.counts)}
    write_json(folder / STUDY, facts)


def _written(folder: Path, question: str, table: Sequence[Row]) -> list[Path]:
    """The table, and the figure: change of the mean AUC of each cell against the first."""
    text, drawn = folder / "study.md", folder / "study.svg"
    text.write_text(markdown(question, table), encoding="utf-8")
    drawn.write_text(standalone(changes_plot(table, f"study-{folder.name}")), encoding="utf-8")
    return [text, drawn, folder / STUDY]
