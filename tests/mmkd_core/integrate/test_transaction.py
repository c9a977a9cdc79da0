"""The order of an integration, with steps that can be killed; tests/e2e/test_integrate.py kills real ones."""

from __future__ import annotations

from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mmkd_core.audit.comparison import Verdict
from mmkd_core.integrate import transaction
from mmkd_core.integrate.distillation import Outcome
from mmkd_core.integrate.releases import Release
from mmkd_core.integrate.repairing import Repair
from mmkd_core.integrate.transaction import run_integrate


class KilledError(Exception):
    """Stands for a kill."""


@dataclass
class World:
    """What lies on disk; every step does its work once and dies when it is told to, before or after it."""

    verdict: Verdict
    repaired: bool
    kills: list[int]
    done: list[str] = field(default_factory=list)
    current: str = "0001"
    made: dict[str, Any] = field(default_factory=dict)

    def step(self, name: str, result: Any) -> Any:
        self._die()
        if name not in self.made:
            self.done.append(name)
            self.made[name] = result
        self._die()
        return self.made[name]

    def _die(self) -> None:
        if self.kills:
            self.kills[0] -= 1
            if self.kills[0] < 0:
                self.kills.pop(0)
                raise KilledError


def release(name: str, parent: str | None, *teachers: str) -> Release:
    return Release(name, SimpleNamespace(), {"parent": parent, "teachers": list(teachers), "new": []})


OLD, NEW, MENDED = release("0001", None, "a"), release("0002", "0001", "a", "b"), release("0003", "0001", "a", "b")
WORKSPACE: Any = SimpleNamespace(lock_file=None)
KNOWN = {found.id: found for found in (OLD, NEW, MENDED)}


@pytest.fixture
def play(monkeypatch):
    def start(world: World):
        def audit(workspace, candidate, progress=None):
            world.step(f"audit {candidate}", None)
            verdict = Verdict.PASS if candidate == "0003" else world.verdict
            if verdict is Verdict.PASS and world.current == "0001":
                world.current = candidate
            world._die()
            return SimpleNamespace(verdict=verdict), KNOWN[candidate], OLD

        def repair(workspace, candidate, progress):
            world.step("repair", None)
            if world.repaired:
                world.current = "0003"
                return Repair("replay", MENDED, ())
            return Repair("parent", OLD, ())

        extraction = SimpleNamespace(require=lambda: None, images={"b": 3}, texts={"b": 4})
        trust = {name: SimpleNamespace(mask=SimpleNamespace(sum=lambda: 5)) for name in "ab"}
        fakes = {
            "locked_names": lambda w: ["a", "b"] if "add" in world.made else ["a"],
            "add": lambda *_, **__: world.step("add", [SimpleNamespace(name="b")]),
            "run_extract": lambda w, p: world.step("extract", extraction),
            "run_trust": lambda w, p: world.step("trust", trust),
            "run_incremental": lambda w, p, teachers: world.step("distil", Outcome(NEW, True, {})),
            "run_audit": audit,
            "run_repair": repair,
        }
        for name, fake in fakes.items():
            monkeypatch.setattr(transaction, name, fake)
        monkeypatch.setattr(transaction.releases, "current", lambda w: KNOWN[world.current])
        monkeypatch.setattr(transaction.releases, "lineage", lambda w, found: [found, *([OLD] if found.parent else [])])

    return start


CASES = st.tuples(st.sampled_from(list(Verdict)), st.booleans(), st.lists(st.integers(0, 13), max_size=6))


def test_killed_anywhere_it_goes_on_and_ends_the_same(play):
    @given(case=CASES)
    def check(case):
        verdict, repaired, kills = case
        world = World(verdict, repaired, list(kills))
        play(world)
        for _ in range(len(kills) + 1):
            try:
                done = run_integrate(WORKSPACE, "b")
                break
            except KilledError:
                continue
        expected = {Verdict.PASS: "0002", Verdict.INCONCLUSIVE: "0001", Verdict.FAIL: "0003" if repaired else "0001"}
        assert world.current == expected[verdict] == done.release.id
        assert done.verdict is (Verdict.PASS if world.current != "0001" else verdict)
        first = [name for name in world.done if not name.startswith("audit 0003")]
        order = ["add", "extract", "trust", "distil", "audit 0002"]
        assert first == [*order, *(["repair"] if verdict is Verdict.FAIL else [])]

    check()


def test_run_again_it_says_what_it_came_to(play):
    world = World(Verdict.PASS, False, [])
    play(world)
    first, again = (run_integrate(WORKSPACE, "b") for _ in range(2))
    assert list(first.steps) == ["add", "extract", "trust", "distil", "audit"]
    assert again.verdict is Verdict.PASS
    assert again.candidate.id == "0002"
    assert "already" in again.steps["distil"]
    assert "trust" not in again.steps
