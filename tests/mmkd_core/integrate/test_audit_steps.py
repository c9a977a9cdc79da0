"""The real audit of real releases: the rows that it looks at, files that are gone, and what it puts into use."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from mmkd_core.audit.comparison import Verdict
from mmkd_core.audit.forgetting import ForgettingAudit
from mmkd_core.audit.gate import GATE, Gate, GateError, Rule, read_gate, write_gate
from mmkd_core.data.eval_sets import EvalSet
from mmkd_core.errors import DataError, ReleaseError
from mmkd_core.evaluate.predictions import DomainPredictions, Predictions
from mmkd_core.files import forget_hashes
from mmkd_core.integrate import forecasting, history, releases
from mmkd_core.integrate.auditing import gathered
from mmkd_core.integrate.evaluating import evaluate_set
from mmkd_core.integrate.evidence import references
from mmkd_core.integrate.forecasting import run_forecast
from mmkd_core.integrate.measuring import run_audit, run_chain, zero_shot_of
from mmkd_core.integrate.releases import Release
from mmkd_core.integrate.repairing import run_repair
from mmkd_core.integrate.teaching import run_incremental
from mmkd_core.integrate.workspace import Workspace
from mmkd_core.plugins import read_lock, write_lock
from mmkd_core.progress import Silent
from mmkd_core.trust import TeacherTrust

Change = Callable[[DomainPredictions], np.ndarray]
KNOWN = ("id", "files", "schema", "sha256")


def gate(margin: float = 0.9, cosine: float = 0.9) -> Gate:
    rules = {
        family: {name: Rule(gates=rule.gates, margin=margin) for name, rule in metrics.items()}
        for family, metrics in Gate().families.items()
    }
    rules["fidelity"]["cosine"] = Rule(gates=True, margin=cosine)
    return Gate(families=rules, resamples=200)


def perfect(part: DomainPredictions) -> np.ndarray:
    return 3.0 * np.eye(len(part.classes))[part.truth]


def inverted(part: DomainPredictions) -> np.ndarray:
    return -perfect(part)


def child(workspace: Workspace, of: str | None, answers: Change = perfect, like: str = "0001", **more: Any) -> str:
    """A release that says ``answers``, with all else of another; made under the gate of the workspace."""
    source = releases.release(workspace, like)
    staging = workspace.runs / "staging"
    shutil.copytree(source.folder, staging)
    (staging / "release.json").unlink()
    said = Predictions.load(source.predictions)
    domains = {
        name: DomainPredictions.build(part.sample_id, part.group_id, part.label, answers(part), part.classes)
        for name, part in said.domains.items()
    }
    Predictions(domains, said.protocol).save(staging / "predictions.parquet")
    write_gate(staging / GATE, workspace.gate())
    facts = {key: value for key, value in source.facts.items() if key not in KNOWN}
    number = len(releases.all_releases(workspace))
    return releases.commit(workspace, staging, {**facts, "parent": of, "identity": f"child {number}", **more}).id


@pytest.fixture
def workspace(arrived: Callable[..., Workspace]) -> Workspace:
    """Release 0002 names all images rightly and is in use; 0001 is what it and all others are copies of."""
    made = arrived()
    write_gate(made.root / GATE, gate())
    assert child(made, None) == "0002"
    releases.promote(made, "0002", "study")
    return made


# --- what CURRENT names afterwards ----------------------------------------------------------------


@pytest.mark.parametrize(
    ("answers", "margin", "verdict", "in_use"),
    [
        (perfect, 0.9, Verdict.PASS, "0003"),
        (inverted, 0.3, Verdict.FAIL, "0002"),
        (perfect, 0.001, Verdict.INCONCLUSIVE, "0002"),  # alike, which so few images cannot show to a tenth of a point
    ],
)
def test_only_a_pass_is_put_into_use(workspace, answers, margin, verdict, in_use):
    write_gate(workspace.root / GATE, gate(margin))
    made = child(workspace, "0002", answers)
    audit, new, old = run_audit(workspace)
    assert (new.id, old.id, audit.verdict) == (made, "0002", verdict)
    assert releases.in_use(workspace) == in_use
    assert [e.way for e in history.entries(workspace, made)] == (["passed"] if verdict is Verdict.PASS else [])


def test_a_stranger_is_not_put_into_use_whatever_it_passes(workspace):
    """It is the child of a release that is not in use; or it is compared with one that is not its parent."""
    other = child(workspace, "0001")
    audit, _, old = run_audit(workspace, other)
    assert (old.id, audit.verdict, releases.in_use(workspace)) == ("0001", Verdict.PASS, "0002")
    audit, _, old = run_audit(workspace, other, "0002")
    assert (old.id, audit.verdict, releases.in_use(workspace)) == ("0002", Verdict.PASS, "0002")
    mine = child(workspace, "0002")
    assert run_audit(workspace, mine, "0001")[0].verdict is Verdict.PASS
    assert releases.in_use(workspace) == "0002"


def test_a_gate_that_was_changed_is_refused_and_forced_on_the_record(workspace):
    write_gate(workspace.root / GATE, gate(0.001))
    made = child(workspace, "0002")
    write_gate(workspace.root / GATE, gate(0.9))
    for step in (run_audit, run_chain, run_repair):
        with pytest.raises(GateError, match=r"since release 0003 was made: .*auc margin was 0\.001 and is 0\.9"):
            step(workspace, made)
    assert releases.in_use(workspace) == "0002"
    audit, *_ = run_audit(workspace, made, force=True, because="agreed with the clinic")
    assert (audit.verdict, releases.in_use(workspace)) == (Verdict.PASS, "0003")
    (entry,) = history.entries(workspace, made)
    assert (entry.way, entry.because) == ("passed another gate", "agreed with the clinic")
    assert entry.gate["zero-shot auc margin"] == {"was": 0.001, "is": 0.9}


def test_another_gate_makes_another_candidate(arrived):
    workspace = arrived()
    first = run_incremental(workspace)
    assert (run_incremental(workspace).made, run_incremental(workspace).release.id) == (False, first.release.id)
    write_gate(workspace.root / GATE, gate(0.5))
    second = run_incremental(workspace)
    assert (second.made, second.release.id != first.release.id) == (True, True)
    assert read_gate(second.release.file(GATE)) == gate(0.5)
    assert read_gate(first.release.file(GATE)) == Gate()


def test_a_release_that_was_made_from_nothing_is_compared_with_nothing(workspace):
    with pytest.raises(ReleaseError, match="release 0002 has no parent, so there is nothing that it could"):
        run_audit(workspace, "0002")


# --- comparisons that cannot be made --------------------------------------------------------------


def blocked(workspace: Workspace) -> tuple[ForgettingAudit, list[tuple[str, str]]]:
    """An audit that passes but for what it cannot compare, and what that is: part and way out."""
    child(workspace, "0002")
    audit = run_audit(workspace)[0]
    assert (audit.verdict, audit.open, releases.in_use(workspace)) == (Verdict.INCONCLUSIVE, [], "0002")
    return audit, [(row.part, row.next) for row in audit.blocking]


def test_a_teacher_that_is_gone(workspace):
    write_lock(workspace.lock_file, read_lock(workspace.lock_file).without("phantom-eye"))
    assert blocked(workspace)[1] == [("phantom-eye", "Run `mmkd teachers add phantom-eye`")]
    with pytest.raises(ReleaseError, match=r"fidelity cosine phantom-eye could not be compared: .*teachers add"):
        run_repair(workspace, "0003")


def test_features_that_are_gone(workspace):
    shutil.rmtree(workspace.store)
    parts = blocked(workspace)[1]
    assert [part for part, _ in parts] == ["phantom-eye", "phantom-radio"]
    assert {"mmkd extract" in way for _, way in parts} == {True}


def test_a_trust_file_that_is_damaged(workspace):
    path = workspace.releases / "0002" / "trust" / "phantom-radio.npz"
    path.write_bytes(bytes(300) + path.read_bytes()[300:])
    forget_hashes()
    audit, parts = blocked(workspace)
    assert [part for part, _ in parts] == ["phantom-radio"]
    assert "trust/phantom-radio.npz is changed" in audit.blocking[0].reason


def test_a_domain_that_the_candidate_was_not_measured_on(workspace):
    made = releases.release(workspace, child(workspace, "0002"))
    said = Predictions.load(made.predictions)
    staging = workspace.runs / "staging"
    shutil.copytree(made.folder, staging)
    (staging / "release.json").unlink()
    fewer = {domain: part for domain, part in said.domains.items() if domain != "mri"}
    Predictions(fewer, said.protocol).save(staging / "predictions.parquet")
    facts = {key: value for key, value in made.facts.items() if key not in KNOWN}
    releases.commit(workspace, staging, {**facts, "identity": "fewer"})
    audit = run_audit(workspace)[0]
    assert {row.key for row in audit.blocking} == {
        ("zero-shot", "auc", "mri"), ("zero-shot", "balanced_accuracy", "mri"), ("calibration", "brier", "mri"),
    }  # fmt: skip
    assert (audit.verdict, releases.in_use(workspace)) == (Verdict.INCONCLUSIVE, "0002")


# --- which rows are looked at ---------------------------------------------------------------------


def split_of(workspace: Workspace, names: Any) -> set[str]:
    corpus = workspace.corpus()
    split = dict(zip(corpus.sample_id, corpus.split, strict=True))
    return {str(split[name]) for name in names}


def test_audits_look_at_test_rows_and_fidelity_at_trusted_ones(workspace):
    made = child(workspace, "0002")
    pair: list[Release] = [releases.release(workspace, name) for name in (made, "0002")]
    corpus = workspace.corpus()
    known = gathered(workspace, pair[0], pair[1], corpus)
    for evidence in known.evidence:
        for part in evidence.predictions.domains.values():
            assert split_of(workspace, part.sample_id) == {"test"}
        for found in evidence.outcomes.values():
            assert split_of(workspace, found.sample_id) == {"test"}
    trust = TeacherTrust.load(pair[1].file("trust/phantom-radio.npz"))
    whole = {domain for domain, decided in trust.domains.items() if decided.trusted}
    reference = known.references.teachers["phantom-radio"]
    assert len(reference.rows) < len(corpus.where(split="test"))
    assert set(corpus.where(split="test", domains=sorted(whole))) <= set(reference.rows.tolist())
    for metric in ("cosine", "agreement"):
        (found,) = (v for k, v in known.evidence[0].outcomes.items() if k[1:] == (metric, "phantom-radio"))
        assert set(found.sample_id) == set(corpus.sample_id[reference.rows])


def test_a_teacher_is_judged_by_what_it_was_first_trusted_with(workspace):
    """What a later release trusts it with is another question: it must not choose what it is compared on."""
    made = releases.release(workspace, child(workspace, "0002"))
    staging = workspace.runs / "staging"
    shutil.copytree(made.folder, staging)
    (staging / "release.json").unlink()
    path = staging / "trust" / "phantom-eye.npz"
    (staging / "trust" / "phantom-radio.npz").replace(path)
    facts = {key: value for key, value in made.facts.items() if key not in KNOWN}
    later = releases.commit(workspace, staging, {**facts, "identity": "other trust"})
    first, corpus = releases.release(workspace, "0002"), workspace.corpus()
    rows = {
        name: references(workspace, line, corpus).teachers["phantom-eye"].rows.tolist()
        for name, line in (("first", [first]), ("both", [first, later]), ("later", [later]))
    }
    assert rows["first"] == rows["both"] != rows["later"]


def test_a_forecast_looks_at_validation_and_training_rows_alone(workspace, monkeypatch):
    seen: list[str] = []
    real = forecasting.Features

    def watched(spec: Any, corpus: Any, store: Any) -> Any:
        seen.extend(map(str, corpus.split))
        return real(spec, corpus, store)

    monkeypatch.setattr(forecasting, "Features", watched)
    found = run_forecast(workspace, "phantom-sono")
    assert set(seen) == {"train", "val"}
    assert {domain: asked for domain, (asked, *_) in found.right.items()} == {
        domain: len(workspace.corpus().where(split="val", domains=[domain])) for domain in workspace.corpus().domains
    }


def test_images_that_were_trained_on_are_no_evaluation_set(workspace, tmp_path):
    corpus = workspace.corpus()
    train, test = (corpus.path(int(corpus.where(split=split)[0])) for split in ("train", "test"))
    for name, path in (("seen.png", train), ("new.png", test)):
        shutil.copyfile(path, tmp_path / name)
    rows = [{"image": name, "caption": "a picture", "split": "test"} for name in ("new.png", "seen.png")]
    (tmp_path / "m.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    facts = {"schema": "mmkd.eval/v1", "name": "mine", "domain": "ct", "manifest": "m.jsonl", "tasks": ["retrieval"]}
    (tmp_path / "task.yaml").write_text(json.dumps(facts))
    with pytest.raises(DataError, match=r"1 test images are in the training split .* the first is seen\.png"):
        evaluate_set(workspace, EvalSet.load(tmp_path), "current", "retrieval")
    (tmp_path / "m.jsonl").write_text(json.dumps(rows[0]) + "\n")
    assert evaluate_set(workspace, EvalSet.load(tmp_path), "current", "retrieval")[0][0].protocol == "mmkd/retrieval@2"


class Listening(Silent):
    def __init__(self) -> None:
        self.said: list[str] = []

    def say(self, line: str) -> None:
        self.said.append(line)


def test_figures_of_a_release_say_that_the_data_changed_since(arrived: Callable[..., Workspace]) -> None:
    workspace, heard = arrived(), Listening()
    zero_shot_of(workspace, "current", heard)
    assert heard.said == []
    prompts = workspace.root / workspace.config.data / "prompts.yaml"
    prompts.write_text(prompts.read_text().replace("with", "without", 1))
    zero_shot_of(Workspace.open(workspace.root), "current", heard)
    (line,) = heard.said
    assert line.startswith("the data changed since release 0001 was made")


def test_a_release_is_not_compared_with_itself(arrived: Callable[..., Workspace]) -> None:
    with pytest.raises(ReleaseError, match="release 0001 is compared with itself"):
        run_audit(arrived(), "0001", "0001")
