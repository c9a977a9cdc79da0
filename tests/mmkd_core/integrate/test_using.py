"""What may come into use, by force or without, and what is written down of it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from mmkd_core.audit.forgetting import SCHEMA as AUDIT_SCHEMA
from mmkd_core.audit.gate import GATE, Gate, GateError, Rule, write_gate
from mmkd_core.errors import ReleaseError, WorkspaceError
from mmkd_core.integrate import history, releases
from mmkd_core.integrate.auditing import gate_for
from mmkd_core.integrate.audits import audit_file, keep_audit
from mmkd_core.integrate.using import put_into_use, standing
from mmkd_core.integrate.workspace import Config, Workspace


def release(workspace: Workspace, parent: str | None, gate: Gate | None = None) -> str:
    staging = workspace.root / "staging"
    staging.mkdir()
    write_gate(staging / GATE, gate or workspace.gate())
    facts: dict[str, Any] = {"identity": f"of {parent}", "parent": parent, "teachers": [], "new": [], "fidelity": {}}
    return releases.commit(workspace, staging, facts).id


def say(workspace: Workspace, name: str, verdict: str, gate: Gate | None = None) -> None:
    """Write the outcome of an audit against 0001."""
    facts = {"schema": AUDIT_SCHEMA, "verdict": verdict, "gate": {"hash": (gate or workspace.gate()).hash}}
    keep_audit(workspace, releases.release(workspace, name), releases.release(workspace, "0001"), "data", facts)


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    """0001 is in use as the first; 0002 is its child and was never audited."""
    made = Workspace.create(tmp_path / "ws", Config())
    release(made, None)
    release(made, "0001")
    releases.promote(made, "0001", "first")
    return made


def in_use(workspace: Workspace) -> str:
    return (workspace.releases / "CURRENT").read_text().strip()


@pytest.mark.parametrize(
    ("verdict", "words"),
    [
        (None, "release 0002 did not pass an audit (it was never audited)"),
        ("FAIL", "release 0002 did not pass an audit (FAIL against 0001)"),
        ("INCONCLUSIVE", "release 0002 did not pass an audit (INCONCLUSIVE against 0001)"),
    ],
)
def test_what_did_not_pass_comes_into_use_by_force_alone(workspace, verdict, words):
    if verdict:
        say(workspace, "0002", verdict)
    with pytest.raises(ReleaseError) as refused:
        put_into_use(workspace, "0002")
    assert str(refused.value).startswith(words)
    assert "`mmkd releases rollback 0002 --force --because TEXT`" in str(refused.value)
    assert in_use(workspace) == "0001"
    chosen, before = put_into_use(workspace, "0002", force=True, because="the clinic needs it")
    assert (chosen.id, before, in_use(workspace)) == ("0002", "0001", "0002")
    (entry,) = history.entries(workspace, "0002")
    assert (entry.way, entry.before, entry.because) == ("forced", "0001", "the clinic needs it")
    assert entry.by == history._user()
    assert entry.sentence.endswith("(the clinic needs it)")
    # Back to what was in use by right nobody has to be asked; again to what was forced, yes.
    assert put_into_use(workspace, "0001")[0].id == "0001"
    with pytest.raises(ReleaseError, match="did not pass"):
        put_into_use(workspace, "0002")


def test_what_passed_may_come_and_go(workspace):
    say(workspace, "0002", "PASS")
    assert standing(workspace, releases.release(workspace, "0002")) == "PASS"
    put_into_use(workspace, "0002")
    put_into_use(workspace, "0001")
    put_into_use(workspace, "0002")
    assert [entry.way for entry in history.entries(workspace)] == ["first", "back", "back", "back"]


def test_a_pass_of_another_release_of_that_number_is_none(workspace):
    say(workspace, "0002", "PASS")
    shutil.rmtree(workspace.releases / "0002")
    release(workspace, "0001", Gate(seed=9))
    assert standing(workspace, releases.release(workspace, "0002")) == "not audited"
    with pytest.raises(ReleaseError, match="never audited"):
        put_into_use(workspace, "0002")


def test_a_pass_that_was_written_by_hand_is_refused(workspace):
    say(workspace, "0002", "FAIL")
    path = audit_file(workspace, "0002", "0001")
    path.write_text(path.read_text().replace("FAIL", "PASS"))
    assert standing(workspace, releases.release(workspace, "0002")) == "damaged"
    with pytest.raises(WorkspaceError, match=r"the audit of 0002 against 0001 is damaged.*mmkd audit forgetting"):
        put_into_use(workspace, "0002")
    assert in_use(workspace) == "0001"


def test_a_pass_under_another_gate_is_none(workspace):
    say(workspace, "0002", "PASS", Gate(seed=9))
    assert standing(workspace, releases.release(workspace, "0002")) == "PASS under another gate"
    with pytest.raises(ReleaseError, match="PASS against 0001, under another gate than its own"):
        put_into_use(workspace, "0002")


def test_a_second_release_from_scratch_was_compared_with_nothing(workspace):
    name = release(workspace, None)
    assert standing(workspace, releases.release(workspace, name)) == "nothing to compare with"
    with pytest.raises(ReleaseError, match="it has no parent to be compared with, and was never in use"):
        put_into_use(workspace, name)


def test_the_release_in_use_stays_without_a_word(workspace):
    assert put_into_use(workspace, "0001")[1] == "0001"
    assert len(history.entries(workspace)) == 1


@pytest.mark.parametrize(("name", "force"), [("0001", False), ("0001", True), ("0002", True)])
def test_a_damaged_release_is_not_put_into_use_not_even_again_or_by_force(workspace, name, force):
    gate = workspace.releases / name / GATE
    gate.write_bytes(gate.read_bytes() + b" ")
    with pytest.raises(ReleaseError, match=f"release {name} is damaged: {GATE} is changed"):
        put_into_use(workspace, name, force, "because" if force else None)
    assert in_use(workspace) == "0001"


def test_the_log_keeps_what_it_cannot_read(workspace):
    path = workspace.releases / history.LOG
    path.write_bytes(path.read_bytes() + b'{"cut off\n\xff\n')
    history.note(workspace, "0002", "study", "0001")
    assert path.read_bytes().count(b"\n") == 4
    assert [entry.way for entry in history.entries(workspace)] == ["first", "study"]
    assert history.entries(workspace)[0].sentence.startswith("put into use as the first release")
    assert json.loads(path.read_text(errors="replace").splitlines()[0])["release"] == "0001"


def test_a_gate_that_was_changed_after_the_candidate_was_made(workspace):
    new = releases.release(workspace, "0002")
    assert gate_for(workspace, new)[1] == {}
    wide = Gate(seed=1, families={"zero-shot": {"auc": Rule(gates=True, margin=0.99, parts={"mri": 0.5})}})
    write_gate(workspace.root / GATE, wide)
    with pytest.raises(GateError) as refused:
        gate_for(workspace, new)
    told = "gate.yaml was changed since release 0002 was made: seed was 0 and is 1; zero-shot auc margin was 0.02 and "
    assert str(refused.value).startswith(told + "is 0.99; zero-shot auc parts mri was not set and is 0.5 (")
    assert gate_for(workspace, new, force=True) == (wide, wide.changes(Gate()))
    (workspace.root / GATE).unlink()  # then the default holds, which is what the candidate was made with
    assert gate_for(workspace, new) == (Gate(), {})
