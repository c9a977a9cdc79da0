"""What the default recipe is worth beside the published ones: ``recipe-gain``, on phantom, with three seeds.

For each seed one quickstart makes features, trust and a stage-1 student; each recipe then distils from that student for
the same number of steps, on the same features, once at every learning rate of ``RATES``. Of each recipe, ours as well,
the student counts that has the best mean AUC on the validation split; the figure is the difference of mean AUC over
domains on the test split. On the quickstarts of ``phantom`` where MMKD_RESULTS has them.
"""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
from quality import MADE_BY_RULE, Figure, figure, kept, side_by_side

from mmkd_core.distill.config import DistillConfig
from mmkd_core.integrate.profiles import profile
from mmkd_core.integrate.quickstart import quickstart
from mmkd_core.integrate.student_data import pixels_of, predict
from mmkd_core.integrate.teaching import run_distill
from mmkd_core.integrate.workspace import Workspace, read_config
from mmkd_core.plugins import read_lock, write_lock
from mmkd_core.progress import Silent
from mmkd_core.student.model import Student

OURS, OTHERS = "mmkd", ("paper", "paper-published")
RATES = (0.001, 0.002, 0.004, 0.008)


def gain() -> list[Figure]:
    """Points of mean AUC that ``mmkd`` is above each published recipe."""
    rows = side_by_side(gain_of)
    rates = {name: ", ".join(f"{row[f'{name} rate']:g}" for row in rows) for name in (OURS, *OTHERS)}
    how = f"best of {len(RATES)} learning rates each (ours {rates[OURS]} by seed"
    return [
        figure(f"recipe-gain-{name}", rows, name, f"recipe {name}, same steps; {how}, theirs {rates[name]})")
        for name in OTHERS
    ]


def gain_of(seed: int) -> dict[str, float]:
    """One seed: points over each recipe, and the learning rate at which each is best on the validation split."""
    with kept(f"phantom-seed{seed}") as base:
        config, images = profile(smoke=False, real=False, seed=seed)
        quickstart(base, config, images, None, Silent())
        best, rows = {}, {}
        for name in (OURS, *OTHERS):
            made = {rate: with_recipe(base, name, rate) for rate in RATES}
            rate = max(RATES, key=lambda rate: auc_of(made[rate], "val"))
            best[name], rows[f"{name} rate"] = auc_of(made[rate], "test"), rate
    return rows | {name: best[OURS] - best[name] for name in OTHERS}


def with_recipe(base: Path, recipe: str, rate: float) -> Workspace:
    """Another first release from the same stage-1 student, features and trust."""
    root = base.with_name(f"{base.name}-{recipe}-{rate:g}")
    if not (root / "releases" / "0001").exists():
        shutil.rmtree(root, ignore_errors=True)
        shutil.copytree(base, root, ignore=shutil.ignore_patterns(*set(MADE_BY_RULE) - {"trust"}))
        config = read_config(root / "mmkd.yaml")
        distill = DistillConfig(**{**dict(config.distill), "recipe": recipe, "lr": rate})
        (root / "mmkd.yaml").write_text(config.model_copy(update={"distill": distill}).dump())
        workspace = Workspace.open(root)
        first = read_lock(base / "releases" / "0001" / "mmkd.lock").teachers
        lock = read_lock(workspace.lock_file)
        for newcomer in set(lock.teachers) - set(first):
            lock = lock.without(newcomer)
        write_lock(workspace.lock_file, lock)
        run_distill(workspace)
    return Workspace.open(root)


def auc_of(workspace: Workspace, split: str) -> float:
    """Mean over domains of the first release's zero-shot AUC, in points."""
    corpus = workspace.corpus()
    student = Student.load(workspace.releases / "0001" / "student")
    auc = predict(student, corpus, pixels_of(workspace, corpus), split).auc()
    return 100 * float(np.mean([value for value in auc.values() if value is not None]))


FIGURES = {"recipe-gain": gain}
