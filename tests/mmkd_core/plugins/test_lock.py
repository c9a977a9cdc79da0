from __future__ import annotations

import json
import os
import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mmkd_core.contract import LicenseInfo, WeightSource
from mmkd_core.errors import PluginError
from mmkd_core.plugins import Lock, LockedTeacher, locked_spec, read_lock, require_locked, write_lock

NAMES = st.from_regex(r"[a-z0-9]{1,8}(-[a-z0-9]{1,8}){0,2}", fullmatch=True)
HASHES = st.text("0123456789abcdef", min_size=64, max_size=64)


@st.composite
def locked(draw):
    files = draw(st.dictionaries(st.sampled_from(["a.json", "b/c.bin", "d"]), HASHES, min_size=1))
    text = st.text(min_size=1, max_size=8)
    return LockedTeacher(
        name=draw(NAMES),
        package=draw(text),
        version=draw(text),
        source=draw(text),
        fingerprint=draw(HASHES)[:32],
        plugin_api=1,
        weights=(WeightSource(role="model", kind="package", location="p:f", files=files),),
        license=LicenseInfo(code=draw(text), weights=draw(text), commercial_use=draw(st.booleans())),
        logit_scale=draw(st.none() | st.floats(min_value=0.1, max_value=200)),
    )


LOCKS = st.lists(locked(), max_size=4).map(lambda teachers: Lock().having(*teachers))
ONE = LockedTeacher(
    name="a",
    package="mmkd-a",
    version="1",
    source="index",
    fingerprint="0" * 32,
    plugin_api=1,
    weights=(),
    license=LicenseInfo(code="MIT", weights="MIT", commercial_use=True),
)


@settings(max_examples=25)
@given(LOCKS)
def test_a_lock_survives_the_disk_and_the_same_teachers_give_the_same_bytes(lock):
    with tempfile.TemporaryDirectory() as folder:
        path, again = Path(folder, "mmkd.lock"), Path(folder, "again")
        write_lock(path, lock)
        assert read_lock(path) == lock
        write_lock(again, Lock().having(*reversed(lock.teachers.values())))
        assert again.read_bytes() == path.read_bytes()
        assert sorted(p.name for p in Path(folder).iterdir()) == ["again", "mmkd.lock"]


@settings(max_examples=25)
@given(LOCKS, locked())
def test_adding_and_removing_are_inverse(lock, teacher):
    added = lock.having(teacher)
    assert added.teachers[teacher.name] == teacher
    assert added.without(teacher.name).teachers == {k: v for k, v in lock.teachers.items() if k != teacher.name}


def test_no_file_is_an_empty_lock(tmp_path):
    assert read_lock(tmp_path / "none") == Lock()


def test_the_file_is_sorted_json_that_others_may_read(tmp_path):
    write_lock(tmp_path / "sub" / "mmkd.lock", Lock().having(ONE))
    text = (tmp_path / "sub" / "mmkd.lock").read_text()
    assert text == json.dumps(json.loads(text), indent=2, sort_keys=True) + "\n"
    assert (tmp_path / "sub" / "mmkd.lock").stat().st_mode & 0o777 == 0o644


def test_a_crash_while_writing_leaves_the_old_lock(tmp_path, monkeypatch):
    path = tmp_path / "mmkd.lock"
    write_lock(path, Lock())
    before = path.read_bytes()

    def crash(*_):
        raise OSError("disk full")

    monkeypatch.setattr(os, "fsync", crash)
    with pytest.raises(OSError, match="disk full"):
        write_lock(path, Lock().having(ONE))
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["mmkd.lock"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "the lock is damaged: it is no JSON"),
        ("[]", "the lock is damaged: schema_version is None"),
        ('{"schema_version": 2}', "the lock has format 2, this mmkd reads 1"),
        ('{"schema_version": 1, "teachers": {"a": {}}}', "the lock is damaged: teachers.a.name: Field required"),
        ('{"schema_version": 1, "extra": 0}', "the lock is damaged: extra: Extra inputs"),
    ],
)
def test_a_damaged_or_newer_lock_is_an_error(tmp_path, text, message):
    path = tmp_path / "mmkd.lock"
    path.write_text(text)
    with pytest.raises(PluginError) as caught:
        read_lock(path)
    assert message in str(caught.value)
    assert str(path) in str(caught.value)


def test_a_key_that_is_not_its_teachers_name_is_damage(tmp_path):
    write_lock(tmp_path / "l", Lock().having(ONE))
    (tmp_path / "l").write_text((tmp_path / "l").read_text().replace('"a": {', '"b": {'))
    with pytest.raises(PluginError, match="entry b holds teacher a"):
        read_lock(tmp_path / "l")


def test_removing_what_is_not_locked():
    with pytest.raises(PluginError, match="teacher 'aa' is not locked"):
        Lock().having(ONE).without("aa")


def test_require_locked(installed):
    installed("good")
    from mmkd_good import SPEC

    with pytest.raises(PluginError, match=r"teacher good is not locked. Run `mmkd teachers add good`"):
        require_locked(Lock(), SPEC)
    stale = ONE.model_copy(update={"name": "good"})
    with pytest.raises(PluginError, match=r"teacher good changed since it was locked: fingerprint .* with mmkd-a 1"):
        require_locked(Lock().having(stale), SPEC)
    fresh = stale.model_copy(update={"fingerprint": SPEC.fingerprint})
    assert require_locked(Lock().having(fresh), SPEC) == fresh


HASH, OTHER = "a" * 64, "b" * 64
COMMIT = "0123456789" * 4


def open_spec(spec, **files):
    """The spec as if its author knew neither commit nor hashes."""
    source = WeightSource(role="model", kind="hf", location="org/repo", files=files, optional=("more",))
    return spec.model_copy(update={"weights": (source,)})


def entry(spec, **changes):
    source = WeightSource(role="model", kind="hf", location="org/repo", revision=COMMIT, files={"w": HASH})
    resolved = spec.model_copy(update={"weights": (source,)})
    return ONE.model_copy(update={"name": "good", "weights": (source,), "fingerprint": resolved.fingerprint, **changes})


def test_the_lock_completes_an_open_spec(installed):
    installed("good")
    from mmkd_good import SPEC

    declared, locked = open_spec(SPEC, w=None), entry(SPEC)
    found = locked_spec(Lock().having(locked), declared)
    assert found.pinned
    assert found.weights == locked.weights
    assert found.fingerprint == locked.fingerprint
    assert found.logit_scale == SPEC.logit_scale
    scaled = locked_spec(Lock().having(entry(SPEC, logit_scale=33.0)), declared)
    assert (scaled.logit_scale, scaled.fingerprint) == (33.0, locked.fingerprint)


@pytest.mark.parametrize("files", [{"w": OTHER}, {"w": None, "new": None}, {"v": None}])
def test_a_plugin_that_now_declares_other_files_has_changed(installed, files):
    installed("good")
    from mmkd_good import SPEC

    with pytest.raises(PluginError, match="teacher good changed since it was locked"):
        locked_spec(Lock().having(entry(SPEC)), open_spec(SPEC, **files))


def test_a_lock_without_a_hash_is_damaged(tmp_path, installed):
    installed("good")
    from mmkd_good import SPEC

    write_lock(tmp_path / "mmkd.lock", Lock().having(entry(SPEC)))
    text = (tmp_path / "mmkd.lock").read_text()
    (tmp_path / "mmkd.lock").write_text(text.replace(f'"{HASH}"', "null"))
    with pytest.raises(PluginError, match=r"the lock is damaged: teachers.good.weights: .*a locked file has no sha256"):
        read_lock(tmp_path / "mmkd.lock")
