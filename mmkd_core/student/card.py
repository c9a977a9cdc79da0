"""The README of a student that leaves: what it is, under which licence, and whose licences that comes from."""

from __future__ import annotations

from collections.abc import Mapping

from mmkd_core.contract import LicenseInfo
from mmkd_core.plugins.licences import beyond_its_name, forbids


def model_card(title: str, summary: str, license: LicenseInfo, taught: Mapping[str, LicenseInfo], use: str = "") -> str:
    """Markdown with the head that model hubs read.

    Args:
        license: what binds the student: the most restrictive licence among its teachers'.
        taught: teacher to licence; empty if it learnt from no teacher.
        use: the command or the line of code that loads it.
    """
    head = ["---", f"license: {_on_hub(license)}", "library_name: open_clip", "---"]
    lines = [*head, "", f"# {title}", "", f"{summary.rstrip('.')}.", ""]
    if use:
        lines += [f"    {use}", ""]
    lines += ["## Licence", "", f"The weights are under {license.weights}. {_meaning(license)}"]
    if taught:
        lines += [
            "",
            "It was distilled from the teachers below, and the most restrictive of their licences binds it.",
            "",
        ]
        lines += ["| teacher | licence of its weights |", "|---|---|"]
        lines += [f"| {name} | {terms.weights}{_short(terms)} |" for name, terms in sorted(taught.items())]
    return "\n".join([*lines, "", "It is for research; it is not a medical device.", ""])


def _meaning(license: LicenseInfo) -> str:
    forbidden = forbids(license)
    return f"It does not allow {' or '.join(forbidden)}." if forbidden else "It allows commercial use and derivatives."


def _short(license: LicenseInfo) -> str:
    forbidden = forbids(license)
    return f" (no {', no '.join(forbidden)})" if forbidden else ""


def _on_hub(license: LicenseInfo) -> str:
    """Hubs know SPDX identifiers in small letters, and ``other`` for the rest."""
    own_terms = license.weights.startswith("LicenseRef-") or beyond_its_name(license)
    return "other" if own_terms else license.weights.lower()
