"""Domains as people spell them."""

from __future__ import annotations

import pytest

from mmkd_core.data.domains import domain_name, written
from mmkd_core.errors import DataError


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("xray", "xray"),
        (" X-Ray ", "xray"),
        ("x_ray", "xray"),
        ("MRI", "mri"),
        ("pet", "pet"),
        ("dental-xray", "dental-xray"),
        ("new:octa", "octa"),
        ("new:x-ray", "x-ray"),
    ],
)
def test_names_are_read(text: str, name: str) -> None:
    assert domain_name(text) == name
    assert domain_name(written(name)) == name


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("xrya", "'xrya' is no domain that mmkd knows, but nearly xray (here). Write xray; or new:xrya, if"),
        ("xrays", "Write xray; or new:xrays"),
        ("MR", "Write mri; or new:mr"),
        ("octa", "Write oct; or new:octa"),
        ("histopathology", "Write pathology; or new:histopathology"),
        ("Chest X-ray", "Write chest-x-ray, or xray, as mmkd and its teachers call it."),
        ("../up", "Write up."),
        ("PET", "Write pet."),
        ("new:A b", "Write a-b."),
    ],
)
def test_names_that_are_typing_errors_or_no_names_are_refused_with_the_right_one(text: str, says: str) -> None:
    with pytest.raises(DataError) as caught:
        domain_name(text, "here")
    assert says in str(caught.value)
