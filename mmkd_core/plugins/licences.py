"""Which licence forbids most. The one place that reads licences: ``add`` asks by it, releases inherit by it.

From most to least restrictive: no licence at all, no derivatives, no commercial use, share alike, terms of somebody's
own (LicenseRef-...), everything else.

Does not: give legal advice. It orders what plugins declare, and reads NC, ND and SA out of SPDX identifiers, so that a
declaration which says less than its licence's name is not believed.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Protocol

from mmkd_core.contract import LicenseInfo

_NONE = re.compile(
    r"^(LicenseRef-)?(none|noassertion|unknown|unstated|unlicensed|no-licen[cs]e|not-stated)$", re.IGNORECASE
)


UNKNOWN = LicenseInfo(code="LicenseRef-unknown", weights="LicenseRef-unknown", commercial_use=False, derivatives=False)
"""Of weights whose licence nobody states: nothing is allowed."""


class Terms(Protocol):
    """What a spec and a registry's stanza both say."""

    @property
    def weights(self) -> str:
        """SPDX identifier of the weights' licence."""
        ...

    @property
    def commercial_use(self) -> bool:
        """Whether it is allowed."""
        ...

    @property
    def derivatives(self) -> bool:
        """Whether they are allowed."""
        ...


def is_known(terms: Terms) -> bool:
    """Whether there is a licence at all."""
    return not _NONE.match(terms.weights)


def forbids(terms: Terms) -> tuple[str, ...]:
    """What the terms do not allow, in words: none, or some of "commercial use" and "derivatives"."""
    unlicensed, derivatives, commercial, *_ = _order(terms)
    found = ["commercial use"] if commercial or unlicensed else []
    return tuple([*found, "derivatives"] if derivatives or unlicensed else found)


def beyond_its_name(license: LicenseInfo) -> tuple[str, ...]:
    """What the terms forbid and the licence's name alone does not: of a student, what its other teachers forbid."""
    by_name = forbids(license.model_copy(update={"commercial_use": True, "derivatives": True}))
    return tuple(what for what in forbids(license) if what not in by_name)


def in_words(terms: Terms) -> str:
    """What the terms allow, for people."""
    forbidden = forbids(terms)
    return f"no {', no '.join(forbidden)}" if forbidden else "commercial use and derivatives allowed"


def most_restrictive(licences: Iterable[LicenseInfo]) -> LicenseInfo:
    """The licence that binds a student of teachers under all of these.

    It has the name of the most restrictive one, and forbids what any of them forbids.

    Raises:
        ValueError: there are none.
    """
    known = sorted(licences, key=lambda licence: (*_order(licence), licence.weights))
    if not known:
        raise ValueError("the most restrictive of no licences does not exist")
    forbidden = {what for licence in known for what in forbids(licence)}
    allowed = {"commercial_use": "commercial use" not in forbidden, "derivatives": "derivatives" not in forbidden}
    return known[-1].model_copy(update=allowed)


def _order(terms: Terms) -> tuple[bool, bool, bool, bool, bool]:
    """Greater is more restrictive."""
    parts = terms.weights.upper().split("-")
    return (
        not is_known(terms),
        "ND" in parts or not terms.derivatives,
        "NC" in parts or not terms.commercial_use,
        "SA" in parts,
        terms.weights.startswith("LicenseRef-"),
    )
