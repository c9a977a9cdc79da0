"""The README of a student that leaves: what it is, under which licence, and whose licences that comes from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from mmkd_core.contract import LicenseInfo
from mmkd_core.plugins.licences import beyond_its_name, forbids, is_known, named

LIMITS = """\
It is for research; it is not a medical device. Do not use it for diagnosis, triage or treatment, nor for any decision
about a person:

- it names a finding among those that it is asked about, and will name one of them whatever it is shown;
- its figures hold for images like those it was measured on; other scanners, sites, ages and skin tones were not;
- what it learnt from, captions and other models alike, is wrong in places, and so is it."""


def model_card(
    title: str,
    summary: str,
    license: LicenseInfo,
    taught: Mapping[str, LicenseInfo],
    use: str = "",
    results: Sequence[tuple[str, str, int]] = (),
    library: str = "open_clip",
    origin: Sequence[str] = (),
) -> str:
    """Markdown with the head that model hubs read.

    Args:
        license: what binds the student: the most restrictive licence among its teachers'.
        taught: teacher, or place of weights that it started from, to licence; empty if there is none.
        use: the command or the line of code that loads it.
        results: per domain the AUC with its interval, in words, and the number of patients.
        library: what loads it.
        origin: a line for each of data, release and hashes.
    """
    head = ["---", f"license: {_on_hub(license)}", f"library_name: {library}"]
    head += ["pipeline_tag: zero-shot-image-classification", "tags: [medical, clip, distillation]", "---"]
    lines = [*head, "", f"# {title}", "", f"{summary[:1].upper()}{summary[1:].rstrip('.')}.", ""]
    if use:
        lines += [f"    {use}", ""]
    lines += ["## Licence", "", f"The weights are under {license.weights}. {_meaning(license)}"]
    if taught:
        lines += ["", "It comes from the weights below, and the most restrictive of their licences binds it.", ""]
        lines += ["| what it learnt from | licence of its weights |", "|---|---|"]
        lines += [f"| {name} | {named(terms)} |" for name, terms in sorted(taught.items())]
    if origin:
        lines += ["", "## Where it comes from", "", *(f"- {line}" for line in origin)]
    if results:
        words = "Zero-shot AUC (macro, one-vs-rest) on held-out images, in points, with 95 % intervals over patients."
        lines += ["", "## Results", "", words]
        lines += ["", "| domain | AUC | patients |", "|---|---|---|"]
        lines += [f"| {domain} | {auc} | {patients:,} |" for domain, auc, patients in results]
    lines += ["", "## What it must not be used for", "", LIMITS]
    return "\n".join([*lines, ""])


def _meaning(license: LicenseInfo) -> str:
    forbidden = f"It does not allow {' or '.join(forbids(license))}." if forbids(license) else ""
    if not is_known(license):
        unstated = "Of some of what it learnt from nobody states a licence: that allows nothing by itself."
        return f"{unstated} {forbidden}".strip()
    return forbidden or "It allows commercial use and derivatives."


def _on_hub(license: LicenseInfo) -> str:
    """Hubs know SPDX identifiers in small letters, and ``other`` for the rest."""
    own_terms = license.weights.startswith("LicenseRef-") or beyond_its_name(license)
    return "other" if own_terms else license.weights.lower()
