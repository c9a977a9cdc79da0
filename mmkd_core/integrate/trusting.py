"""`mmkd audit trust`: claims beside measurements, and what another threshold would admit and make of the student.

.mmkd/audits/trust.json   everything: the table, and (``--sweep``) pairs by threshold and the students of the study
.mmkd/audits/trust.html   the same as a page; `mmkd report` shows the sweep as well
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from mmkd_core.audit.gap import gap, judged
from mmkd_core.audit.trust import THRESHOLDS, TrustRow, sweep, trust_table, verdict
from mmkd_core.integrate.features import Features, locked_specs, whole_store
from mmkd_core.integrate.studying import studied
from mmkd_core.integrate.teaching import run_trust
from mmkd_core.integrate.workspace import Workspace, identity, read_facts, trust_audit_file, write_json
from mmkd_core.plugins import PluginHost, read_lock
from mmkd_core.progress import Progress
from mmkd_core.report.trust_page import write_trust
from mmkd_core.trust import TeacherTrust, measure
from mmkd_core.trust.evidence import probes_of

SCHEMA = "mmkd.trust-audit/v2"
STUDY = "threshold"


def run_trust_audit(workspace: Workspace, swept: bool, progress: Progress | None = None) -> dict[str, Any]:
    """Set what teachers claim beside what they do here, write JSON and page, and return the facts.

    Args:
        swept: also count the pairs that each threshold from 0 to 1 would admit, and show the students that
            `mmkd study threshold` trained at some of them.
    """
    rows = trust_rows(workspace, run_trust(workspace, progress))
    found = verdict(rows)
    config = workspace.config.trust
    facts: dict[str, Any] = {
        "schema": SCHEMA,
        "of": _inputs(workspace),
        "verdict": found.value if found else None,
        "exit_code": found.exit_code if found else 0,
        "rule": config.rule,
        "sentence": config.sentence,
        "threshold": config.threshold,
        "rows": [asdict(row) for row in rows],
    }
    if swept:
        facts["sweep"] = {"thresholds": list(THRESHOLDS), "teachers": _swept(workspace, progress)}
        facts["students"] = _students(workspace)
    path = trust_audit_file(workspace)
    write_json(path, facts)
    write_trust(facts, path.with_suffix(".html"))
    return facts


def trust_rows(workspace: Workspace, decided: Mapping[str, TeacherTrust]) -> list[TrustRow]:
    """What was found of each teacher in each domain, claims and the test split beside it."""
    corpus, config = workspace.corpus(), workspace.config.trust
    specs = locked_specs(workspace, PluginHost.discover())
    gaps = {}
    with whole_store(workspace) as store:
        for name, trust in decided.items():
            view = Features(specs[name], corpus, store).view()
            for domain, known in trust.domains.items():
                probes, tests = (probes_of(view, corpus, domain, split) for split in (known.probe, "test"))
                if known.verified and (found := gap(probes, tests, config.seed)):
                    gaps[name, domain] = found
    return trust_table(decided.values(), {name: spec.trust for name, spec in specs.items()}, judged(gaps))


def kept_sweep(workspace: Workspace) -> dict[str, Any] | None:
    """The sweep that was kept, if it is of the data and the teachers that are in use now; its students as of now."""
    facts = read_facts(trust_audit_file(workspace))
    if "sweep" not in facts or facts.get("of") != _inputs(workspace):
        return None
    return {"sweep": facts["sweep"], "students": _students(workspace), "threshold": facts["threshold"]}


def _swept(workspace: Workspace, progress: Progress | None) -> dict[str, dict[str, dict[str, Any]]]:
    """By teacher and domain. Features are read once; each threshold is only another mask."""
    corpus, config = workspace.corpus(), workspace.config.trust
    found: dict[str, dict[str, dict[str, Any]]] = {}
    with whole_store(workspace) as store:
        for name, spec in locked_specs(workspace, PluginHost.discover()).items():
            evidence = measure(Features(spec, corpus, store).view(), corpus, config)
            found[name] = {domain: vars(row) for domain, row in sweep(evidence, config).items()}
    return found


def _students(workspace: Workspace) -> dict[str, Any]:
    """What the study of thresholds has found so far: each student learnt for the same number of steps."""
    table, missing = studied(workspace, STUDY)
    return {
        "command": f"mmkd study {STUDY}",
        "steps": workspace.config.distill.steps,
        "rows": [row.to_json() for row in table],
        "missing": missing,
    }


def _inputs(workspace: Workspace) -> str:
    lock = {name: teacher.fingerprint for name, teacher in read_lock(workspace.lock_file).teachers.items()}
    settings = {**asdict(workspace.config.trust), "rule": None, "threshold": None}
    return identity(workspace.corpus().fingerprint, lock, settings)
