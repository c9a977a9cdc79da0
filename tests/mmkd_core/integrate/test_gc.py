"""`mmkd store gc` keeps exactly what something still refers to: one test for each thing that refers."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from feature_store import VIEWS, FeatureStore
from mmkd_core.errors import ReleaseError, WorkspaceError
from mmkd_core.files import forget_hashes
from mmkd_core.integrate import releases
from mmkd_core.integrate.storekeeping import run_gc
from mmkd_core.integrate.workspace import Config, Workspace, write_json
from mmkd_core.plugins import Lock, write_lock
from mmkd_core.plugins.lock import LockedTeacher

FREE = {"code": "MIT", "weights": "MIT", "commercial_use": True}


def locked(name: str, version: str = "1") -> LockedTeacher:
    facts = {"package": f"mmkd-{name}", "version": version, "source": "index", "plugin_api": 1, "weights": ()}
    return LockedTeacher(name=name, fingerprint=f"{name}-{version}", license=FREE, **facts)


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    """In use are teachers now and moved (in its second version); nothing of any release yet."""
    made = Workspace.create(tmp_path / "ws", Config())
    write_lock(made.lock_file, Lock(teachers={"now": locked("now"), "moved": locked("moved", "2")}))
    return made


def released(workspace: Workspace, *teachers: LockedTeacher, parent: str | None = None) -> str:
    """A release that has learnt from these, with the lock of that time."""
    staging = workspace.root / "staging"
    staging.mkdir()
    write_lock(staging / "mmkd.lock", Lock(teachers={teacher.name: teacher for teacher in teachers}))
    names = [teacher.name for teacher in teachers]
    facts = {"identity": "-".join(names), "parent": parent, "teachers": names, "new": names}
    return releases.commit(workspace, staging, facts).id


def kept(workspace: Workspace, *tables: str, **facts: dict[str, str]) -> set[str]:
    """Of these tables, those that gc keeps beside one that nobody refers to, which must go."""
    with FeatureStore.open(workspace.store, "w") as store:
        rows = store.add_ids("image", ["a", "b"])
        for table in (*tables, "nobody"):
            store.put(table, "image", rows, np.ones((2, 3), np.float32))
        for table, more in facts.items():
            store.describe(table, **more)
    run_gc(workspace, dry_run=False)
    with FeatureStore.open(workspace.store) as store:
        found = {table.table for table in store.tables()}
    assert "nobody" not in found
    return found


def test_teachers_in_use(workspace):
    assert kept(workspace, "now-1", "moved-2", "moved-1") == {"now-1", "moved-2"}


def test_teachers_of_a_release_in_the_version_that_taught_it(workspace):
    released(workspace, locked("moved", "1"), locked("past"))
    assert kept(workspace, "now-1", "moved-1", "past-1", "past-2") == {"now-1", "moved-1", "past-1"}


def test_teachers_of_every_release_in_the_line_and_beside_it(workspace):
    first = released(workspace, locked("one"))
    released(workspace, locked("one"), locked("two"), parent=first)
    released(workspace, locked("one"), locked("three"), parent=first)
    assert kept(workspace, "one-1", "two-1", "three-1") == {"one-1", "two-1", "three-1"}


def test_a_release_that_was_a_teacher_itself(workspace):
    name = released(workspace, locked("now"))
    tables = {"abc": {"teacher": f"student-{name}"}, "xyz": {"teacher": "student-0099"}}
    assert kept(workspace, "abc", "xyz", **tables) == {"abc"}


def test_imported_features_and_views(workspace):
    assert kept(workspace, "theirs", theirs={"source": "mmkd-clip", "teacher": "biomed-clip"}) == {"theirs"}
    with FeatureStore.open(workspace.store, "w") as store:
        store.put_views(1, store.rows("image", ["a"]), ["left"], np.ones((1, 1), np.float32))
    run_gc(workspace, dry_run=False)
    with FeatureStore.open(workspace.store) as store:
        assert {table.table for table in store.tables()} == {"theirs", VIEWS}


def test_a_withdrawn_teacher_and_students_that_learnt_from_it_need_nothing(workspace):
    clean = released(workspace, locked("now"))
    tainted = released(workspace, locked("now"), locked("bad"), parent=clean)
    write_json(workspace.releases / releases.WITHDRAWN, {"bad": {"releases": [tainted], "replaced_by": clean}})
    students = {"s1": {"teacher": f"student-{clean}"}, "s2": {"teacher": f"student-{tainted}"}}
    assert kept(workspace, "now-1", "bad-1", "s1", "s2", **students) == {"now-1", "s1"}


def test_a_withdrawn_teacher_that_is_in_use_again_is_kept(workspace):
    name = released(workspace, locked("now"), locked("bad"))
    write_json(workspace.releases / releases.WITHDRAWN, {"bad": {"releases": [name], "replaced_by": None}})
    write_lock(workspace.lock_file, Lock(teachers={"bad": locked("bad")}))
    students = {"s1": {"teacher": f"student-{name}"}}
    assert kept(workspace, "now-1", "bad-1", "s1", **students) == {"now-1", "bad-1", "s1"}


def test_nothing_goes_by_what_a_damaged_file_says(workspace):
    """The lock of a release, and the list of withdrawn teachers: either decides what goes."""
    name = released(workspace, locked("past"))
    lock = workspace.releases / name / "mmkd.lock"
    good = lock.read_bytes()
    lock.write_bytes(good.replace(b"past-1", b"pest-1"))
    forget_hashes()
    with pytest.raises(ReleaseError, match=r"mmkd\.lock is changed"):
        kept(workspace, "past-1")
    lock.write_bytes(good)
    forget_hashes()
    (workspace.releases / releases.WITHDRAWN).write_bytes(b"{")
    with pytest.raises(WorkspaceError, match=r"withdrawn\.json is damaged"):
        kept(workspace, "past-1")
    (workspace.releases / releases.WITHDRAWN).unlink()
    assert kept(workspace, "past-1") == {"past-1"}


def test_without_a_lock_nothing_goes(workspace):
    workspace.lock_file.unlink()
    with pytest.raises(WorkspaceError, match=r"there is no mmkd\.lock"):
        run_gc(workspace, dry_run=False)
