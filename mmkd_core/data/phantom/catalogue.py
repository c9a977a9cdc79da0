"""Which domains and findings the phantom has, and how one image of them is drawn. Does not: write files."""

from __future__ import annotations

from collections.abc import Callable
from types import MappingProxyType
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from mmkd_core.data.phantom import ct, dermatology, fundus, mri, oct, pathology, ultrasound, xray
from mmkd_core.data.phantom.canvas import Patient, Rng, Truth
from mmkd_core.errors import DataError


class Painter(NamedTuple):
    """How one domain is drawn."""

    findings: tuple[str, ...]
    patient: Callable[[Rng], Patient]
    draw: Callable[[str, Patient, Rng], tuple[NDArray[np.uint8], Truth]]


PAINTERS = MappingProxyType(
    {
        "xray": Painter(xray.FINDINGS, xray.patient, xray.draw),
        "ct": Painter(ct.FINDINGS, ct.patient, ct.draw),
        "mri": Painter(mri.FINDINGS, mri.patient, mri.draw),
        "ultrasound": Painter(ultrasound.FINDINGS, ultrasound.patient, ultrasound.draw),
        "pathology": Painter(pathology.FINDINGS, pathology.patient, pathology.draw),
        "fundus": Painter(fundus.FINDINGS, fundus.patient, fundus.draw),
        "oct": Painter(oct.FINDINGS, oct.patient, oct.draw),
        "dermatology": Painter(dermatology.FINDINGS, dermatology.patient, dermatology.draw),
    }
)
DOMAINS: tuple[str, ...] = tuple(PAINTERS)
"""Names of the domains; their order is part of every image's seed."""
FINDINGS: dict[str, tuple[str, ...]] = {name: painter.findings for name, painter in PAINTERS.items()}
"""The findings (labels) of each domain; the plain one first."""


def render(domain: str, finding: str, patient_rng: Rng, image_rng: Rng) -> NDArray[np.uint8]:
    """One image: uint8 (64, 64), or (64, 64, 3) for pathology, fundus and dermatology.

    Args:
        domain: one of ``DOMAINS``.
        finding: one of ``FINDINGS[domain]``.
        patient_rng: draws the anatomy; the same stream gives the same patient.
        image_rng: draws pose, finding and noise.

    Raises:
        DataError: if the domain or the finding does not exist.
    """
    check_finding(domain, finding)
    painter = PAINTERS[domain]
    return painter.draw(finding, painter.patient(patient_rng), image_rng)[0]


def check_finding(domain: str, finding: str | None = None) -> None:
    """Refuse a domain or a finding that does not exist, naming those that do."""
    if domain not in PAINTERS:
        raise DataError(f"The phantom has no domain {domain!r}", next=f"Choose from: {', '.join(DOMAINS)}")
    if finding is not None and finding not in FINDINGS[domain]:
        raise DataError(f"{domain} has no finding {finding!r}", next=f"Choose from: {', '.join(FINDINGS[domain])}")
