"""Which teachers quickstart makes of real data, and what data it cannot make any of."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from mmkd_core.errors import DataError
from mmkd_core.integrate.specialists import groups


def corpus(**domains: tuple[int, list[str]]) -> Any:
    """By domain how many training images, and the labels."""
    return SimpleNamespace(
        domains=sorted(domains),
        classes=lambda domain: domains[domain][1],
        where=lambda split, **only: range(domains[only["domains"][0]][0]),
    )


def test_the_largest_domain_comes_later_and_the_others_are_shared_by_three() -> None:
    sizes = {"ct": 5, "fundus": 9, "mri": 5, "oct": 5, "xray": 5}
    found = groups(corpus(**{name: (count, ["a", "b"]) for name, count in sizes.items()}))
    assert found == [("ct",), ("mri", "oct"), ("xray",), ("fundus",)]


@pytest.mark.parametrize(
    ("domains", "says"),
    [
        ({"ct": (5, ["a", "b"])}, r"1 domain, two are needed.*`mmkd integrate NAME`"),
        ({"ct": (5, ["a", "b"]), "xray": (5, [])}, r"learn labels, and xray has none.*`mmkd data import`"),
        ({"ct": (5, []), "xray": (5, [])}, r"learn labels, and ct, xray has none"),
    ],
)
def test_data_without_labels_or_of_one_domain_is_a_sentence(domains: dict[str, Any], says: str) -> None:
    with pytest.raises(DataError, match=says):
        groups(corpus(**domains))
