from __future__ import annotations

import os
import re
import xml.etree.ElementTree as ET
from collections import Counter
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from mmkd_core.errors import DataError, WorkspaceError
from mmkd_core.report import write_report
from mmkd_core.report.page import render
from mmkd_core.report.view import View
from mmkd_core.trust import RULES, TrustConfig

HOSTILE = "<script>alert(1)</script>\"'&{{ 7*7 }}\x00\ud800"


class _Page(HTMLParser):
    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))


def _text(html: str) -> str:
    root = ET.fromstring(html)
    for style in list(root.iter("style")):
        style.text = ""
    return " ".join(" ".join(root.itertext()).split())


def _figure(html: str, uid: str) -> str:
    svg = next(
        node for node in ET.fromstring(html).iter() if (node.get("aria-labelledby") or "").startswith(f"{uid}-title")
    )
    # Title and description repeat values for screen readers: what is tested here is what can be seen.
    shown = [part for node in svg.iter() if node.tag.endswith("}text") for part in node.itertext()]
    return " | ".join(shown)


def test_writes_one_file_and_leaves_nothing_beside_it(summary: dict[str, Any], curves: Any, tmp_path: Path) -> None:
    out = write_report(summary, curves, tmp_path / "new" / "report.html")
    assert out == tmp_path / "new" / "report.html"
    assert [p.name for p in out.parent.iterdir()] == ["report.html"]
    assert out.read_text(encoding="utf-8") == render(summary, curves)


def test_same_input_gives_the_same_bytes_and_is_not_changed(summary: dict[str, Any], curves: Any) -> None:
    before = repr(summary)
    assert render(summary, curves) == render(summary, curves)
    assert repr(summary) == before


def test_asks_for_nothing_outside_itself(summary: dict[str, Any], curves: Any) -> None:
    html = render(summary, curves)
    page = _Page(html)
    assert not {"script", "link", "img", "iframe", "object", "embed", "base", "form"} & {tag for tag, _ in page.tags}
    for tag, attributes in page.tags:
        for name, value in attributes.items():
            assert not name.startswith("on"), (tag, name)
            if name in ("src", "srcset", "href", "xlink:href", "data", "action"):
                assert (value or "").startswith("#"), (tag, name, value)
    assert not re.search(r"url\(|@import", html)
    assert set(re.findall(r"https?://[^\"\s<]*", html)) == {"http://www.w3.org/2000/svg"}
    assert ("meta", "default-src 'none'; style-src 'unsafe-inline'") in [(t, a.get("content")) for t, a in page.tags]


def test_is_well_formed_with_ids_used_once_and_links_that_lead_somewhere(summary: dict[str, Any], curves: Any) -> None:
    root = ET.fromstring(render(summary, curves))
    ids = Counter(node.get("id") for node in root.iter() if node.get("id"))
    assert ids.most_common(1)[0][1] == 1
    named = [name for node in root.iter() for name in (node.get("aria-labelledby") or "").split()]
    links = [node.get("href", "")[1:] for node in root.iter("a")]
    assert len(named) > 20
    assert len(links) > 5
    assert set(named) | set(links) <= set(ids)


def test_tables_have_captions_and_scopes(summary: dict[str, Any], curves: Any) -> None:
    root = ET.fromstring(render(summary, curves))
    tables = list(root.iter("table"))
    assert len(tables) == 9
    for table in tables:
        assert "".join(table.find("caption").itertext()).strip()  # type: ignore[union-attr]
        assert all(cell.get("scope") in ("col", "row", "rowgroup") for cell in table.iter("th"))
        width = len(list(table.find("thead").iter("th")))  # type: ignore[union-attr]
        for row in table.iter("tr"):
            assert sum(int(cell.get("colspan", "1")) for cell in row) == width


def test_every_value_of_the_figures_can_be_read(summary: dict[str, Any], curves: Any) -> None:
    html = render(summary, curves)
    heat, dots, forest = (_figure(html, uid) for uid in ("heat", "dots-wide", "forest-wide"))
    models = [*summary["teachers"].values(), summary["stage_1"], *summary["releases"].values()]
    for facts in models:
        for value in [*facts["auc"].values(), facts["mean_auc"]]:
            assert f"{100 * value:.1f}" in heat
    for domain in summary["data"]["domains"]:
        assert f"{100 * summary['releases']['0001']['auc'][domain]:.1f}" in dots
        assert f"{100 * summary['releases']['0002']['auc'][domain]:.1f}" in dots
        row = summary["integration"]["forgetting"][domain]
        change, lower, upper = (f"{100 * row[k]:+.1f}".replace("-", "−") for k in ("delta", "lower", "upper"))
        assert f"{domain} | {change} [{lower}, {upper}] | 200 (80) | pass" in forest
    assert "mean | +4.1 [+3.5, +4.8]" in forest
    assert "✓ all" in heat
    assert "<1 %" in heat
    text = _text(html)
    for interval in summary["releases"]["0002"]["interval"].values():
        assert f"{100 * interval[0]:.1f} to {100 * interval[1]:.1f}" in text


def test_narrow_figures_say_the_same(summary: dict[str, Any], curves: Any) -> None:
    html = render(summary, curves)
    mri = summary["integration"]["forgetting"]["mri"]
    assert f"[{100 * mri['lower']:+.1f}, {100 * mri['upper']:+.1f}]" in _figure(html, "forest-narrow")
    assert "68.0 → 84.0 (+16.0)" in _figure(html, "dots-narrow")


def test_headline_says_the_verdict_and_the_change(summary: dict[str, Any], curves: Any) -> None:
    text = _text(render(summary, curves))
    kept = "No domain lost more than the 2.0 points of AUC allowed, and no other figure its margin."
    assert f"phantom-sono is integrated. {kept}" in text
    assert (
        "PASS The student has a mean zero-shot AUC of 88.4 over 8 domains, 4.1 points higher than release 0001" in text
    )
    assert "24.3 points higher than the best single teacher (phantom-sono, 64.0)." in text
    assert "Largest loss in any domain −0.6 ct" in text
    assert "21.1 % of the samples" in text


def test_a_failed_audit_is_said_plainly(summary: dict[str, Any], curves: Any) -> None:
    integration = summary["integration"]
    integration |= {"verdict": "FAIL", "promoted": False}
    integration["forgetting"]["xray"] |= {"delta": -0.045, "lower": -0.06, "upper": -0.03, "verdict": "FAIL"}
    integration["open"] = [
        {"family": "zero-shot", "metric": "auc", "part": "xray", "delta": -0.045, "verdict": "FAIL"},
        {"family": "calibration", "metric": "brier", "part": "ct", "delta": -0.06, "verdict": "INCONCLUSIVE"},
    ]
    text = _text(render(summary, curves))
    assert "phantom-sono was refused: the student forgot too much (auc xray −4.5)." in text
    assert "The candidate, release 0002, has a mean" in text
    assert "Release 0001 stays in use." in text


def test_an_inconclusive_audit_names_what_is_missing(summary: dict[str, Any], curves: Any) -> None:
    summary["integration"] |= {"verdict": "INCONCLUSIVE", "promoted": False}
    row = {"delta": -0.012, "lower": -0.031, "upper": 0.007, "verdict": "INCONCLUSIVE", "needed": 3400}
    summary["integration"]["forgetting"]["ct"] |= row
    gap = {"family": "fidelity", "metric": "cosine", "part": "tutor", "delta": None, "verdict": "INCONCLUSIVE"}
    summary["integration"]["open"] = [{"family": "zero-shot", "metric": "auc", "part": "ct", **row}, gap]
    html = render(summary, curves)
    told = "phantom-sono waits: the test data cannot show that nothing was forgotten (auc ct, cosine tutor)."
    assert told in _text(html)
    assert "INCONCLUSIVE 3,400" in _text(html)
    assert "ct | −1.2 [−3.1, +0.7] | 200 (80) | inconclusive" in _figure(html, "forest-wide")


def test_a_hostile_name_is_only_text(summary: dict[str, Any], curves: Any, tmp_path: Path) -> None:
    summary["teachers"] = {HOSTILE: {**summary["teachers"]["phantom-sono"], "title": HOSTILE, "license": HOSTILE}}
    summary["trust"]["teachers"] = {
        HOSTILE: {"xray": {**summary["trust"]["teachers"]["phantom-sono"]["xray"], "reason": HOSTILE}}
    }
    summary["data"]["domains"][HOSTILE] = summary["data"]["domains"]["xray"]
    summary["integration"] |= {"teacher": HOSTILE}
    summary["integration"]["forgetting"][HOSTILE] = summary["integration"]["forgetting"]["ct"]
    summary["name"] = HOSTILE
    out = write_report(summary, {HOSTILE: [{"step": 1, HOSTILE: 2.0}, {"step": 2, HOSTILE: 1.0}]}, tmp_path / "r.html")
    html = out.read_text(encoding="utf-8")
    assert "script" not in {tag for tag, _ in _Page(html).tags}
    assert "{{ 7*7 }}" in _text(html)
    assert "<script>alert(1)</script>" in _text(html)


@pytest.mark.parametrize(
    "parts",
    [
        ("integration",),
        ("stage_1",),
        ("trust",),
        ("store", "seconds"),
        ("integration", "stage_1", "trust", "store", "seconds"),
    ],
)
def test_optional_parts_may_be_missing(summary: dict[str, Any], curves: Any, parts: tuple[str, ...]) -> None:
    for part in parts:
        del summary[part]
    text = _text(render(summary, curves))
    assert ("What was forgotten" in text) == ("integration" not in parts)
    assert ("stage 1 alone" in text) == ("stage_1" not in parts)
    assert ("Who may teach" in text) == ("trust" not in parts)
    assert ("Store and time" in text) == ("store" not in parts)
    assert "88.4" in text
    assert "None" not in text


def test_one_release_is_compared_with_stage_1(summary: dict[str, Any], curves: Any) -> None:
    del summary["integration"], summary["releases"]["0002"]
    summary["releases"]["0001"]["current"] = True
    text = _text(render(summary, {"pretrain": curves["pretrain"]}))
    assert "The student has learnt from 4 teachers." in text
    assert "points higher than stage 1 alone" in text
    assert "release 0001 (current)" in text


def test_one_release_alone_has_nothing_before_it(summary: dict[str, Any]) -> None:
    for part in ("integration", "stage_1", "trust"):
        del summary[part]
    del summary["releases"]["0002"]
    text = _text(render(summary, {}))
    assert "The student The dot" not in text
    assert "Zero-shot AUC in points by domain. The dot is release 0001." in text
    assert "How it trained" not in text


def test_missing_numbers_are_dashes(summary: dict[str, Any], curves: Any) -> None:
    summary["teachers"]["phantom-lens"]["auc"]["xray"] = None
    for release in summary["releases"].values():
        release["auc"]["oct"] = None
        release["interval"].pop("oct")
    summary["integration"]["forgetting"]["oct"] |= {"delta": None, "lower": None, "upper": float("nan"), "needed": None}
    html = render(summary, curves)
    assert "oct | – | 200 (80)" in _figure(html, "forest-wide")
    assert "phantom-lens | – | " in _figure(html, "heat")
    assert "nan" not in _text(html).lower().split()


def test_commands_are_the_recorded_ones_or_the_steps_of_the_releases(summary: dict[str, Any]) -> None:
    steps = "\n".join(
        [
            "mmkd init again --config mmkd.yaml &amp;&amp; cd again",
            "mmkd data import PATH",
            "mmkd teachers add phantom-radio",
            "mmkd teachers add phantom-lens",
            "mmkd teachers add phantom-tissue",
            "mmkd extract",
            "mmkd pretrain",
            "mmkd distill",
            "mmkd integrate phantom-sono",
            "mmkd report",
        ]
    )
    assert f"<code>{steps}</code>" in render(summary, {})
    summary["reproduce"] = ["mmkd init", "mmkd extract"]
    assert "<code>mmkd init\nmmkd extract</code>" in render(summary, {})


def test_a_page_about_a_release_says_so_whatever_is_in_use(summary: dict[str, Any]) -> None:
    del summary["integration"]
    del summary["releases"]["0002"]
    summary["about"] = "0001"
    text = _text(render(summary, {}))
    assert "release 0001 · seed 0" in text
    assert "mean zero-shot AUC of release 0001" in text
    assert "0002" not in text


def test_without_labels_there_is_no_figure_of_auc_and_a_sentence_instead(summary: dict[str, Any], curves: Any) -> None:
    for facts in [*summary["teachers"].values(), *summary["releases"].values(), summary["stage_1"]]:
        facts |= {"auc": {}, "interval": {}, "mean_auc": None, "mean_interval": None}
    for domain in summary["data"]["domains"].values():
        domain["labels"] = []
    summary["integration"] |= {"forgetting": {}, "gain": {}, "mean": None}
    html = render(summary, curves)
    text = _text(html)
    assert "No image has a label, so there is no AUC; “mmkd eval retrieval 0002” measures" in text
    assert "Who knows what" not in text
    assert "The student before and after" not in text
    assert "How it trained" in text
    ids = {node.get("id") for node in ET.fromstring(html).iter() if node.get("id")}
    assert {link.get("href", "")[1:] for link in ET.fromstring(html).iter("a")} <= ids


def test_the_trust_rule_is_told_in_its_own_words(summary: dict[str, Any]) -> None:
    """Every rule, with other settings than the usual: the page says what the rule says, and nothing else."""
    for rule in RULES:
        config = TrustConfig(rule=rule, threshold=0.5)
        summary["trust"] |= {"rule": rule, "sentences": [{"says": config.sentence, "teachers": ["a"]}]}
        text = _text(render(summary, {}))
        assert config.sentence in text
        assert "90 %" not in config.sentence
        others = [TrustConfig(rule=other, threshold=0.5).sentence for other in RULES if other != rule]
        assert not [said for said in others if said in text and said not in config.sentence]


def test_teachers_under_different_rules_are_named(summary: dict[str, Any]) -> None:
    entries = [{"says": "The one.", "teachers": ["a", "b"]}, {"says": "The other.", "teachers": ["c"]}]
    summary["trust"] |= {"sentences": entries, "undecided": ["d"]}
    text = _text(render(summary, {}))
    assert "a, b: The one." in text
    assert "c: The other." in text
    assert "What d may teach was not decided from the present data" in text


def test_refuses_another_schema_and_a_summary_with_holes(summary: dict[str, Any], tmp_path: Path) -> None:
    out = tmp_path / "report.html"
    out.write_text("the last one")
    with pytest.raises(
        DataError, match=r"schema 'mmkd.summary/v2', this mmkd reads 'mmkd.summary/v1' \(summary.json\)"
    ):
        write_report({**summary, "schema": "mmkd.summary/v2"}, {}, out)
    del summary["teachers"], summary["data"]
    with pytest.raises(DataError, match=r"the summary has no data, teachers"):
        write_report(summary, {}, out)
    assert out.read_text() == "the last one"


def test_a_write_that_fails_keeps_the_old_report(
    summary: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "report.html"
    out.write_text("the last one")

    def full(source: object, target: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(WorkspaceError, match=r"the report cannot be written: No space left on device .*Free space"):
        write_report(summary, {}, out)
    assert [p.name for p in tmp_path.iterdir()] == ["report.html"]
    assert out.read_text() == "the last one"


def test_the_best_teacher_of_each_domain_is_the_harder_comparison(summary: dict[str, Any], curves: Any) -> None:
    for facts in summary["teachers"].values():
        facts["auc"] = dict.fromkeys(facts["auc"], 0.5)
        facts["mean_auc"] = 0.55
    for domain, facts in zip(summary["releases"]["0002"]["auc"], list(summary["teachers"].values()) * 2, strict=True):
        facts["auc"][domain] = 0.95
    own = dict.fromkeys(summary["releases"]["0002"]["auc"], 0.9)
    summary["releases"]["0002"] |= {"auc": own, "mean_auc": 0.9}
    view = View(summary)
    assert view.best_of_each == pytest.approx((0.95, 0.9))
    assert "35.0 points higher than the best single teacher" in view.lead
    assert "5.0 points lower than each domain's own best teacher (mean 95.0)" in view.lead
    assert "Each domain’s own best teacher, mean" in render(summary, curves)


def test_decisions_and_probabilities_have_tables(summary: dict[str, Any], curves: Any) -> None:
    assert "Brier score as a table" not in render(summary, curves)
    summary["releases"]["0002"] |= {"brier": {"xray": 0.1234}, "mean_brier": 0.1234}
    summary["releases"]["0002"] |= {"balanced_accuracy": {"xray": 0.777}, "mean_balanced_accuracy": 0.777}
    shown = render(summary, curves)
    for text in ("Brier score as a table", "12.3", "Balanced accuracy as a table", "77.7"):
        assert text in shown
