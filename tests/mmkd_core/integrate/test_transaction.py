"""An integration with its real steps: what it says of each end, and that a kill anywhere changes nothing of it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mmkd_core.audit.comparison import Verdict
from mmkd_core.audit.gate import GATE, Gate, Rule, write_gate
from mmkd_core.data.phantom.generate import PhantomConfig, generate
from mmkd_core.integrate import history, releases, transaction
from mmkd_core.integrate.transaction import run_integrate
from mmkd_core.integrate.workspace import Workspace
from mmkd_core.plugins import read_lock, write_lock
from tests.mmkd_core.integrate.conftest import TINY

NEW = "phantom-sono"
EASY, HARD = 0.9, 0.0001


class KilledError(Exception):
    """Stands for a kill."""


def gate(cosine: float) -> Gate:
    """Everything but fidelity is passed whatever it is; fidelity tolerates a fall of ``cosine``."""
    rules = {
        family: {name: Rule(gates=rule.gates, margin=EASY) for name, rule in metrics.items()}
        for family, metrics in Gate().families.items()
    }
    rules["fidelity"]["cosine"] = Rule(gates=True, margin=cosine)
    return Gate(families=rules, resamples=200, confidence=0.8)


def newcomer(workspace: Workspace, cosine: float) -> Workspace:
    """The teacher that arrived is not in use yet, and the gate is set before anything is made of it."""
    write_lock(workspace.lock_file, read_lock(workspace.lock_file).without(NEW))
    write_gate(workspace.root / GATE, gate(cosine))
    return workspace


def outcome(workspace: Workspace) -> dict[str, Any]:
    made = releases.all_releases(workspace)
    return {
        "in use": releases.in_use(workspace),
        "student": {r.id: r.facts["files"]["student/open_clip_model.safetensors"] for r in made},
        "parents": {r.id: r.parent for r in made},
        "locked": sorted(read_lock(workspace.lock_file).teachers),
    }


def test_a_first_release_was_compared_with_nothing(tmp_path: Path) -> None:
    workspace = Workspace.create(tmp_path / "ws", TINY)
    generate(workspace.root / TINY.data, PhantomConfig(domains=("ct", "fundus"), train=30, val=40, test=6))
    first = run_integrate(workspace, "phantom-radio")
    assert list(first.steps) == ["add", "extract", "trust", "pretrain", "distil"]
    assert (first.verdict, first.audit, first.candidate) == (None, None, None)
    assert first.steps["trust"].startswith("phantom-radio may teach ")
    assert "no claim" not in first.steps["trust"]
    assert first.release.id == releases.in_use(workspace) == "0001"
    assert [entry.way for entry in history.entries(workspace)] == ["first"]
    before = outcome(workspace)
    again = run_integrate(workspace, "phantom-radio")
    assert (again.verdict, again.release.id) == (None, "0001")
    assert again.steps["distil"] == "release 0001 has learnt from phantom-radio already"
    assert again.steps["audit"] == "of 0001 then: nothing to compare with"
    assert outcome(workspace) == before


def test_what_passes_is_put_into_use_and_is_no_pass_a_second_time(arrived: Callable[..., Workspace]) -> None:
    workspace = newcomer(arrived(), EASY)
    done = run_integrate(workspace, NEW)
    assert list(done.steps) == ["add", "extract", "trust", "distil", "audit"]
    assert done.verdict is Verdict.PASS
    assert done.candidate is not None
    assert done.candidate.id == done.release.id == releases.in_use(workspace) == "0002"
    assert [entry.way for entry in history.entries(workspace, "0002")] == ["passed"]
    before = outcome(workspace)
    again = run_integrate(workspace, NEW)
    assert (again.verdict, again.audit, again.release.id) == (None, None, "0002")
    assert again.steps["audit"] == "of 0002 then: PASS"
    assert outcome(workspace) == before


@pytest.mark.parametrize(
    "cosine", [pytest.param(EASY, id="passes"), pytest.param(HARD, id="does-not-pass", marks=pytest.mark.slow)]
)
def test_killed_anywhere_it_goes_on_and_ends_the_same(
    cosine: float, arrived: Callable[..., Workspace], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It dies before and after each step in turn, each time a little later."""
    rough = {} if cosine == EASY else {"lr": 0.05, "warmup": 0, "replay": 0.1, "steps": 20}
    whole, broken = (newcomer(arrived(**rough), cosine) for _ in range(2))
    expected = run_integrate(whole, NEW)
    # How far a ruined student falls differs between processors, FAIL or INCONCLUSIVE; but it does not pass.
    assert (expected.verdict is Verdict.PASS) == (cosine == EASY)
    steps = ["add", "run_extract", "run_trust", "run_incremental", "run_audit"]
    if expected.repair:
        steps.append("run_repair")
    left = 0

    def mortal(real: Callable[..., Any]) -> Callable[..., Any]:
        def step(*arguments: Any, **options: Any) -> Any:
            nonlocal left
            die()
            result = real(*arguments, **options)
            die()
            return result

        def die() -> None:
            nonlocal left
            left -= 1
            if left < 0:
                raise KilledError

        return step

    for name in steps:
        monkeypatch.setattr(transaction, name, mortal(getattr(transaction, name)))
    # What is done already is not done again, so the same kill comes later in the order.
    kills, moments = 0, 0
    while True:
        left = moments
        try:
            done = run_integrate(broken, NEW)
            break
        except KilledError:
            kills, moments = kills + 1, moments + 1
            assert releases.in_use(broken) in ("0001", expected.release.id)
    assert kills >= 2 * len(steps) - 2
    assert outcome(broken) == outcome(whole)
    # A kill after the pointer has moved: then there is nothing left to compare.
    assert done.verdict in (None, expected.verdict)
    assert (done.verdict is None) == (expected.verdict is Verdict.PASS)
