"""Names of domains: mmkd's own, however they are spelled, and new ones where a person says so.

X-Ray -> xray        xrya -> refused, xray is meant?        pet, new:octa -> a domain of its own
"""

from __future__ import annotations

import re
from difflib import get_close_matches

from mmkd_core.data.captions import DOMAINS
from mmkd_core.errors import DataError

NEW = "new:"
"""In front of a name: it is a domain of its own, however much it looks like a known one."""

_NAME = re.compile(r"[a-z0-9][a-z0-9_-]*")
_NEAR = 0.74  # ratio of difflib: xrya, mr and histopathology are near, pet and dental-xray are not


def domain_name(text: str, place: str = "") -> str:
    """Return the domain that a text names.

    Raises:
        DataError: it looks like a typing error of a known one, or can be no name (it becomes part of file names).
    """
    name = " ".join(text.split())
    new, plain = name.removeprefix(NEW), _plain(name)
    if known := known_domain(name):
        return known
    slug = re.sub(r"[^a-z0-9]+", "-", new.casefold()).strip("-") or "other"
    near = get_close_matches(plain, DOMAINS, n=1, cutoff=_NEAR) or [known for known in DOMAINS if known in plain]
    if new == name and get_close_matches(plain, DOMAINS, n=1, cutoff=_NEAR):
        what = f"{name!r} is no domain that mmkd knows, but nearly {near[0]}"
        raise DataError(what, where=place, next=f"Write {near[0]}; or {NEW}{slug}, if it is a domain of its own.")
    if not _NAME.fullmatch(new):
        hint = f", or {near[0]}, as mmkd and its teachers call it" if near else ""
        what = f"the domain {name!r} is no name: lower-case letters, digits, - and _ make one"
        raise DataError(what, where=place, next=f"Write {slug}{hint}.")
    return new


def known_domain(name: str) -> str | None:
    """Return the domain of mmkd's own that is called so, however it is spelled."""
    return _plain(name) if _plain(name) in DOMAINS else None


def _plain(name: str) -> str:
    return re.sub(r"[\s._-]+", "", name.casefold())


def written(name: str) -> str:
    """Return the text that ``domain_name`` reads as this name."""
    return f"{NEW}{name}" if name not in DOMAINS and get_close_matches(name, DOMAINS, n=1, cutoff=_NEAR) else name
