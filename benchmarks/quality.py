"""What distillation is worth: quality with three seeds and an interval, on phantom and on real images.

``quickstart``   the command itself: seconds and memory
``phantom``      release 0001 against the same student with stage 1 alone for the same number of steps, against the
                 teachers, and after the fourth teacher; release 0002 against what could be had without a student: each
                 domain's own best teacher (chosen on the validation split), and the mean of all teachers' posteriors
``real-images``  stage 1 alone, the 90 % rule, the rule by gain and everyone admitted, side by side; needs
                 MMKD_SHARED_DATA (the folder that holds ``biomed/manifest.csv``) and about half an hour a seed

MMKD_RESULTS names a folder that keeps the workspaces, so that every figure can be looked into; ``phantom`` and
``real-images`` then also write the tables of docs/results there (``phantom.md``, ``real-images.md``).
Captions are made from the labels; MMKD_POOR_CAPTIONS=1 spoils them (``poor_captions``).
The specialists of ``real-images`` are installed where it runs: use an environment that can be thrown away.
"""

from __future__ import annotations

import multiprocessing
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from poor_captions import real_manifest, real_name
from scipy import stats

from mmkd_core.evaluate.predictions import Predictions
from mmkd_core.evaluate.zero_shot import zero_shot
from mmkd_core.integrate.features import Features, locked_specs, open_store
from mmkd_core.integrate.measuring import run_audit, zero_shot_of
from mmkd_core.integrate.profiles import profile
from mmkd_core.integrate.quickstart import quickstart
from mmkd_core.integrate.student_data import pixels_of, predict, run_pretrain
from mmkd_core.integrate.summary import summarise_workspace, write_summary
from mmkd_core.integrate.teaching import run_distill, run_incremental, run_trust
from mmkd_core.integrate.workspace import Workspace, read_config
from mmkd_core.plugins import PluginHost, read_lock, write_lock
from mmkd_core.progress import Silent
from mmkd_core.statistics import macro_auc
from mmkd_core.student.model import Student

Figure = dict[str, Any]
Auc = dict[str, float]
"""Domain to AUC as a fraction."""
R = TypeVar("R")
SEEDS = (0, 1, 2)
RULES = ("90", "gain", "none")
MADE_BY_RULE = ("releases", "trust", "audits", "distil-*", "integrate-*", "summary.json")
ALONE = "stage 1 alone, same steps"
SPECIALISTS, ENSEMBLE = "each domain's own best teacher", "mean of all teachers' posteriors"


@dataclass(frozen=True)
class Run:
    """One seed: what a sceptic asks of it, in points of AUC, and the AUC of each model in each domain."""

    facts: dict[str, float]
    auc: dict[str, Auc]


def side_by_side(work: Callable[[int], R], seeds: Sequence[int] = SEEDS) -> list[R]:
    """``work`` of every seed, as many at once as there are cores, one thread each."""
    at_once = min(len(seeds), os.cpu_count() or 1)
    with ProcessPoolExecutor(at_once, multiprocessing.get_context("spawn"), torch.set_num_threads, (1,)) as pool:
        return list(pool.map(work, seeds))


def phantom() -> list[Figure]:
    """Three quickstarts, each beside its own stage-1-only student."""
    runs = side_by_side(phantom_of)
    keep_table("phantom", [run.auc for run in runs])
    rows = [run.facts for run in runs]
    return [
        figure("phantom-distillation", rows, "gain", "stage 1 alone, same steps"),
        figure("phantom-against-teachers", rows, "over_best", "best single teacher, mean over domains"),
        figure("phantom-worst-domain", rows, "worst", "best teacher of the domain (release 0001, lowest domain)"),
        figure("phantom-against-specialists", rows, "over_specialists", SPECIALISTS),
        figure("phantom-against-ensemble", rows, "over_ensemble", ENSEMBLE),
        figure("phantom-new-domains", rows, "new", "release 0001, domains of the fourth teacher (lowest)"),
        figure("phantom-kept-domains", rows, "kept", "release 0001, other domains (lowest change)"),
        figure("phantom-kept-lower", rows, "kept_lower", "release 0001, other domains (lowest 95 % bound)"),
    ]


def phantom_of(seed: int) -> Run:
    """One quickstart on phantom, in a folder of its own."""
    with kept(f"phantom-seed{seed}") as root:
        config, images = profile(smoke=False, real=False, seed=seed)
        summary = quickstart(root, config, images, None, Silent())
        workspace = Workspace.open(root)
        alone, without = stage_one_alone(workspace), without_student(workspace)
    teachers = {name: teacher["auc"] for name, teacher in summary["teachers"].items()}
    students = {f"release {name}": release["auc"] for name, release in summary["releases"].items()}
    run = Run(facts(summary, alone, without), teachers | without | {ALONE: alone} | students)
    _say(f"phantom seed {seed}: {run.facts}")
    return run


def quick() -> list[Figure]:
    """The command itself, alone on the machine: seconds, and the most memory that it held."""
    figures = []
    for name, options in (("quickstart", []), ("quickstart-smoke", ["--smoke"])):
        with tempfile.TemporaryDirectory() as folder:
            start = time.monotonic()
            command = [sys.executable, "-m", "mmkd_core", "quickstart", str(Path(folder, "ws")), *options]
            process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            _, status, usage = os.wait4(process.pid, 0)
            seconds = time.monotonic() - start
        assert status == 0, f"{name} failed"
        cores = f"wall clock, {os.cpu_count()} cores"
        figures.append({"name": name, "value": round(seconds, 1), "unit": "s", "against": cores, "spread": None})
        memory = round(usage.ru_maxrss / 1024**2, 2)
        figures.append(
            {"name": f"{name}-memory", "value": memory, "unit": "GiB", "against": "peak of a process", "spread": None}
        )
    return figures


def facts(summary: dict[str, Any], alone: Auc, without: dict[str, Auc]) -> dict[str, float]:
    """What a sceptic asks of one run, in points of AUC."""
    first, teachers = summary["releases"]["0001"], summary["teachers"]
    last = summary["releases"]["0002"]["mean_auc"]
    old = {name: teacher for name, teacher in teachers.items() if not teacher["added"]}
    new = set(summary["integration"]["gain"])
    forgetting = summary["integration"]["forgetting"]
    best = {domain: max(teacher["auc"][domain] for teacher in old.values()) for domain in first["auc"]}
    return {
        "gain": 100 * (first["mean_auc"] - float(np.mean(list(alone.values())))),
        "over_best": 100 * (first["mean_auc"] - max(teacher["mean_auc"] for teacher in old.values())),
        "over_specialists": 100 * (last - float(np.mean(list(without[SPECIALISTS].values())))),
        "over_ensemble": 100 * (last - float(np.mean(list(without[ENSEMBLE].values())))),
        "worst": 100 * min(first["auc"][domain] - auc for domain, auc in best.items()),
        "new": 100 * min(summary["integration"]["gain"].values()),
        "kept": 100 * min(entry["delta"] for domain, entry in forgetting.items() if domain not in new),
        "kept_lower": 100 * min(entry["lower"] for domain, entry in forgetting.items() if domain not in new),
    }


def stage_one_alone(workspace: Workspace) -> Auc:
    """Test AUC of the same student after stage 1 alone, for the steps of both stages together."""
    config = workspace.config
    longer = config.pretrain.model_copy(update={"steps": config.pretrain.steps + config.distill.steps})
    folder, _ = run_pretrain(workspace, longer, workspace.state / "alone" / "student")
    corpus = workspace.corpus()
    predictions = predict(Student.load(folder), corpus, pixels_of(workspace, corpus))
    predictions.save(workspace.evaluations / "stage-1-alone.parquet")
    return {domain: auc for domain, auc in predictions.auc().items() if auc is not None}


def without_student(workspace: Workspace) -> dict[str, Auc]:
    """Test AUC of what all teachers in use give without a student: each domain's own, and the mean of posteriors."""
    corpus, host = workspace.corpus(), PluginHost.discover()
    said: dict[str, dict[str, Predictions]] = {}
    with open_store(workspace) as store:
        for name, spec in locked_specs(workspace, host).items():
            features = Features(spec, corpus, store)
            said[name] = {
                split: zero_shot(features.images(rows), features.classes(), spec.logit_scale, corpus.take(rows))
                for split in ("val", "test")
                for rows in [corpus.where(split=split)]
            }
    routed, mixed = {}, {}
    for domain, part in next(iter(said.values()))["test"].domains.items():
        own = max(said, key=lambda name: said[name]["val"][domain].auc() or 0.0)
        routed[domain] = said[own]["test"][domain].auc()
        mixture = np.mean([found["test"][domain].posteriors() for found in said.values()], axis=0)
        mixed[domain] = macro_auc(mixture, part.truth)
    return {
        way: {domain: auc for domain, auc in found.items() if auc is not None}
        for way, found in ((SPECIALISTS, routed), (ENSEMBLE, mixed))
    }


def real_images() -> list[Figure]:
    """One set of specialists and one stage-1 student per seed; then each rule in a workspace of its own."""
    if not os.environ.get("MMKD_SHARED_DATA"):
        _say("real-images: set MMKD_SHARED_DATA to the folder that holds biomed/manifest.csv; skipped")
        return []
    seeds = side_by_side(real_images_of)
    keep_table("real-images", [{name: auc for run in runs.values() for name, auc in run.auc.items()} for runs in seeds])
    return [
        figure(f"real-{rule}-{key}", [runs[rule].facts for runs in seeds], key, against)
        for rule in RULES
        for key, against in {
            "gain": "stage 1 alone, same steps",
            "over_best": "best single teacher, mean over domains",
            "over_specialists": SPECIALISTS,
            "over_ensemble": ENSEMBLE,
            "worst": "best teacher of the domain (release 0001, lowest domain)",
            "new": "release 0001, domains of the newcomer (lowest)",
            "kept": "release 0001, other domains (lowest change)",
            "kept_lower": "release 0001, other domains (lowest 95 % bound)",
        }.items()
    ]


def real_images_of(seed: int) -> dict[str, Run]:
    """All rules for one seed; its specialists bear the seed in their names, because all seeds share an environment."""
    runs = {}
    with kept(f"{real_name()}-seed{seed}") as folder:
        base = folder / "90"
        config, _ = profile(smoke=False, real=True, seed=seed, name=f"biomed-{seed}")
        quickstart(base, config, None, real_manifest(folder / "captions"), Silent())
        alone, without = stage_one_alone(Workspace.open(base)), without_student(Workspace.open(base))
        for rule in RULES:
            workspace = Workspace.open(base) if rule == "90" else with_rule(base, folder / rule, rule)
            summary = summarise_workspace(workspace)
            teachers = {name.replace(f"-{seed}-", "-"): found["auc"] for name, found in summary["teachers"].items()}
            students = {f"{name}, {rule}": release["auc"] for name, release in summary["releases"].items()}
            runs[rule] = Run(facts(summary, alone, without), teachers | without | {ALONE: alone} | students)
            _say(f"real-images seed {seed} rule {rule}: {runs[rule].facts}")
    return runs


@contextmanager
def kept(name: str) -> Iterator[Path]:
    """A folder that is gone afterwards, unless MMKD_RESULTS says where to keep it."""
    if os.environ.get("MMKD_RESULTS"):
        yield Path(os.environ["MMKD_RESULTS"], name)
    else:
        with tempfile.TemporaryDirectory() as folder:
            yield Path(folder, name)


def keep_table(name: str, seeds: list[dict[str, Auc]]) -> None:
    """Write a table of models and domains, mean over seeds in points, beside the workspaces that are kept."""
    if not os.environ.get("MMKD_RESULTS"):
        return
    domains = sorted(next(iter(seeds[0].values())))
    rows = [["model", "mean", *domains], ["---"] * (2 + len(domains))]
    for model in seeds[0]:
        values = 100 * np.array([[seed[model][domain] for domain in domains] for seed in seeds]).mean(axis=0)
        rows.append([model, *(f"{value:.1f}" for value in (values.mean(), *values))])
    text = "".join(f"| {' | '.join(row)} |\n" for row in rows)
    Path(os.environ["MMKD_RESULTS"], f"{name}.md").write_text(text)


def with_rule(base: Path, root: Path, rule: str) -> Workspace:
    """Both integrations again under another trust rule, on the same features, specialists and stage-1 student."""
    if (root / "summary.json").exists():
        return Workspace.open(root)  # finished by an earlier run
    shutil.rmtree(root, ignore_errors=True)
    shutil.copytree(base, root, ignore=shutil.ignore_patterns(*MADE_BY_RULE))
    config = read_config(root / "mmkd.yaml")
    changed = config.model_copy(update={"trust": type(config.trust)(rule=rule, seed=config.trust.seed)})
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
    write_summary(workspace, Silent())
    return workspace


def figure(
    name: str, rows: list[dict[str, float]], key: str, against: str, unit: str = "points of AUC", digits: int = 2
) -> Figure:
    """Mean over seeds with its 95 % t interval; one seed has none."""
    values = np.array([row[key] for row in rows])
    mean, spread = float(values.mean()), None
    if len(values) > 1:
        half = float(stats.t.ppf(0.975, len(values) - 1) * values.std(ddof=1) / np.sqrt(len(values)))
        spread = [round(mean - half, digits), round(mean + half, digits)]
    return {
        "name": name,
        "value": round(mean, digits),
        "unit": unit,
        "against": against,
        "spread": spread,
        "seeds": [round(float(value), digits) for value in values],
    }


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


FIGURES = {"quickstart": quick, "phantom": phantom, "real-images": real_images}
