from __future__ import annotations

import subprocess
import sys

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from mmkd_core.plugins import Registry
from mmkd_core.plugins.registry_check import main, problems

STANZA = {
    "package": "mmkd-a",
    "requires": ">=0.1",
    "source": {"kind": "index"},
    "summary": "S",
    "domains": ["ct"],
    "license": {"weights": "MIT", "commercial_use": True},
    "status": "community",
    "maintainers": ["me"],
    "yanked": {"0.2": "wrong weights"},
}
CLOSED = {"weights": "CC-BY-NC-4.0", "commercial_use": False}


def registry(**teachers) -> Registry:
    stanzas = {name.replace("_", "-"): STANZA | changes for name, changes in teachers.items()}
    return Registry.model_validate({"schema_version": 1, "teachers": stanzas})


def wheel(url="https://x/a-1.whl", digest="0"):
    return {"source": {"kind": "wheel", "url": url, "sha256": digest * 64}}


ALLOWED = [
    ({}, {}),
    ({}, {"status": "deprecated"}),
    ({}, {"maintainers": ["you"]}),
    ({}, {"summary": "Better words"}),
    ({}, {"yanked": {"0.2": "wrong weights", "0.3": "wrong tokenizer"}}),
    ({}, {"requires": ">=0.4", "domains": ["ct", "mri"]}),
    ({"license": CLOSED | {"url": "https://a"}}, {"license": CLOSED | {"url": "https://b"}}),
    (wheel(), wheel("https://x/a-2.whl", "1")),
    ({"source": {"kind": "bundled"}}, {"source": {"kind": "bundled"}, "domains": ["mri"]}),
]
REFUSED = [
    ({}, {"package": "mmkd-b"}, "package mmkd-a may not become mmkd-b; add a teacher of another name"),
    ({}, {"yanked": {}}, "the yank of 0.2 may be neither removed nor reworded"),
    ({}, {"yanked": {"0.2": "it is fine"}}, "the yank of 0.2 may be neither removed nor reworded"),
    ({}, {"yanked": {"0.2": "wrong weights", "0.3": " "}}, "version 0.3 is yanked without a reason"),
    ({}, {"domains": ["mri"]}, "domains changed in place; they belong to a version: change source or requires too"),
    ({}, {"plugin_api": 2}, "plugin_api changed in place"),
    ({}, {"license": {"weights": "Apache-2.0", "commercial_use": True}}, "license changed in place"),
    (wheel(), wheel(digest="1"), "the wheel has another sha256 at the same url; publish a new version"),
    ({}, {"requires": ""}, "a package of an index needs `requires`"),
    ({}, {"requires": ">=1", "license": CLOSED}, "licence CC-BY-NC-4.0 needs `url`, where its terms can be read"),
    (
        {},
        {"requires": ">=1", "license": {"weights": "CC-BY-ND-4.0", "commercial_use": True, "derivatives": False}},
        "licence CC-BY-ND-4.0 needs `url`",
    ),
    (
        {},
        {"requires": ">=1", "license": {"weights": "LicenseRef-x", "commercial_use": True}},
        "licence LicenseRef-x needs `url`",
    ),
    (
        {},
        {"requires": ">=1", "license": {"weights": "MIT", "commercial_use": True, "gated": True}},
        "licence MIT needs `url`",
    ),
]


@pytest.mark.parametrize(("old", "new"), ALLOWED)
def test_what_may_change(old, new):
    assert problems(registry(a=old), registry(a=new)) == []


@pytest.mark.parametrize(("old", "new", "problem"), REFUSED)
def test_what_may_not(old, new, problem):
    (found,) = problems(registry(a=old), registry(a=new))
    assert found.startswith(f"a: {problem}")


def test_teachers_are_added_in_order_and_never_removed():
    assert problems(registry(a={}), registry(a={}, b={})) == []
    assert problems(registry(b={}), registry(b={}, a={})) == ["a: must stand before b; names are sorted"]
    assert problems(registry(a={}, b={}), registry(b={})) == ["a: is removed; say `status: deprecated` instead"]


@given(st.lists(st.sampled_from([new for _, new in ALLOWED[:6]]), max_size=5), st.sampled_from(REFUSED[:7]))
def test_no_sequence_of_allowed_changes_makes_room_for_a_refused_one(steps, refused):
    now: dict = {}
    for step in steps:
        following = now | step
        if "yanked" in now:  # yanks pile up
            following["yanked"] = now["yanked"] | following.get("yanked", {})
        assert problems(registry(a=now), registry(a=following)) == []
        now = following
    _, change, _ = refused
    assert problems(registry(a=now), registry(a=now | change)) != []


def test_the_command(tmp_path):
    old, new = tmp_path / "old.yaml", tmp_path / "new.yaml"
    old.write_text(yaml.safe_dump({"schema_version": 1, "teachers": {"a": STANZA}}))
    new.write_text(yaml.safe_dump({"schema_version": 1, "teachers": {"a": STANZA | {"colour": 1}}}))
    assert main([str(old), str(old)]) == 0
    assert "teachers.a.colour: Extra inputs are not permitted" in str(main([str(old), str(new)]))
    assert str(main([])).startswith("usage:")
    new.write_text("schema_version: 1\n")
    command = [sys.executable, "-m", "mmkd_core.plugins.registry_check", str(old), str(new)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (1, "a: is removed; say `status: deprecated` instead\n")
