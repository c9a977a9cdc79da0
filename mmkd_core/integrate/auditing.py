"""One audit of two releases, from their files to the files that it leaves.

.mmkd/audits/0002-against-0001.json   everything, with ``replay_first`` for the next integration
.mmkd/audits/0002-against-0001.xml    JUnit: one test case per comparison
.mmkd/audits/0002-against-0001.html   a page with the images that got worse
"""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from typing import Any

from mmkd_core.audit.drift import drift_table
from mmkd_core.audit.evidence import Evidence
from mmkd_core.audit.forgetting import ForgettingAudit, forgetting
from mmkd_core.audit.gate import GATE, Gate, GateError, read_gate
from mmkd_core.data.manifest import Corpus
from mmkd_core.errors import DataError
from mmkd_core.evaluate.embeddings import Embeddings
from mmkd_core.integrate.audits import audit_file, keep_audit
from mmkd_core.integrate.evidence import References, evidence_of, references
from mmkd_core.integrate.flip_cards import Card, cards, replay_first
from mmkd_core.integrate.releases import Release
from mmkd_core.integrate.workspace import Workspace
from mmkd_core.report.audit_page import SHOWN, write_audit
from mmkd_core.report.junit import write_junit

TOLD = 5
"""Changed settings of a gate that an error names."""
PICTURE = 160
"""Longer side of an image on the page, in pixels."""


@dataclass(frozen=True)
class Gathered:
    """What two releases said, (candidate, parent) each, and the teachers that both are measured by."""

    evidence: tuple[Evidence, Evidence]
    embeddings: tuple[Embeddings, Embeddings]
    references: References


def gathered(workspace: Workspace, new: Release, old: Release, corpus: Corpus) -> Gathered:
    """The evidence of two releases; fidelity is to the teachers that the earlier one learnt from."""
    after, before = (Embeddings.load(found.embeddings) for found in (new, old))
    asked = references(workspace, (old, new), corpus)
    earlier = asked.of(old.teachers)
    pair = evidence_of(new, after, corpus, earlier), evidence_of(old, before, corpus, earlier)
    return Gathered(pair, (after, before), asked)


def gate_for(workspace: Workspace, new: Release, force: bool = False) -> tuple[Gate, dict[str, dict[str, Any]]]:
    """The gate of the workspace, and its settings that were others when a candidate was made.

    Raises:
        GateError: there are such settings, and nobody forces it: a gate is fixed before anybody looks.
    """
    gate, before = workspace.gate(), read_gate(new.file(GATE))
    changed = gate.changes(before)
    if changed and not force:
        told = [f"{name} was {_set(one['was'])} and is {_set(one['is'])}" for name, one in changed.items()]
        more = f"; and {len(told) - TOLD} more" if len(told) > TOLD else ""
        raise GateError(
            f"gate.yaml was changed since release {new.id} was made: {'; '.join(told[:TOLD])}{more}",
            where=str(workspace.root / GATE),
            next="Put it back, or make a candidate under it with `mmkd distill --incremental`; with --force --because "
            "TEXT it is judged by the changed gate, and that is recorded",
        )
    return gate, changed


def audited(
    workspace: Workspace,
    new: Release,
    old: Release,
    gate: Gate,
    changed: Mapping[str, Any],
) -> ForgettingAudit:
    """Compare two releases and write what came of it.

    Args:
        changed: settings of the gate that were others when the candidate was made.
    """
    corpus = workspace.corpus()
    known = gathered(workspace, new, old, corpus)
    (after, before), asked = known.evidence, known.references
    audit = forgetting(after, before, gate)
    found = cards(
        workspace,
        audit,
        corpus,
        (new, after.predictions),
        (old, before.predictions, known.embeddings[1]),
        asked.teachers,
    )
    domains = {str(s): str(d) for s, d in zip(corpus.sample_id, corpus.domain, strict=True)}
    facts: dict[str, Any] = {
        **audit.to_json(),
        "candidate": new.id,
        "parent": old.id,
        "gate_changed": dict(changed),
        "looks": len({audit_file(workspace, new.id, old.id), *workspace.audits.glob(f"*-against-{old.id}.json")}),
        "drift": drift_table(known.embeddings[1], known.embeddings[0], domains),
        "cards": [asdict(card) for card in found],
        "replay_first": replay_first(found),
    }
    path = keep_audit(workspace, new, old, corpus.fingerprint, facts)
    write_junit(facts, path.with_suffix(".xml"))
    write_audit(facts, _pictures(corpus, found), path.with_suffix(".html"))
    return audit


def _pictures(corpus: Corpus, found: Sequence[Card]) -> dict[str, bytes]:
    """Small JPEGs of the samples that the page shows; one that cannot be read is left out."""
    row = {str(sample): i for i, sample in enumerate(corpus.sample_id)}
    pictures = {}
    for card in found[:SHOWN]:
        for sample in (card.sample_id, card.replayed or (card.train[0] if card.train else "")):
            if sample in row and sample not in pictures:
                with suppress(DataError, OSError):
                    image = corpus.open(row[sample]).convert("RGB")
                    image.thumbnail((PICTURE, PICTURE))
                    file = io.BytesIO()
                    image.save(file, "JPEG", quality=88)
                    pictures[sample] = file.getvalue()
    return pictures


def _set(value: Any) -> str:
    return "not set" if value is None else str(value)
