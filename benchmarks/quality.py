"""What distillation is worth: quality with three seeds and an interval, on phantom and on real images.

``phantom``      release 0001 against the same student with stage 1 alone for the same number of steps, against the
                 teachers, and after the fourth teacher
``real-images``  stage 1 alone, the 90 % rule, the rule by gain and everyone admitted, side by side; needs
                 MMKD_SHARED_DATA (the folder that holds ``biomed/manifest.csv``) and about half an hour a seed
"""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from scipy import stats

from mmkd_core.evaluate.summary import summarise
from mmkd_core.integrate.measuring import run_audit, zero_shot_of
from mmkd_core.integrate.profiles import profile
from mmkd_core.integrate.quickstart import quickstart
from mmkd_core.integrate.student_data import pixels_of, predict, run_pretrain
from mmkd_core.integrate.summary import summarise_workspace
from mmkd_core.integrate.teaching import run_distill, run_incremental, run_trust
from mmkd_core.integrate.workspace import Workspace, read_config
from mmkd_core.progress import Silent
from mmkd_core.student.model import Student

Figure = dict[str, Any]
SEEDS = (0, 1, 2)


def phantom() -> list[Figure]:
    """Three quickstarts, each beside its own stage-1-only student."""
    rows = []
    for seed in SEEDS:
        with tempfile.TemporaryDirectory() as folder:
            config, images = profile(smoke=False, real=False, seed=seed)
            start = time.monotonic()
            summary = quickstart(Path(folder, "ws"), config, images, None, Silent())
            seconds = time.monotonic() - start
            alone = stage_one_alone(Workspace.open(Path(folder, "ws")))
            rows.append(facts(summary, alone) | {"seconds": seconds})
            _say(f"phantom seed {seed}: {rows[-1]}")
    return [
        figure("phantom-distillation", rows, "gain", "stage 1 alone, same steps"),
        figure("phantom-against-teachers", rows, "over_best", "best single teacher, mean over domains"),
        figure("phantom-worst-domain", rows, "worst", "best teacher of the domain (release 0001, lowest domain)"),
        figure("phantom-new-domains", rows, "new", "release 0001, domains of the fourth teacher (lowest)"),
        figure("phantom-kept-domains", rows, "kept", "release 0001, other domains (lowest change)"),
        figure("phantom-kept-lower", rows, "kept_lower", "release 0001, other domains (lowest 95 % bound)"),
        figure("quickstart-seconds", rows, "seconds", "wall clock", unit="s"),
    ]


def facts(summary: dict[str, Any], alone: float) -> dict[str, float]:
    """What a sceptic asks of one run, in points of AUC."""
    first, teachers = summary["releases"]["0001"], summary["teachers"]
    old = {name: teacher for name, teacher in teachers.items() if not teacher["added"]}
    new = set(summary["integration"]["gain"])
    forgetting = summary["integration"]["forgetting"]
    best = {domain: max(teacher["auc"][domain] for teacher in old.values()) for domain in first["auc"]}
    return {
        "gain": 100 * (first["mean_auc"] - alone),
        "over_best": 100 * (first["mean_auc"] - max(teacher["mean_auc"] for teacher in old.values())),
        "worst": 100 * min(first["auc"][domain] - auc for domain, auc in best.items()),
        "new": 100 * min(summary["integration"]["gain"].values()),
        "kept": 100 * min(entry["delta"] for domain, entry in forgetting.items() if domain not in new),
        "kept_lower": 100 * min(entry["lower"] for domain, entry in forgetting.items() if domain not in new),
    }


def stage_one_alone(workspace: Workspace) -> float:
    """Mean test AUC of the same student after stage 1 alone, for the steps of both stages together."""
    config = workspace.config
    longer = config.pretrain.model_copy(update={"steps": config.pretrain.steps + config.distill.steps})
    folder, _ = run_pretrain(workspace, longer, workspace.state / "alone" / "student")
    corpus = workspace.corpus()
    predictions = predict(Student.load(folder), corpus, pixels_of(workspace, corpus))
    predictions.save(workspace.evaluations / "stage-1-alone.parquet")
    mean = summarise(predictions, resamples=200).mean
    assert mean is not None
    return mean.estimate


def real_images() -> list[Figure]:
    """One set of specialists and one stage-1 student per seed; then each rule in a workspace of its own."""
    shared = os.environ.get("MMKD_SHARED_DATA")
    if not shared:
        _say("real-images: set MMKD_SHARED_DATA to the folder that holds biomed/manifest.csv; skipped")
        return []
    keep = Path(os.environ.get("MMKD_RESULTS", tempfile.mkdtemp()))
    rows: dict[str, list[dict[str, float]]] = {}
    for seed in SEEDS:
        base = keep / f"seed{seed}-90"
        config, _ = profile(smoke=False, real=True, seed=seed, name="biomed")
        quickstart(base, config, None, Path(shared, "biomed", "manifest.csv"), Silent())
        alone = stage_one_alone(Workspace.open(base))
        for rule in ("90", "gain", "none"):
            workspace = Workspace.open(base) if rule == "90" else with_rule(base, keep / f"seed{seed}-{rule}", rule)
            row = facts(summarise_workspace(workspace), alone)
            rows.setdefault(rule, []).append(row)
            _say(f"real-images seed {seed} rule {rule}: {row}")
    return [
        figure(f"real-{rule}-{key}", found, key, against)
        for rule, found in rows.items()
        for key, against in {
            "gain": "stage 1 alone, same steps",
            "over_best": "best single teacher, mean over domains",
            "worst": "best teacher of the domain (release 0001, lowest domain)",
            "new": "release 0001, domains of the newcomer (lowest)",
            "kept": "release 0001, other domains (lowest change)",
            "kept_lower": "release 0001, other domains (lowest 95 % bound)",
        }.items()
    ]


def with_rule(base: Path, root: Path, rule: str) -> Workspace:
    """Both integrations again under another trust rule, on the same features, specialists and stage-1 student."""
    from mmkd_core.plugins import read_lock, write_lock

    shutil.rmtree(root, ignore_errors=True)
    shutil.copytree(base, root, ignore=shutil.ignore_patterns("releases", "trust", "audits", "distil-*", "integrate-*"))
    config = read_config(root / "mmkd.yaml")
    changed = config.model_copy(update={"trust": type(config.trust)(rule=rule, seed=config.trust.seed)})  # type: ignore[arg-type]
    (root / "mmkd.yaml").write_text(changed.dump())
    workspace = Workspace.open(root)
    lock = read_lock(workspace.lock_file)
    newcomer = next(iter(set(lock.teachers) - set(read_lock(base / "releases" / "0001" / "mmkd.lock").teachers)))
    write_lock(workspace.lock_file, lock.without(newcomer))
    run_trust(workspace)
    run_distill(workspace)
    write_lock(workspace.lock_file, lock)
    run_incremental(workspace)
    for name in lock.teachers:
        zero_shot_of(workspace, name)
    run_audit(workspace)
    return workspace


def figure(name: str, rows: list[dict[str, float]], key: str, against: str, unit: str = "points of AUC") -> Figure:
    """Mean over seeds with its 95 % t interval."""
    values = np.array([row[key] for row in rows])
    half = float(stats.t.ppf(0.975, len(values) - 1) * values.std(ddof=1) / np.sqrt(len(values)))
    mean = float(values.mean())
    return {
        "name": name,
        "value": round(mean, 2),
        "unit": unit,
        "against": against,
        "spread": [round(mean - half, 2), round(mean + half, 2)],
        "seeds": [round(float(value), 2) for value in values],
    }


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


FIGURES = {"phantom": phantom, "real-images": real_images}
