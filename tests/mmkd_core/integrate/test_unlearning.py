from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from mmkd_core.errors import PluginError, ReleaseError
from mmkd_core.integrate import releases, unlearning
from mmkd_core.integrate.distillation import Outcome
from mmkd_core.integrate.unlearning import run_unlearn, withdrawn
from mmkd_core.integrate.workspace import Config, Workspace
from mmkd_core.plugins import Lock, write_lock
from mmkd_core.plugins.lock import LockedTeacher

FREE = {"code": "MIT", "weights": "MIT", "commercial_use": True}


def locked(name: str) -> LockedTeacher:
    facts = {"package": f"mmkd-{name}", "version": "1", "source": "index", "plugin_api": 1, "weights": ()}
    return LockedTeacher(name=name, fingerprint=name * 8, license=FREE, **facts)


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    made = Workspace.create(tmp_path / "ws", Config())
    write_lock(made.lock_file, Lock(teachers={name: locked(name) for name in "abc"}))
    return made


def release(workspace: Workspace, teachers: str, parent: str | None, **more: Any) -> str:
    staging = workspace.root / "staging"
    staging.mkdir()
    (staging / "mmkd.lock").write_bytes(workspace.lock_file.read_bytes())
    facts = {"identity": teachers, "parent": parent, "teachers": list(teachers), "new": [], "fidelity": {}, **more}
    return releases.commit(workspace, staging, facts).id


@pytest.fixture
def line(workspace: Workspace) -> Workspace:
    """0001 has learnt from a, 0002 from a and b, 0003 from a, b and c and is in use."""
    release(workspace, "a", None)
    release(workspace, "ab", "0001")
    release(workspace, "abc", "0002")
    releases.promote(workspace, "0003", "passed")
    return workspace


@pytest.fixture
def taught(monkeypatch):
    """What is distilled instead of training: (from, teachers)."""
    calls = []

    def made(workspace, parent, teachers, more):
        calls.append((parent.id if parent else None, sorted(teachers)))
        known = [*(parent.teachers if parent else []), *teachers]
        name = release(workspace, "".join(known), parent.id if parent else None, **more)
        return Outcome(releases.release(workspace, name), True, {})

    monkeypatch.setattr(
        unlearning, "run_incremental", lambda w, p, *, parent, teachers, more: made(w, parent, teachers, more)
    )
    monkeypatch.setattr(unlearning, "run_distill", lambda w, p, *, teachers, more: made(w, None, teachers, more))
    return calls


def test_from_the_last_release_that_never_saw_it(line, taught):
    done = run_unlearn(line, "b")
    assert taught == [("0001", ["c"])]
    assert (done.holding, done.start, done.release.id) == (["0002", "0003"], "0001", "0004")
    assert done.release.facts["unlearned"] == {"teacher": "b", "releases": ["0002", "0003"], "from": "0001"}
    assert done.release.teachers == ["a", "c"]
    assert releases.current(line).id == "0004"
    assert withdrawn(line) == {"b": {"releases": ["0002", "0003"], "replaced_by": "0004"}}


def test_from_stage_one_if_every_release_saw_it(line, taught):
    done = run_unlearn(line, "a")
    assert taught == [(None, ["b", "c"])]
    assert done.start == "stage 1"
    assert releases.current(line).teachers == ["b", "c"]


def test_the_newest_teacher_leaves_the_release_before_it(line, taught):
    done = run_unlearn(line, "c")
    assert taught == []
    assert (done.start, done.release.id) == ("0002", "0002")
    assert releases.current(line).id == "0002"


def test_killed_before_the_new_release_was_in_use_it_goes_on(line, taught, monkeypatch):
    promote = releases.promote

    def dies(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(releases, "promote", dies)
    with pytest.raises(KeyboardInterrupt):
        run_unlearn(line, "b")
    assert "b" not in [*withdrawn(line)]
    assert releases.current(line).id == "0003"
    monkeypatch.setattr(releases, "promote", promote)
    done = run_unlearn(line, "b")
    assert done.release.teachers == ["a", "c"]
    assert releases.current(line).id == done.release.id
    again = run_unlearn(line, "b")
    assert again.start is None, "nothing is left to do"


def test_a_teacher_that_is_added_again_is_not_withdrawn_any_more(line, taught):
    run_unlearn(line, "b")
    write_lock(line.lock_file, Lock(teachers={name: locked(name) for name in "abc"}))
    assert withdrawn(line) == {}


def test_what_cannot_be_unlearnt_is_said(workspace, taught):
    with pytest.raises(PluginError, match="no release has learnt from it"):
        run_unlearn(workspace, "unknown")
    release(workspace, "a", None)
    releases.promote(workspace, "0001", "first")
    with pytest.raises(ReleaseError, match="only teacher"):
        run_unlearn(workspace, "a")
