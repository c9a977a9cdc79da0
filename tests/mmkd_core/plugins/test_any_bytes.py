"""Lock, registry, wheels and packs are files that anybody may have written: a valid object, or a sentence."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

import pytest
import yaml
from hypothesis import example, given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from mmkd_core.contract import LicenseInfo, WeightSource
from mmkd_core.errors import MmkdError
from mmkd_core.plugins import Lock, LockedTeacher, Registry, load_registry, read_lock
from mmkd_core.plugins.lock import change_lock
from mmkd_core.plugins.packages import read_package
from mmkd_core.plugins.packs import Manifest
from mmkd_core.plugins.unpacking import read_manifest

SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=6)
KEYS = st.sampled_from(["schema_version", "teachers", "a", "name", "weights", "license", "source", "kind", "runtime"])
VALUES = st.recursive(
    SCALARS, lambda v: st.lists(v, max_size=3) | st.dictionaries(KEYS | st.text(max_size=3), v, max_size=4)
)
VERSIONED = VALUES.map(lambda v: {"schema_version": 1, "teachers": v})
DEEP = st.integers(1, 60_000).map(lambda n: b"[" * n)
ODD = [
    "!!int x",
    "!!timestamp x",
    "!!bool x",
    "2024-13-45",
    "&a [*a]",
    "? [a]\n: b",
    "<<: 3",
    "!!python/name:os.system x",
]
TAGGED = st.sampled_from([*ODD, "{a: " * 5000])
HAND = LockedTeacher(
    name="a",
    package="mmkd-a",
    version="1",
    source="index",
    fingerprint="0" * 32,
    plugin_api=1,
    weights=(WeightSource(role="model", kind="package", location="p:f", files={"w": "0" * 64}),),
    license=LicenseInfo(code="MIT", weights="MIT", commercial_use=True),
)


def one_of(read, kind, data: bytes) -> None:
    """A valid object or a sentence; anything else is the test's failure."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "file.whl" if kind is None else "file")
        path.write_bytes(data)
        found, told = None, ""
        try:
            found = read(path)
        except MmkdError as error:
            told = str(error)
        if found is None:
            assert str(path) in told
        else:
            assert kind is not None
            assert isinstance(found, kind)


@settings(deadline=None)
@given(st.binary(max_size=200) | (VALUES | VERSIONED).map(lambda v: json.dumps(v).encode()) | DEEP)
@example(b'{"schema_version": 1, "teachers": {"\\ud800": {}}}')
@example(b'{"schema_version": 1' + b"0" * 5000 + b"}")
def test_any_bytes_are_a_lock_or_a_sentence(data):
    one_of(read_lock, Lock, data)


@settings(deadline=None)
@given(
    st.binary(max_size=200)
    | (VALUES | VERSIONED).map(lambda v: yaml.safe_dump(v, allow_unicode=True).encode("utf-8", "surrogatepass"))
    | DEEP
    | TAGGED.map(str.encode)
)
@example(b"- " * 60_000)
@example(b"schema_version: 1\nteachers: {a: *b}")
def test_any_bytes_are_a_registry_or_a_sentence(data):
    one_of(load_registry, Registry, data)


@settings(deadline=None)
@given(st.binary(max_size=300) | st.binary(max_size=100).map(lambda tail: b"PK\x03\x04" + tail))
def test_any_bytes_are_no_wheel_and_no_pack(data):
    one_of(read_package, None, data)
    one_of(read_manifest, Manifest, data)


class Locking(RuleBasedStateMachine):
    """Any sequence of operations leaves what a dictionary would hold, in the one way to write it."""

    names = st.sampled_from(["a", "b", "a-b", "c"])

    def __init__(self) -> None:
        super().__init__()
        self.folder = tempfile.TemporaryDirectory()
        self.path = Path(self.folder.name, "mmkd.lock")
        self.held: dict[str, LockedTeacher] = {}

    @rule(name=names, version=st.sampled_from(["1", "2"]))
    def add(self, name, version):
        teacher = HAND.model_copy(update={"name": name, "version": version})
        change_lock(self.path, lambda lock: lock.having(teacher))
        self.held[name] = teacher

    @rule(name=names)
    def remove(self, name):
        if name in self.held:
            change_lock(self.path, lambda lock: lock.without(name))
            del self.held[name]
            return
        before = self.path.read_bytes() if self.path.exists() else None
        with pytest.raises(MmkdError, match=f"teacher '{name}' is not locked"):
            change_lock(self.path, lambda lock: lock.without(name))
        assert (self.path.read_bytes() if self.path.exists() else None) == before

    @rule(name=names)
    def fail(self, name):
        def change(lock):
            raise MmkdError("it went wrong")

        with pytest.raises(MmkdError, match="it went wrong"):
            change_lock(self.path, change)

    @invariant()
    def it_holds_what_it_should(self):
        lock = read_lock(self.path)
        assert lock.teachers == self.held
        if self.path.exists():
            change_lock(self.path, lambda same: same)
            assert self.path.read_text() == json.dumps(lock.model_dump(mode="json"), indent=2, sort_keys=True) + "\n"

    def teardown(self):
        self.folder.cleanup()


Locking.TestCase.settings = settings(max_examples=15, stateful_step_count=10, deadline=None)
TestLocking = Locking.TestCase
