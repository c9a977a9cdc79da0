"""``summary.json`` and ``report.html``: everything about a workspace, read back from its files.

``report-0001.html`` is the same about one release: what it grew from, its own teachers and the trust that it keeps.
What came after it is not on the page.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from mmkd_core import __version__
from mmkd_core.audit.comparison import MEAN
from mmkd_core.data.manifest import Corpus
from mmkd_core.data.phantom.generate import drawn_with
from mmkd_core.errors import DataError, ReleaseError, WorkspaceError
from mmkd_core.evaluate.predictions import Predictions
from mmkd_core.evaluate.summary import SHOWN, summarise
from mmkd_core.integrate import releases
from mmkd_core.integrate.audits import audit_file, kept_audit
from mmkd_core.integrate.features import locked_specs, open_store
from mmkd_core.integrate.measuring import STAGE_ONE, before_any_teacher, zero_shot_of
from mmkd_core.integrate.releases import Release
from mmkd_core.integrate.stage_one import DONE
from mmkd_core.integrate.studying import report_study, studies
from mmkd_core.integrate.teaching import decided_here
from mmkd_core.integrate.trusting import kept_sweep
from mmkd_core.integrate.workspace import CONFIG, Workspace, read_config, read_facts, read_json, write_json
from mmkd_core.plugins import PluginHost, read_lock
from mmkd_core.progress import Progress, Silent
from mmkd_core.report import write_report
from mmkd_core.student.checkpoint import read_log
from mmkd_core.trust import TeacherTrust

SUMMARY_SCHEMA = "mmkd.summary/v1"


def write_summary(workspace: Workspace, progress: Progress | None = None) -> tuple[Path, Path]:
    """Write ``summary.json`` and ``report.html`` into the workspace; return their paths."""
    facts = summarise_workspace(workspace, progress)
    path = workspace.root / "summary.json"
    write_json(path, facts)
    return path, write_report(facts, curves(workspace), workspace.root / "report.html")


def report_on(workspace: Workspace, name: str, progress: Progress | None = None) -> tuple[dict[str, Any], Path]:
    """Write ``report-NAME.html`` about a release ("0001", "current") or a study; return its facts and its path.

    Raises:
        WorkspaceError: there is neither of that name; says which there are.
        StudyError: the study has nothing to show yet.
    """
    if name in studies(workspace):
        return report_study(workspace, name)
    known = [found.id for found in releases.all_releases(workspace)]
    if not (name == "current" and known) and name not in known:
        there = {"releases": known, "studies": studies(workspace)}
        listed = "; ".join(f"{kind} {', '.join(names)}" for kind, names in there.items() if names)
        nothing = "There is nothing yet but the workspace: run `mmkd report`"
        what = f"there is no release and no study {name!r}"
        raise WorkspaceError(what, where=str(workspace.root), next=f"There are {listed}" if listed else nothing)
    about = releases.named(workspace, name)
    assert about is not None
    facts = summarise_workspace(workspace, progress, about)
    return facts, write_report(facts, curves(workspace, about), workspace.root / f"report-{about.id}.html")


def summarise_workspace(
    workspace: Workspace, progress: Progress | None = None, about: Release | None = None
) -> dict[str, Any]:
    """The facts of ``summary.json``; AUCs are fractions, intervals 95 % by group bootstrap.

    Args:
        about: only what this release has to do with; the whole workspace, and its newest integration, if left out.
    """
    corpus = workspace.corpus()
    known = _known(workspace, about)
    in_use = releases.current(workspace)
    remarks = _of_other_data(known, corpus)
    facts: dict[str, Any] = {
        "schema": SUMMARY_SCHEMA,
        "mmkd": __version__,
        "name": workspace.config.name,
        "seed": workspace.config.seed,
        "data": _data(corpus),
        "teachers": _teachers(workspace, known, about, progress),
        "trust": _trust(workspace, known, about),
        "releases": {found.id: _release(workspace, found, in_use) for found in known},
    }
    if about:
        facts["about"] = about.id
        facts["seconds"] = {f"training of release {found.id}": found.facts["seconds"] for found in known}
    else:
        facts["store"] = _store(workspace)
        facts["seconds"] = read_facts(workspace.state / "seconds.json")
        if commands := read_json(workspace.state / "reproduce.json"):
            facts["reproduce"] = commands
    if (workspace.runs / "pretrain" / DONE).exists():
        try:
            facts["stage_1"] = _scores(workspace, _stage_one(workspace, known, progress))
        except ReleaseError as error:  # the page would set it beside students that did not come from it
            remarks.append(f"stage 1 is left out: {error.what}")
    if integration := _integration(workspace, known, in_use):
        facts["integration"] = integration
    facts["remarks"] = remarks
    for remark in remarks:
        (progress or Silent()).say(remark)
    return facts


def _of_other_data(known: list[Release], corpus: Corpus) -> list[str]:
    """A sentence that names the releases whose figures are of other data than there is now, if there are any."""
    other = [found.id for found in known if found.facts.get("inputs", {}).get("corpus") != corpus.fingerprint]
    return [f"figures of {', '.join(other)} are of the data that there was then; the corpus changed since"] * bool(
        other
    )


def curves(workspace: Workspace, about: Release | None = None) -> dict[str, list[dict[str, float]]]:
    """Loss curves by stage, for the report."""
    found = {"pretrain": read_log(workspace.runs / "pretrain" / "log.jsonl")}
    for release in _known(workspace, about):
        found["incremental" if release.parent else "distill"] = read_log(release.file("log.jsonl"))
    return {name: rows for name, rows in found.items() if rows}


def _known(workspace: Workspace, about: Release | None) -> list[Release]:
    """Oldest first: a release and what it grew from, or all there are."""
    return list(reversed(releases.lineage(workspace, about))) if about else releases.all_releases(workspace)


def _data(corpus: Corpus) -> dict[str, Any]:
    domains = {}
    for domain in corpus.domains:
        rows = corpus.where(domains=[domain])
        splits = Counter(str(split) for split in corpus.split[rows])
        test = corpus.where(split="test", domains=[domain])
        groups = len(set(corpus.group_id[test]))
        domains[domain] = {**splits, "groups_test": groups, "labels": corpus.classes(domain)}
    splits = Counter(str(split) for split in corpus.split)
    facts = {"samples": len(corpus), "splits": dict(splits), "domains": domains, "fingerprint": corpus.fingerprint}
    with suppress(DataError):  # of real images
        if spoilt := drawn_with(corpus.root).spoilt:
            facts["captions"] = spoilt
    return facts


def _scores(workspace: Workspace, predictions: Predictions) -> dict[str, Any]:
    gate = workspace.gate()
    found = summarise(predictions, resamples=gate.resamples, seed=gate.seed)
    facts: dict[str, Any] = {}
    for name, mean in zip(SHOWN, (found.mean, found.mean_balanced_accuracy, found.mean_brier), strict=True):
        entries = {domain: getattr(entry, name) for domain, entry in found.domains.items()}
        end = "interval" if name == "auc" else f"{name}_interval"
        facts[name] = {domain: entry.estimate if entry else None for domain, entry in entries.items()}
        facts[end] = {domain: [entry.lower, entry.upper] for domain, entry in entries.items() if entry}
        facts[f"mean_{name}"] = mean.estimate if mean else None
        facts[f"mean_{end}"] = [mean.lower, mean.upper] if mean else None
    return facts


def _teachers(
    workspace: Workspace, known: list[Release], about: Release | None, progress: Progress | None
) -> dict[str, Any]:
    lock = read_lock(workspace.lock_file)
    first = set(known[0].teachers) if known else set(lock.teachers)
    facts: dict[str, Any] = {}
    for name, spec in locked_specs(workspace, PluginHost.discover()).items():
        if about and name not in about.teachers:
            continue
        locked = lock.teachers[name]
        facts[name] = {
            "title": spec.title,
            "package": locked.package,
            "version": locked.version,
            "license": spec.license.weights,
            "embed_dim": spec.embed_dim,
            "image_size": spec.image.size,
            "logit_scale": spec.logit_scale,
            "domains": list(spec.domains),
            "fingerprint": spec.fingerprint,
            "added": name not in first,
            **_scores(workspace, zero_shot_of(workspace, name, progress)[0]),
        }
    for name in about.teachers if about else ():
        licence = about.facts["licenses"].get(name, {}) if about else {}
        gone = {"title": "not in use here any more", "license": licence.get("weights"), "added": name not in first}
        facts.setdefault(name, gone)
    return facts


def _trust(workspace: Workspace, known: list[Release], about: Release | None) -> dict[str, Any]:
    """Who was trusted with what: now, or when a release and what it grew from were made."""
    stale: list[str] = []
    if about:
        config = read_config(about.file(CONFIG)).trust
        paths = [path for found in known for name in found.teachers if (path := found.trust(name))]
        decided = {found.teacher: found for found in map(TeacherTrust.load, paths)}
    else:
        config = workspace.config.trust
        decided, stale = decided_here(workspace)
    sentences: dict[str, list[str]] = {}
    for name, found in decided.items():
        sentences.setdefault(found.sentence, []).append(name)
    keys = (
        "status",
        "accuracy",
        "balanced",
        "lower",
        "n",
        "patients",
        "admitted",
        "of",
        "trusted",
        "on_claim",
        "reason",
    )
    facts = {
        "rule": config.rule,
        "threshold": config.threshold,
        "strict": config.strict,
        "sentences": [{"says": says, "teachers": names} for says, names in sentences.items()],
        "undecided": stale,
        "teachers": {
            name: {domain: {key: entry[key] for key in keys} for domain, entry in found.to_json()["domains"].items()}
            for name, found in decided.items()
        },
    }
    swept = None if about else kept_sweep(workspace)
    return {**facts, "sweep": swept} if swept else facts


def _stage_one(workspace: Workspace, known: list[Release], progress: Progress | None) -> Predictions:
    if known:
        return before_any_teacher(workspace, known[0], progress)
    return zero_shot_of(workspace, STAGE_ONE, progress)[0]


def _release(workspace: Workspace, found: Release, in_use: Release | None) -> dict[str, Any]:
    keys = ("parent", "teachers", "recipe", "steps", "fidelity", "replayed")
    facts = {key: found.facts[key] for key in keys} | {"license": found.facts["license"]["weights"]}
    scores = _scores(workspace, Predictions.load(found.predictions))
    return {**facts, **scores, "current": in_use is not None and in_use.id == found.id}


def _store(workspace: Workspace) -> dict[str, Any]:
    with open_store(workspace) as store:
        info = store.info()
    tables = [
        {
            "teacher": table.facts.get("teacher", table.table),
            "tower": table.tower,
            "rows": table.rows,
            "dim": table.dim,
            "dtype": table.dtype,
            "bytes": table.bytes,
        }
        for table in info.tables
    ]
    tables.sort(key=lambda row: (str(row["teacher"]), str(row["tower"])))
    return {"rows": info.rows, "bytes": info.bytes, "bytes_raw": info.bytes_raw, "tables": tables}


def _integration(workspace: Workspace, known: list[Release], in_use: Release | None) -> dict[str, Any] | None:
    """The newest release with a parent: what it gained, what it forgot, what it cost."""
    grown = [found for found in known if found.parent]
    if not grown:
        return None
    candidate = grown[-1]
    parent = releases.release(workspace, str(candidate.parent))
    written, audit = audit_file(workspace, candidate.id, parent.id), kept_audit(workspace, candidate, parent)
    if audit is None:
        return None
    new = candidate.facts["new"]
    specs = locked_specs(workspace, PluginHost.discover())
    learnt = sorted({domain for name in new if name in specs for domain in specs[name].domains})
    keys = ("delta", "lower", "upper", "n", "groups", "verdict", "needed")
    rows = {row["part"]: row for row in audit["comparisons"] if (row["family"], row["metric"]) == ("zero-shot", "auc")}
    mean = rows.pop(MEAN, None)  # none where no image has a label
    first = next(found for found in known if not found.parent)
    return {
        "teacher": ", ".join(new),
        "parent": parent.id,
        "candidate": candidate.id,
        "gain": {domain: rows[domain]["delta"] for domain in learnt if domain in rows},
        "forgetting": {d: {key: entry[key] for key in keys} for d, entry in rows.items()},
        "mean": {key: mean[key] for key in ("delta", "lower", "upper")} if mean else None,
        "margin": audit["gate"]["families"]["zero-shot"]["auc"]["margin"] if mean is None else mean["margin"],
        "gate": audit["gate"]["hash"],
        "page": written.with_suffix(".html").relative_to(workspace.root).as_posix(),
        "verdict": audit["verdict"],
        "open": _open(audit),
        "promoted": in_use is not None and in_use.id == candidate.id,
        "cost_ratio": {
            "steps": candidate.facts["steps"] / first.facts["steps"],
            "samples": _samples_of(candidate) / _samples_of(first),
            "seconds": round(candidate.facts["seconds"] / max(first.facts["seconds"], 1e-9), 3),
            "basis": f"stage 2 of release {first.id}: distilling again with all teachers takes at least that",
        },
    }


def _open(audit: Mapping[str, Any]) -> list[dict[str, Any]]:
    """What keeps an audit from passing."""
    rows = [row for row in audit["comparisons"] if row["gates"] and row["verdict"] != "PASS"]
    rows += [row for row in audit["undefined"] if row["verdict"]]
    return [{key: row.get(key) for key in ("family", "metric", "part", "delta", "verdict")} for row in rows]


def _samples_of(release: Release) -> int:
    """Samples that its training went through: optimiser work, whatever the batches."""
    return int(release.facts["steps"]) * int(release.facts["batch_size"])
