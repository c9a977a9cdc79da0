"""The steps that look and do not touch: evaluations of teachers and students, retrieval, the audit of forgetting."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from mmkd_core.audit.chain import Chain, Learnt, chain
from mmkd_core.audit.comparison import Undefined, Verdict
from mmkd_core.audit.forgetting import ForgettingAudit
from mmkd_core.audit.self_test import SelfTest, self_test
from mmkd_core.contract import TeacherSpec
from mmkd_core.errors import DataError, ReleaseError
from mmkd_core.evaluate.embeddings import Embeddings
from mmkd_core.evaluate.predictions import Predictions
from mmkd_core.evaluate.retrieval import Retrieval, retrieval
from mmkd_core.evaluate.zero_shot import zero_shot
from mmkd_core.integrate import history, releases
from mmkd_core.integrate.auditing import audited, gate_for, gathered
from mmkd_core.integrate.evidence import evidence_before, evidence_of, references
from mmkd_core.integrate.features import Features, locked_specs, whole_store
from mmkd_core.integrate.releases import Release
from mmkd_core.integrate.stage_one import stage_one, stage_one_of
from mmkd_core.integrate.student_data import embed_images, pixels_of, predict
from mmkd_core.integrate.workspace import Workspace, write_json
from mmkd_core.plugins import PluginHost
from mmkd_core.progress import Progress
from mmkd_core.report.chain_page import write_chain
from mmkd_core.report.junit import write_junit
from mmkd_core.student import parallel
from mmkd_core.student.model import Student
from mmkd_core.trust import TeacherTrust

STAGE_ONE = "stage-1"
SPLIT = "test"


def zero_shot_of(workspace: Workspace, model: str, progress: Progress | None = None) -> tuple[Predictions, Path]:
    """Zero-shot predictions on the test split of a locked teacher, a release ("0001", "current") or "stage-1".

    Returns:
        The predictions and the parquet file that holds them.
    """
    found = releases.named(workspace, model)
    if found:
        _say_older(workspace, found, progress)
        return Predictions.load(found.predictions), found.predictions
    out = workspace.evaluations / f"{model}.parquet"
    corpus = workspace.corpus()
    if model == STAGE_ONE:
        student = Student.load(stage_one(workspace))
        predictions = predict(student, corpus, pixels_of(workspace, corpus, progress, student), SPLIT)
    else:
        spec = _teacher(workspace, model)
        rows = corpus.where(split=SPLIT)
        with whole_store(workspace) as store:
            features = Features(spec, corpus, store)
            predictions = zero_shot(features.images(rows), features.classes(), spec.logit_scale, corpus.take(rows))
    predictions.save(out)
    return predictions, out


def _say_older(workspace: Workspace, found: Release, progress: Progress | None) -> None:
    """Say so where a release was measured on other data, or by other sentences, than there are now."""
    measured = found.facts.get("inputs", {}).get("corpus")
    with suppress(DataError):  # no data, nothing that differs
        if progress and measured and measured != workspace.corpus().fingerprint:
            what = "its figures are of the samples and the sentences of classes as they were"
            progress.say(f"the data changed since release {found.id} was made: {what}")


def before_any_teacher(workspace: Workspace, first: Release, progress: Progress | None = None) -> Predictions:
    """Zero-shot predictions on the test split of the student that a first release was made from.

    Raises:
        ReleaseError: its stage 1 is not there any more.
    """
    student, corpus = Student.load(stage_one_of(workspace, first)), workspace.corpus()
    return predict(student, corpus, pixels_of(workspace, corpus, progress, student), SPLIT)


def retrieval_of(workspace: Workspace, model: str, progress: Progress | None = None) -> Retrieval:
    """Image-to-text and text-to-image retrieval on the test split."""
    corpus = workspace.corpus()
    rows = corpus.where(split=SPLIT)
    part = corpus.take(rows)
    found = releases.named(workspace, model)
    if found or model == STAGE_ONE:
        student = Student.load(found.student if found else stage_one(workspace))
        images = embed_images(student, corpus, pixels_of(workspace, corpus, progress, student), rows)
        texts = student.embed_texts(part.texts)
    else:
        with whole_store(workspace) as store:
            features = Features(_teacher(workspace, model), corpus, store)
            images, texts = features.images(rows), features.texts(tuple(part.texts))
    return retrieval(images[part.owners], texts, part.image_id[part.owners], part.text_ids)


def run_audit(
    workspace: Workspace,
    candidate: str | None = None,
    parent: str | None = None,
    force: bool = False,
    because: str | None = None,
) -> tuple[ForgettingAudit, Release, Release]:
    """Compare a release with its parent, keep the outcome and, on PASS, put the newest release in use.

    Of several processes the leader does it, and all get the audit.

    Args:
        candidate: the newest release by default.
        parent: the candidate's own parent by default.
        force: judge by a gate that was changed since the candidate was made; it is logged who did it, and why.
        because: why.

    Returns:
        The audit, the candidate and what it was compared with. The outcome lies at ``auditing.audit_file``.

    Raises:
        ReleaseError: the candidate has no parent, so that there is nothing that it could have forgotten.
        GateError: the gate was changed since the candidate was made.
    """
    new, old = pair_of(workspace, candidate, parent)
    gate, changed = gate_for(workspace, new, force)

    def look() -> dict[str, Any]:
        audit, in_use = audited(workspace, new, old, gate, changed), releases.in_use(workspace)
        # An audit of old releases is a question, not a promotion: only a child of the release in use may replace it.
        if audit.verdict is Verdict.PASS and old.id == in_use and new.parent == old.id:
            releases.promote(workspace, new.id, "passed another gate" if changed else "passed", because, changed)
        elif changed:
            history.note(workspace, new.id, "judged by another gate", in_use, because, changed)
        return audit.to_json()

    return ForgettingAudit.from_json(parallel.by_leader(look)), new, old


def run_self_test(
    workspace: Workspace, candidate: str | None = None, parent: str | None = None, progress: Progress | None = None
) -> tuple[SelfTest, Release, Release]:
    """Audit alike copies of a release and its parent, and keep how often they raise a false alarm."""
    new, old = pair_of(workspace, candidate, parent)
    corpus = workspace.corpus()
    found = self_test(*gathered(workspace, new, old, corpus).evidence, workspace.gate(), progress=progress)
    write_json(workspace.audits / f"self-test-{new.id}-{old.id}.json", found.to_json())
    return found, new, old


def run_chain(
    workspace: Workspace,
    candidate: str | None = None,
    progress: Progress | None = None,
    force: bool = False,
    because: str | None = None,
) -> Chain:
    """Compare a release (by default the newest) with all that it grew from, and keep the matrices.

    Args:
        force, because: as of ``run_audit``.

    Raises:
        ReleaseError: it has no parent.
        GateError: the gate was changed since the release was made.
    """
    new, _ = pair_of(workspace, candidate, None)
    gate, changed = gate_for(workspace, new, force)
    if changed:
        history.note(workspace, new.id, "judged by another gate", releases.in_use(workspace), because, changed)
    line = [new]
    while line[0].parent:
        line.insert(0, releases.release(workspace, line[0].parent))
    corpus = workspace.corpus()
    asked = references(workspace, line, corpus)
    evidence = {
        release.id: evidence_of(release, Embeddings.load(release.embeddings), corpus, asked) for release in line
    }
    beyond: tuple[Undefined, ...] = ()
    try:
        said = before_any_teacher(workspace, line[0], progress)
        before = evidence_before(said, evidence[line[0].id].predictions, corpus, asked.teachers)
    except ReleaseError as error:
        why = f"{error.what}; chance stands for it"
        before, beyond = (
            None,
            (Undefined("zero-shot", "auc", "of the student before any teacher", False, why, error.next),),
        )
    found = chain(evidence, _learnt(line), before, gate)
    found = replace(found, undefined=(*found.undefined, *beyond))
    path = workspace.audits / f"chain-to-{new.id}.json"
    facts = {**found.to_json(), "candidate": new.id, "parent": line[0].id, "gate_changed": changed}
    write_json(path, facts)
    write_junit(facts, path.with_suffix(".xml"))
    write_chain(facts, path.with_suffix(".html"))
    return found


def pair_of(workspace: Workspace, candidate: str | None, parent: str | None) -> tuple[Release, Release]:
    """The candidate (by default the newest release) and what it is compared with (by default its parent).

    Raises:
        ReleaseError: there is no such release, or the candidate has no parent.
    """
    known = releases.all_releases(workspace)
    if candidate is None and not known:
        raise ReleaseError("there is no release to audit", next="Run `mmkd distill`")
    new = releases.release(workspace, candidate) if candidate else known[-1]
    against = parent or new.parent
    if against == new.id:
        raise ReleaseError(f"release {new.id} is compared with itself", next="Name another one with --against")
    if against is None:
        what = f"release {new.id} has no parent, so there is nothing that it could have forgotten"
        raise ReleaseError(what, next="Run `mmkd distill --incremental`, or name one with --against")
    return new, releases.release(workspace, against)


def _learnt(line: Sequence[Release]) -> Learnt:
    """By domain the first release of a line with a teacher that was trusted with all of it; by teacher its own."""
    domains: dict[str, str] = {}
    teachers: dict[str, str] = {}
    for release in line:
        for name in release.facts["new"]:
            teachers.setdefault(name, release.id)
            path = release.trust(name)
            decided = TeacherTrust.load(path).domains if path else {}
            for domain, trust in decided.items():
                if trust.trusted:
                    domains.setdefault(domain, release.id)
    return Learnt(domains, teachers)


def _teacher(workspace: Workspace, name: str) -> TeacherSpec:
    specs = locked_specs(workspace, PluginHost.discover())
    if name not in specs:
        PluginHost.discover().teacher(name)  # an unknown name raises with the nearest ones
        raise ReleaseError(f"teacher {name} is not in use here", next=f"Run `mmkd teachers add {name}`")
    return specs[name]
