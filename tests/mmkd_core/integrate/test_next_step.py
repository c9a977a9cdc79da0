"""Following `next:` leads from every state of a workspace to an exported student, and never in a circle."""

import shlex
from dataclasses import replace
from itertools import product
from pathlib import Path

import pytest

from mmkd_core.integrate.next_step import FURTHER, STEPS, State, export_folder, next_step

A, AB = frozenset({"a"}), frozenset({"a", "b"})
NONE = frozenset()


def done(command, state, verdict, mended, useless=NONE):
    """The workspace after a command: what each is documented to leave behind.

    Args:
        verdict: what an audit of forgetting says.
        mended: whether a repair succeeds.
        useless: teachers that may teach nothing.
    """
    words = command.split()
    match words[1:3]:
        case ["data", "phantom"]:
            return replace(state, corpus=True)
        case ["teachers", "list"]:  # which names one
            return replace(state, teachers=A if not state.teachers else AB)
        case ["extract"]:
            return replace(state, extracted=state.extracted | state.teachers)
        case ["pretrain"]:
            return replace(state, stage_one=True)
        case ["audit", "trust"]:
            return replace(state, trust=state.teachers, teaching=state.teachers - useless)
        case ["distill"]:
            return replace(state, in_use="0001", learnt=state.teachers & state.teaching, reported=False, exported=False)
        case ["distill", "--incremental"]:
            learnt = state.learnt | (state.teachers & state.teaching)
            return replace(
                state, candidate="0002", candidate_learnt=learnt, verdict=None, repaired=False, reported=False
            )
        case ["audit", "forgetting"]:
            assert words[3:] == ["--candidate", "0002"]
            found = replace(state, verdict=verdict, reported=False)
            return promoted(found) if verdict == "PASS" else found
        case ["repair", "0002"]:
            found = replace(state, repaired=True, reported=False)
            return promoted(found) if mended else found
        case ["report"]:
            return replace(state, reported=True)
        case ["export", "open-clip"]:
            assert words[3] == f"exports/open-clip-{state.in_use}"
            return replace(state, exported=True)
    raise AssertionError(command)


def promoted(state):
    learnt = state.candidate_learnt
    return replace(
        state, in_use="0002", learnt=learnt, candidate=None, candidate_learnt=NONE, verdict=None, exported=False
    )


def states():
    yes = (False, True)
    for corpus, teachers, extracted, stage_one, trust in product(yes, (NONE, A, AB), (NONE, A, AB), yes, (NONE, A, AB)):
        first = State(
            corpus=corpus, teachers=teachers, extracted=extracted, stage_one=stage_one, trust=trust, teaching=trust
        )
        yield first
        for learnt, reported, exported in product((A, AB), yes, yes):
            used = replace(first, in_use="0001", learnt=learnt, reported=reported, exported=exported)
            yield used
            for made, verdict, repaired in product((A, AB), (None, "PASS", "FAIL", "INCONCLUSIVE"), yes):
                yield replace(used, candidate="0002", candidate_learnt=made, verdict=verdict, repaired=repaired)


@pytest.mark.parametrize("verdict", ["PASS", "FAIL", "INCONCLUSIVE"])
@pytest.mark.parametrize("mended", [True, False])
@pytest.mark.parametrize("useless", [NONE, A])
def test_every_state_leads_to_an_exported_student(verdict, mended, useless):
    count = 0
    for start in states():
        state, seen = start, []
        while (command := next_step(state)) != FURTHER or not state.exported:
            assert command not in seen[-1:], (start, seen)
            after = done(command, state, verdict, mended, useless)
            assert after != state, f"{command} brings {start} nowhere"
            state = after
            seen.append(command)
            assert len(seen) <= 16, (start, seen)
        assert state.exported, (start, seen)
        assert state.in_use
        count += 1
    assert count > 1000


def test_the_way_from_an_empty_folder():
    state, way = State(), []
    while (command := next_step(state)) != FURTHER or not state.exported:
        way.append(command)
        state = done(command, state, "PASS", True)
    assert way == [
        "mmkd data phantom",
        "mmkd teachers list",
        "mmkd extract",
        "mmkd pretrain",
        "mmkd audit trust",
        "mmkd distill",
        "mmkd report",
        "mmkd export open-clip exports/open-clip-0001",
    ]


def test_a_candidate_that_forgot_is_repaired_once_and_then_left():
    used = State(False, True, AB, AB, True, AB, AB, "0001", A, "0002", AB, "FAIL")
    assert next_step(used) == "mmkd repair 0002"
    assert next_step(replace(used, repaired=True)) == "mmkd report"
    assert next_step(replace(used, verdict="INCONCLUSIVE")) == "mmkd report"


def test_what_is_damaged_comes_first_and_folders_are_quoted():
    assert next_step(State(damaged=True)) == "mmkd doctor"
    ready = State(False, True, A, A, True, A, A, "0001", A, reported=True, root=Path("my students/one"))
    assert shlex.split(next_step(ready))[3:] == [str(export_folder(ready))]
    assert len(STEPS) == 13
