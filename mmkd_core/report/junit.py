"""JUnit XML of an audit, for the build server: one test case per comparison, one suite per family.

A comparison that gates and failed is a failure; one that gates and is inconclusive is an error with the number of
samples that would decide; one that is only reported is a skipped test if it did not pass. One that was not made is an
error with the way out where it gates and could be made, else a skipped test with the reason.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any
from xml.etree.ElementTree import Element, ElementTree, SubElement, indent

from mmkd_core.files import replacing
from mmkd_core.report.words import clean


def write_junit(audit: Mapping[str, Any], out: Path) -> Path:
    """Write the facts of an audit (its JSON) as JUnit XML, whole or not at all."""
    root = Element("testsuites", name=f"mmkd audit forgetting {audit['candidate']} against {audit['parent']}")
    every = [*audit["comparisons"], *audit["undefined"]]
    for family in dict.fromkeys(row["family"] for row in every):
        rows = [row for row in every if row["family"] == family]
        suite = SubElement(root, "testsuite", name=clean(family))
        cases = [_case(suite, row) for row in rows]
        counts = {"tests": len(rows)} | {f"{k}s" if k != "skipped" else k: cases.count(k) for k in KINDS}
        suite.attrib.update({name: str(count) for name, count in counts.items()})
        properties = Element("properties")
        for name, value in (("gate", audit["gate"]["hash"]), ("verdict", audit["verdict"])):
            SubElement(properties, "property", name=name, value=str(value))
        suite.insert(0, properties)
    indent(root)
    with replacing(out) as file:
        ElementTree(root).write(file, encoding="utf-8", xml_declaration=True)
    return out


KINDS = ("failure", "error", "skipped")


def _case(suite: Element, row: Mapping[str, Any]) -> str:
    """Add one test case; returns what it holds, or nothing."""
    case = SubElement(
        suite, "testcase", classname=f"{clean(row['family'])}.{clean(row['metric'])}", name=clean(row["part"])
    )
    if "delta" not in row:
        kind = "error" if row["verdict"] else "skipped"
        SubElement(case, kind, message=clean(f"not compared: {row['reason']}. {row['next']}".strip()))
        return kind
    said = (
        f"{row['verdict']}: change {100 * row['delta']:+.2f} points, "
        f"interval {100 * row['lower']:+.2f} to {100 * row['upper']:+.2f}, margin {100 * row['margin']:.2f}, "
        f"{row['n']} samples of {row['groups']} groups"
    )
    if row["verdict"] == "PASS":
        return ""
    if row["verdict"] == "INCONCLUSIVE":
        said += f"; {row['needed']} more samples would decide" if row["needed"] else "; no number of samples decides"
    kind = "skipped" if not row["gates"] else "failure" if row["verdict"] == "FAIL" else "error"
    SubElement(case, kind, message=said)
    return kind
