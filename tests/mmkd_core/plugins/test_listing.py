from __future__ import annotations

import subprocess
import sys

import pytest

from mmkd_core.errors import PluginError
from mmkd_core.plugins import Lock, LockedTeacher, PluginHost, Registry, info, listing

REGISTRY = Registry.model_validate(
    {
        "schema_version": 1,
        "teachers": {
            name: {
                "package": f"mmkd-{name}",
                "source": {"kind": "index"},
                "summary": "S",
                "domains": ["xray"],
                "license": {"weights": "MIT", "commercial_use": True},
                "status": "verified",
                "maintainers": ["me"],
            }
            for name in ("good", "quilt-net")
        },
    }
)


def locked(name, spec, **changes):
    fields = {"package": "mmkd-good", "version": "1.0", "source": "index", "plugin_api": 1, "weights": ()}
    fields |= {"fingerprint": spec.fingerprint, "license": spec.license} | changes
    return LockedTeacher(name=name, **fields)


@pytest.fixture
def host(installed):
    installed("good", "typo_hook", "api_v2")
    return PluginHost.discover()


def test_every_teacher_and_every_unusable_plugin_has_one_row(host):
    spec = host.teacher("good")
    lock = Lock().having(locked("good", spec), locked("gone", spec, package="mmkd-gone"))
    rows = {row.name: row for row in listing(lock, host, REGISTRY)}
    assert {name: row.status for name, row in rows.items()} == {
        "api-v2": "incompatible",
        "gone": "broken",
        "good": "locked",
        "good-small": "available",
        "quilt-net": "registry",
        "typo-hook": "broken",
    }
    good = rows["good"]
    assert (good.package, good.version, good.domains, good.licence, good.error) == (
        "mmkd-good",
        "1.0",
        ("xray",),
        "CC-BY-4.0",
        "",
    )
    assert rows["gone"].error == "locked with mmkd-gone 1.0 but not offered by any installed plugin"
    assert "unknown hook" in rows["typo-hook"].error
    assert list(rows) == sorted(rows)


def test_a_teacher_that_changed_since_it_was_locked_is_broken(host):
    lock = Lock().having(locked("good", host.teacher("good"), fingerprint="0" * 32))
    row = next(row for row in listing(lock, host, REGISTRY) if row.name == "good")
    assert row.status == "broken"
    assert "changed since it was locked" in row.error


def test_info_gathers_what_each_side_knows(host):
    lock = Lock().having(locked("good", host.teacher("good")))
    good = info("good", lock, host, REGISTRY)
    assert (good.spec, good.locked, good.entry) == (
        host.teacher("good"),
        lock.teachers["good"],
        REGISTRY.teachers["good"],
    )
    assert info("typo-hook", lock, host, REGISTRY).plugin.status == "broken"
    remote = info("quilt-net", lock, host, REGISTRY)
    assert (remote.spec, remote.plugin, remote.locked) == (None, None, None)
    with pytest.raises(PluginError, match=r"no teacher is called 'quilt'. Did you mean quilt-net\?"):
        info("quilt", lock, host, REGISTRY)


def test_listing_imports_no_torch(installed):
    installed("good")
    code = """
import sys
from mmkd_core.plugins import Lock, PluginHost, listing, load_registry
print(len(listing(Lock(), PluginHost.discover(), load_registry())) >= 2, "torch" in sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "True False"
