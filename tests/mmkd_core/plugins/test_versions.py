from __future__ import annotations

import importlib.metadata

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from packaging.specifiers import SpecifierSet

from mmkd_core.errors import PluginError
from mmkd_core.plugins.versions import closure, installed, satisfies

RELEASES = st.lists(st.integers(0, 3), min_size=1, max_size=3).map(lambda parts: ".".join(map(str, parts)))
CLAUSES = st.tuples(st.sampled_from([">=", "<=", "==", "!=", ">", "<"]), RELEASES).map("".join)
COMPATIBLE = st.lists(st.integers(0, 3), min_size=2, max_size=3).map(lambda p: "~=" + ".".join(map(str, p)))


@settings(max_examples=200)
@given(RELEASES, st.lists(CLAUSES | COMPATIBLE, max_size=3))
def test_it_agrees_with_packaging_on_final_releases(version, clauses):
    ranges = ",".join(clauses)
    assert satisfies(version, ranges) is SpecifierSet(ranges).contains(version)


@pytest.mark.parametrize(("version", "ranges"), [("x", ">=1"), ("1.0", "newer than 1")])
def test_what_is_no_version_is_a_sentence(version, ranges):
    with pytest.raises(PluginError, match=r"[Ii]nvalid .* \(in .*\). Write it as PEP 440 says"):
        satisfies(version, ranges)


def test_a_closure_follows_requirements_and_names_what_is_lacking():
    found, lacking = closure(["mmkd", "surely-not-here-7>=2"], without=["torch"])
    assert {"mmkd", "numpy", "pydantic-core"} <= set(found)
    assert "torch" not in found
    assert lacking == ["surely-not-here-7>=2"]


def test_a_local_part_does_not_count():
    assert satisfies("2.13.0+cpu", ">=2.10,<3") is True


@pytest.mark.parametrize(
    ("requirement", "answer"),
    [
        ("numpy", True),
        ("NumPy>=1", True),
        ("numpy (>=1)", True),
        ("numpy>=999", False),
        ("surely-not-here-7", False),
        ("surely-not-here-7; extra == 'dev'", True),
        ("numpy>=999; python_version < '3'", True),
        ("numpy[extra]>=1", False),
        ("numpy @ https://example.org/numpy.whl", False),
        ("no requirement at all", False),
    ],
)
def test_requirements_of_this_environment(requirement, answer):
    assert importlib.metadata.version("numpy")
    assert installed(requirement) is answer
