"""What a student remembers when teachers arrive one after another.

``sequence-phantom``  five teachers, three seeds, about three quarters of an hour a seed on one core
``sequence-real``     the same on the real images in MMKD_SHARED_DATA (the folder that holds ``biomed/manifest.csv``)

Each gives three figures. ``sequence-quality``: mean AUC at the end over that of one distillation of all five teachers
at once. ``sequence-forgetting``: the most that any domain of an earlier teacher has lost at any release since, from its
best before, in points; beside it that fall's standard error, the largest fall of a domain's mean over seeds, and the
same as the first for plain fine-tuning on what the new teacher teaches. ``integration-cost``: optimiser work (steps x
batch) of one integration over the joint distillation's. On phantom AUC is that of 3,000 images per domain, of patients
that no workspace holds: the largest of many falls is never less than their noise.

The teachers' domains overlap, so that a newcomer can spoil what an earlier one taught; the specialists are installed
where this runs: use an environment that can be thrown away. MMKD_RESULTS names a folder that keeps the workspaces.
A run that was stopped goes on in that folder, and ends with a table of every release there (``sequence-phantom.md``).
MMKD_SEEDS names other seeds than 0,1,2.

The joint distillation is long, until more steps hardly give more: a student trained from nothing learns a new domain
from so many samples, and a tenth of a short distillation has too few of them. The first release has one teacher, and as
many steps as the quickstart's.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from poor_captions import real_manifest
from quality import SEEDS, Run, figure, keep_table, kept, side_by_side

from mmkd_core.audit.evidence import Evidence
from mmkd_core.audit.forgetting import forgetting
from mmkd_core.data.phantom.generate import generate
from mmkd_core.distill.config import BudgetConfig
from mmkd_core.integrate import releases
from mmkd_core.integrate.extracting import run_extract
from mmkd_core.integrate.profiles import profile
from mmkd_core.integrate.quickstart import add_missing, imported
from mmkd_core.integrate.specialists import make_specialist
from mmkd_core.integrate.student_data import pixels_of, predict, run_pretrain
from mmkd_core.integrate.teaching import run_distill, run_incremental
from mmkd_core.integrate.workspace import Config, Workspace, read_json, write_json
from mmkd_core.plugins import read_lock, write_lock
from mmkd_core.progress import Silent
from mmkd_core.student.model import Student

Figure = dict[str, Any]
Auc = dict[str, float]
Domains = tuple[str, ...]

WORK = 0.1
"""Optimiser work (steps x batch) of an integration over that of a distillation of everybody."""
PHANTOM_TEACHERS: dict[str, Domains] = {
    "phantom-radio": ("xray", "ct"),
    "general": ("xray", "pathology", "ultrasound"),
    "phantom-tissue": ("pathology", "dermatology"),
    "phantom-eye": ("fundus", "oct"),
    "phantom-sono": ("ultrasound", "mri"),
}
"""In the order of their arrival. Four ship with phantom; the others are trained here."""
REAL_TEACHERS: dict[str, Domains] = {
    "radio": ("mri", "xray"),
    "skin": ("dermatology", "pathology"),
    "chest": ("xray", "ultrasound"),
    "cells": ("microscopy", "pathology"),
    "head": ("mri", "dermatology"),
}
PHANTOM_STEPS = {"first": 1000, "joint": 5000, "specialist": 350}
REAL_STEPS = {"first": 1200, "joint": 3000, "specialist": 700}
JUDGED, FRESH = 3000, 1000
"""Images per domain that judge on phantom, and what is added to a seed to draw them."""
PLAIN = {"replay_rows": 0, "parent": 0.0, "keep": 0.0, "budget": BudgetConfig(rows=0), "average": "none"}
"""Fine-tuning on what the new teacher teaches, and nothing else."""
MADE_HERE = ("releases", "trust", "audits", "distil-*", "integrate-*")


@dataclass(frozen=True)
class Setting:
    """One corpus, its teachers, the length of the joint distillation in steps, and whose test split judges."""

    name: str
    teachers: Mapping[str, Domains]
    make: Callable[[Path, int], Workspace]
    joint: int
    judge: Callable[[Workspace, Path, int], Workspace]


@dataclass(frozen=True)
class Fall:
    """What a domain lost between its best release and a later one: a fraction of AUC, and their places."""

    domain: str
    size: float
    best: int
    worst: int


def phantom_workspace(root: Path, seed: int) -> Workspace:
    """Phantom with more validation and test images than quickstart's, so that half a point can be seen."""
    config, images = profile(smoke=False, real=False, seed=seed)
    assert images is not None
    workspace = Workspace.create(root, sized(config, **PHANTOM_STEPS))
    generate(root / config.data, images.model_copy(update={"val": 400, "test": 800}), workers=1, progress=Silent())
    return workspace


def fresh_patients(base: Workspace, root: Path, seed: int) -> Workspace:
    """A workspace that holds hardly more than a test split, of other patients than the base's."""
    images = profile(smoke=False, real=False, seed=FRESH + seed)[1]
    assert images is not None
    workspace = Workspace.create(root, base.config)
    few = images.model_copy(update={"train": 8, "val": 4, "test": JUDGED})
    generate(root / base.config.data, few, workers=1, progress=Silent())
    return workspace


def own_patients(base: Workspace, root: Path, seed: int) -> Workspace:
    """The base itself: there are no more real images."""
    return base


def real_workspace(root: Path, seed: int) -> Workspace:
    """The real images; every sample of a teacher's domains is admitted, which is where most can be spoilt."""
    config, _ = profile(smoke=False, real=True, seed=seed, trust="none", name=f"biomed-{seed}")
    workspace = Workspace.create(root, sized(config, **REAL_STEPS))
    imported(workspace, real_manifest(root / "captions"), Silent())
    return workspace


def sized(config: Config, first: int, joint: int, specialist: int) -> Config:
    """Steps of the first release and of specialists; integrations have a tenth of the joint distillation's work."""
    batches = config.distill.batch_size / config.incremental.batch_size
    steps = {"distill": first, "specialist": specialist, "incremental": round(WORK * joint * batches)}
    parts = {name: getattr(config, name).model_copy(update={"steps": count}) for name, count in steps.items()}
    return config.model_copy(update=parts)


def prepared(setting: Setting, root: Path, seed: int) -> Workspace:
    """Data, teachers, features and stage 1: what all the ways share."""
    workspace = setting.make(root, seed)
    targets = {}
    for name, domains in setting.teachers.items():
        shipped = name.startswith("phantom-")
        named = name if shipped else f"sequence-{setting.name}-{seed}-{name}"
        targets[named] = named if shipped else str(make_specialist(workspace, named, domains, Silent()))
    add_missing(workspace, targets, list(targets), Silent())
    run_extract(workspace, Silent()).require()
    run_pretrain(workspace, workspace.config.pretrain, progress=Silent())
    write_json(workspace.state / "order.json", list(targets))
    return workspace


def way(base: Path, root: Path, stage: str = "incremental", changes: Mapping[str, Any] | None = None) -> Workspace:
    """A copy of the prepared workspace with other settings of a stage."""
    if not root.exists():
        shutil.copytree(base, root, ignore=shutil.ignore_patterns(*MADE_HERE))
        (root / "releases").mkdir(exist_ok=True)
    workspace = Workspace.open(root)
    config = workspace.config
    changed = getattr(config, stage).model_copy(update=dict(changes or {}))
    (root / "mmkd.yaml").write_text(config.model_copy(update={stage: changed}).dump())
    return Workspace.open(root)


def teach_in_order(workspace: Workspace, order: Sequence[str]) -> None:
    """One release per teacher, each put into use whatever it lost."""
    whole = workspace.state / "whole.lock"  # a run that was stopped left a part of it in use
    if not whole.exists():
        shutil.copyfile(workspace.lock_file, whole)
    lock = read_lock(whole)
    for count in range(len(releases.all_releases(workspace)) + 1, len(order) + 1):
        known = lock
        for name in order[count:]:
            known = known.without(name)
        write_lock(workspace.lock_file, known)
        made = run_distill(workspace) if count == 1 else run_incremental(workspace)
        releases.promote(workspace, made.release.id, "study")
    write_lock(workspace.lock_file, lock)


def measured(workspace: Workspace, judge: Workspace) -> list[Auc]:
    """AUC by release and domain on the test split of the judge's corpus; kept beside the releases."""
    path = workspace.state / "auc-test.json"
    known = read_json(path) or {}
    corpus = judge.corpus()
    for found in releases.all_releases(workspace):
        if found.id not in known:
            known[found.id] = predict(Student.load(found.student), corpus, pixels_of(judge, corpus), "test").auc()
    write_json(path, known)
    return [known[found.id] for found in releases.all_releases(workspace)]


def forgotten(auc: Sequence[Auc], taught: Sequence[Domains]) -> dict[str, Fall]:
    """By domain the largest fall below its best since it was first taught; ``auc`` is by release."""
    falls = {}
    for domain in sorted({domain for domains in taught for domain in domains}):
        first = next(i for i, domains in enumerate(taught) if domain in domains)
        values = np.array([row[domain] for row in auc[first:]])
        lost = np.maximum.accumulate(values) - values
        worst = int(lost.argmax())
        best = int(values[: worst + 1].argmax())
        falls[domain] = Fall(domain, float(lost[worst]), first + best, first + worst)
    return falls


def noise(workspace: Workspace, judge: Workspace, fall: Fall) -> float:
    """Standard error of a fall, as a fraction: the audit's, paired and resampled by patient."""
    corpus, gate, made = judge.corpus(), judge.gate(), releases.all_releases(workspace)
    before, after = (
        Evidence(predict(Student.load(made[i].student), corpus, pixels_of(judge, corpus), "test"))
        for i in (fall.best, fall.worst)
    )
    row = forgetting(after, before, gate).family("zero-shot", "auc")[fall.domain]
    return row.standard_error(gate.alpha)


def mean(auc: Auc) -> float:
    return float(np.mean(list(auc.values())))


def sequence_of(setting: Setting, seed: int) -> Run:
    """One seed: the sequence, plain fine-tuning and the joint distillation, each in a workspace of its own."""
    with kept(f"sequence-{setting.name}-seed{seed}") as root:
        base = prepared(setting, root / "base", seed)
        judge = setting.judge(base, root / "judge", seed)
        order, taught = read_json(base.state / "order.json"), list(setting.teachers.values())
        ours, plain = way(base.root, root / "ours"), way(base.root, root / "plain", changes=PLAIN)
        joint = way(base.root, root / "joint", "distill", {"steps": setting.joint})
        teach_in_order(ours, order)
        if not (root / "plain" / "releases" / "0001").exists():  # the first release is the same one
            shutil.copytree(ours.releases / "0001", plain.releases / "0001")
            releases.promote(plain, "0001", "study")
        teach_in_order(plain, order)
        run_distill(joint)
        together, whole, part = measured(joint, judge)[-1], joint.config.distill, ours.config.incremental
        auc = {name: measured(w, judge) for name, w in (("ours", ours), ("plain", plain))}
        falls = {name: forgotten(found, taught) for name, found in auc.items()}
        largest = {name: max(found.values(), key=lambda fall: fall.size) for name, found in falls.items()}
        made = [found.facts["seconds"] for found in releases.all_releases(ours)]
        facts = {
            "quality": mean(auc["ours"][-1]) / mean(together),
            "plain-quality": mean(auc["plain"][-1]) / mean(together),
            "forgetting": 100 * largest["ours"].size,
            "noise": 100 * noise(ours, judge, largest["ours"]),
            "plain-forgetting": 100 * largest["plain"].size,
            "cost": part.steps * part.batch_size / (whole.steps * whole.batch_size),
            "steps": part.steps / whole.steps,
            "seconds": float(np.mean(made[1:]) / releases.all_releases(joint)[0].facts["seconds"]),
        }
    told = json.dumps({name: {fall.domain: fall.size for fall in found.values()} for name, found in falls.items()})
    print(f"sequence {setting.name} seed {seed}: {json.dumps(facts)} {told}", file=sys.stderr, flush=True)
    arrivals = [f"{name} ({', '.join(domains)})" for name, domains in setting.teachers.items()]
    named = dict(zip(arrivals, auc["ours"], strict=True))
    return Run(facts, named | {"the same, by plain fine-tuning": auc["plain"][-1], "all five at once": together})


PHANTOM = Setting("phantom", PHANTOM_TEACHERS, phantom_workspace, PHANTOM_STEPS["joint"], fresh_patients)
REAL = Setting("real", REAL_TEACHERS, real_workspace, REAL_STEPS["joint"], own_patients)


def seeds() -> tuple[int, ...]:
    return tuple(int(seed) for seed in os.environ.get("MMKD_SEEDS", ",".join(map(str, SEEDS))).split(","))


def mean_fall(setting: Setting, runs: list[Run]) -> float:
    """The largest fall of a domain's mean over seeds, in points: what the method loses rather than one run."""
    taught = list(setting.teachers.values())
    releases_of = [list(run.auc.values())[: len(taught)] for run in runs]
    means = [
        {domain: float(np.mean([auc[domain] for auc in seeds])) for domain in seeds[0]}
        for seeds in zip(*releases_of, strict=True)
    ]
    return 100 * max(fall.size for fall in forgotten(means, taught).values())


def figures(setting: Setting, runs: list[Run]) -> list[Figure]:
    name, rows = setting.name, [run.facts for run in runs]
    keep_table(f"sequence-{name}", [run.auc for run in runs])
    joint = "one distillation of all five teachers"
    fall = [{"fall": mean_fall(setting, runs)}]
    return [
        figure(f"sequence-quality-{name}", rows, "quality", joint, "x", 4),
        figure(f"sequence-quality-{name}-plain", rows, "plain-quality", joint, "x", 4),
        figure(f"sequence-forgetting-{name}", rows, "forgetting", "the domain's best since it was first taught"),
        figure(f"sequence-forgetting-{name}-noise", rows, "noise", "standard error of that fall, by patient"),
        figure(f"sequence-forgetting-{name}-of-means", fall, "fall", "the domain's best mean over seeds since then"),
        figure(f"sequence-forgetting-{name}-plain", rows, "plain-forgetting", "the same, by plain fine-tuning"),
        figure(f"integration-cost-{name}", rows, "cost", f"{joint}: optimiser steps x batch", "x", 4),
        figure(f"integration-steps-{name}", rows, "steps", f"{joint}: optimiser steps, of smaller batches", "x", 4),
        figure(f"integration-seconds-{name}", rows, "seconds", f"{joint}: seconds, search and watch included", "x", 4),
    ]


def phantom() -> list[Figure]:
    """Five teachers on phantom."""
    return figures(PHANTOM, side_by_side(partial(sequence_of, PHANTOM), seeds()))


def real() -> list[Figure]:
    """Five specialists on the real images."""
    if not os.environ.get("MMKD_SHARED_DATA"):
        print("sequence-real: set MMKD_SHARED_DATA; skipped", file=sys.stderr)
        return []
    return figures(REAL, side_by_side(partial(sequence_of, REAL), seeds()))


FIGURES = {"sequence-phantom": phantom, "sequence-real": real}
