"""One audit of two releases, from their files to the files that it leaves.

.mmkd/audits/0002-against-0001.json   everything, with ``replay_first`` for the next integration
.mmkd/audits/0002-against-0001.xml    JUnit: one test case per comparison
.mmkd/audits/0002-against-0001.html   a page with the images that got worse
"""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

from mmkd_core.audit.drift import drift_table
from mmkd_core.audit.forgetting import ForgettingAudit, forgetting
from mmkd_core.audit.gate import GATE, read_gate
from mmkd_core.integrate.evidence import embeddings_of, evidence_of, references
from mmkd_core.integrate.flip_cards import cards, replay_first
from mmkd_core.integrate.releases import Release
from mmkd_core.integrate.workspace import Workspace, write_json
from mmkd_core.progress import Progress
from mmkd_core.report.junit import write_junit


def audit_file(workspace: Workspace, new: Release, old: Release) -> Path:
    """The JSON file of an audit; the others lie beside it."""
    return workspace.audits / f"{new.id}-against-{old.id}.json"


def audited(workspace: Workspace, new: Release, old: Release, progress: Progress | None = None) -> ForgettingAudit:
    """Compare two releases and write what came of it."""
    corpus, gate = workspace.corpus(), workspace.gate()
    embedded = {found.id: embeddings_of(workspace, found, corpus, progress) for found in (new, old)}
    asked = references(workspace, old, corpus)
    evidence = {found.id: evidence_of(found, embedded[found.id], corpus, asked.teachers) for found in (new, old)}
    audit = forgetting(evidence[new.id], evidence[old.id], gate)
    audit.undefined.update({f"fidelity to {name}": reason for name, reason in asked.missing.items()})
    found = cards(
        workspace,
        audit,
        corpus,
        (new, evidence[new.id].predictions),
        (old, evidence[old.id].predictions, embedded[old.id]),
        asked.teachers,
    )
    domains = {str(s): str(d) for s, d in zip(corpus.sample_id, corpus.domain, strict=True)}
    facts: dict[str, Any] = {
        **audit.to_json(),
        "candidate": new.id,
        "parent": old.id,
        "gate_changed": _changed(new, gate.hash),
        "drift": drift_table(embedded[old.id], embedded[new.id], domains),
        "cards": [asdict(card) for card in found],
        "replay_first": replay_first(found),
    }
    path = audit_file(workspace, new, old)
    write_json(path, facts)
    write_junit(facts, path.with_suffix(".xml"))
    return audit


def _changed(new: Release, gate: str) -> str | None:
    """Hash of the gate under which the candidate was made, if it is not the present one."""
    path = new.folder / GATE
    before = read_gate(path).hash if path.exists() else gate
    return before if before != gate else None
