from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mmkd_core.contract import LicenseInfo
from mmkd_core.plugins.licences import forbids, in_words, most_restrictive, named, needs_consent

ORDER = [
    "MIT", "LicenseRef-Hospital", "CC-BY-SA-4.0", "CC-BY-NC-4.0", "CC-BY-NC-SA-4.0", "CC-BY-ND-4.0", "CC-BY-NC-ND-4.0",
    "LicenseRef-none",
]  # fmt: skip


def terms(weights: str, commercial_use: bool | None = True, derivatives: bool | None = True) -> LicenseInfo:
    return LicenseInfo(code="MIT", weights=weights, commercial_use=commercial_use, derivatives=derivatives)


@pytest.mark.parametrize(("less", "more"), list(itertools.combinations(ORDER, 2)))
def test_the_order(less, more):
    assert most_restrictive([terms(less), terms(more)]).weights == more
    assert most_restrictive([terms(more), terms(less)]).weights == more


@pytest.mark.parametrize(
    ("licence", "forbidden"),
    [
        (terms("Apache-2.0"), ()),
        (terms("CC-BY-NC-4.0"), ("commercial use",)),
        (terms("CC-BY-ND-4.0"), ("derivatives",)),
        (terms("CC-BY-NC-ND-4.0"), ("commercial use", "derivatives")),
        (terms("LicenseRef-Own", commercial_use=False), ("commercial use",)),
        (terms("LicenseRef-Own", derivatives=False), ("derivatives",)),
        (terms("NOASSERTION"), ()),  # not stated, which is no prohibition
        (terms("LicenseRef-unknown", None, None), ()),
        (terms("LicenseRef-unknown", commercial_use=False), ("commercial use",)),
        (terms("LicenseRef-Candle"), ()),  # ND and NC count as words, not as letters
    ],
)
def test_a_licences_name_and_the_declaration_both_count(licence, forbidden):
    assert forbids(licence) == forbidden


@pytest.mark.parametrize(
    ("licence", "words", "asks"),
    [
        (terms("MIT"), "", False),
        (terms("CC-BY-NC-4.0"), "no commercial use", True),
        (terms("CC-BY-NC-ND-4.0"), "no commercial use, no derivatives", True),
        (terms("LicenseRef-unknown", None, None), "not stated", True),
        (terms("LicenseRef-unknown", False, None), "not stated, no commercial use", True),
    ],
)
def test_a_licence_in_words(licence, words, asks):
    assert in_words(licence) == words
    assert needs_consent(licence) is asks
    assert named(licence) == (f"{licence.weights} ({words})" if words else licence.weights)


def test_what_one_teacher_leaves_open_its_student_leaves_open():
    bound = most_restrictive([terms("MIT"), terms("LicenseRef-unknown", None, None)])
    assert (bound.weights, bound.commercial_use, bound.derivatives) == ("LicenseRef-unknown", None, None)
    bound = most_restrictive([bound, terms("CC-BY-NC-4.0")])
    assert (bound.weights, bound.commercial_use, bound.derivatives) == ("LicenseRef-unknown", False, None)


def test_a_student_is_bound_by_all_of_its_teachers():
    bound = most_restrictive([terms("CC-BY-NC-4.0"), terms("CC-BY-ND-4.0"), terms("MIT")])
    assert (bound.weights, bound.commercial_use, bound.derivatives) == ("CC-BY-ND-4.0", False, False)


def test_of_nothing_there_is_none():
    with pytest.raises(ValueError, match="no licences"):
        most_restrictive([])


ANSWERS = st.sampled_from([True, False, None])
LICENCES = st.builds(terms, st.sampled_from([*ORDER, "Apache-2.0", "CC-BY-4.0"]), ANSWERS, ANSWERS)


@given(st.lists(LICENCES, min_size=1), st.randoms())
def test_the_result_forbids_all_that_any_forbids_and_does_not_depend_on_the_order(licences, random):
    bound = most_restrictive(licences)
    assert set(forbids(bound)) == {what for licence in licences for what in forbids(licence)}
    shuffled = licences[:]
    random.shuffle(shuffled)
    assert most_restrictive(shuffled) == bound
    assert most_restrictive([bound, *licences]) == bound
