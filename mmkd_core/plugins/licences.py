"""Which licence forbids most. The one place that reads licences: ``add`` asks by it, releases inherit by it.

From most to least restrictive: no licence at all, no derivatives, no commercial use, share alike, terms of somebody's
own (LicenseRef-...), everything else. A licence that nobody states forbids nothing in so many words and allows nothing
either: it is called "not stated", and asks for consent as a prohibition does.

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


UNKNOWN = LicenseInfo(code="LicenseRef-unknown", weights="LicenseRef-unknown", commercial_use=None, derivatives=None)
"""Of weights whose licence nobody states."""


class Terms(Protocol):
    """What a spec and a registry's stanza both say."""

    @property
    def weights(self) -> str:
        """SPDX identifier of the weights' licence."""
        ...

    @property
    def commercial_use(self) -> bool | None:
        """Whether it is allowed; None where nobody says."""
        ...

    @property
    def derivatives(self) -> bool | None:
        """Whether they are allowed; None where nobody says."""
        ...


def is_known(terms: Terms) -> bool:
    """Whether there is a licence at all."""
    return not _NONE.match(terms.weights)


def forbids(terms: Terms) -> tuple[str, ...]:
    """What the terms forbid, in words: none, or some of "commercial use" and "derivatives"."""
    _, derivatives, commercial, *_ = _order(terms)
    found = ["commercial use"] if commercial else []
    return tuple([*found, "derivatives"] if derivatives else found)


def needs_consent(terms: Terms) -> bool:
    """Whether a person has to agree before they are used: they forbid something, or nobody states them."""
    return bool(forbids(terms)) or not is_known(terms)


def beyond_its_name(license: LicenseInfo) -> tuple[str, ...]:
    """What the terms forbid and the licence's name alone does not: of a student, what its other teachers forbid."""
    by_name = forbids(license.model_copy(update={"commercial_use": True, "derivatives": True}))
    return tuple(what for what in forbids(license) if what not in by_name)


def in_words(terms: Terms) -> str:
    """What the terms forbid, for people; empty where they are stated and forbid nothing."""
    return ", ".join([*([] if is_known(terms) else ["not stated"]), *(f"no {what}" for what in forbids(terms))])


def named(terms: Terms) -> str:
    """The licence of the weights by name, with what it forbids in brackets."""
    words = in_words(terms)
    return f"{terms.weights} ({words})" if words else terms.weights


def listed(terms: Terms, code: str = "") -> str:
    """The licences of weights and code, and what that of the weights forbids."""
    parts = [f"weights {terms.weights}", f"code {code}" if code else "", in_words(terms)]
    return ", ".join(part for part in parts if part)


def most_restrictive(licences: Iterable[LicenseInfo]) -> LicenseInfo:
    """The licence that binds a student of teachers under all of these.

    It has the name of the most restrictive one, forbids what any of them forbids, and leaves open what any leaves open.

    Raises:
        ValueError: there are none.
    """
    known = sorted(licences, key=lambda licence: (*_order(licence), licence.weights))
    if not known:
        raise ValueError("the most restrictive of no licences does not exist")
    forbidden = {what for licence in known for what in forbids(licence)}
    stated = True if all(map(is_known, known)) else None
    commercial_use = False if "commercial use" in forbidden else stated
    derivatives = False if "derivatives" in forbidden else stated
    return known[-1].model_copy(update={"commercial_use": commercial_use, "derivatives": derivatives})


def _order(terms: Terms) -> tuple[bool, bool, bool, bool, bool]:
    """Greater is more restrictive."""
    parts = terms.weights.upper().split("-")
    return (
        not is_known(terms),
        "ND" in parts or terms.derivatives is False,
        "NC" in parts or terms.commercial_use is False,
        "SA" in parts,
        terms.weights.startswith("LicenseRef-"),
    )
