"""The page of an audit of trust: claims, the sweep as figures, students where there are any, no network."""

from xml.etree import ElementTree

from mmkd_core.report.trust_page import render_trust

ROW = {
    "teacher": "tutor <b>",
    "domain": "ct",
    "claimed": 0.95,
    "metric": "zero-shot accuracy",
    "measured": 0.8,
    "lower": 0.72,
    "upper": 0.86,
    "balanced": 0.61,
    "auc": 0.88,
    "n": 100,
    "patients": 40,
    "status": "measured",
    "gap": {"probe": 0.8, "test": 0.79, "probe_auc": 0.88, "test_auc": 0.87, "p": 0.4, "unexplained": False},
    "finding": "overclaimed",
    "trusted": False,
    "admitted": 30,
    "of": 60,
    "reason": "80.0 % right on 100 probe images",
}
OPEN = {
    **ROW,
    "domain": "oct",
    "measured": None,
    "lower": None,
    "upper": None,
    "n": 0,
    "patients": 0,
    "finding": "unverified",
}
OPEN |= {"balanced": None, "auc": None, "gap": None, "status": "not measured"}
SWEEP = {
    "thresholds": [step / 100 for step in range(101)],
    "teachers": {
        "tutor <b>": {
            "ct": {"of": 60, "admitted": [60] * 81 + [20] * 20, "everyone": 60},
            "oct": {"of": 40, "admitted": [40] + [4] * 100, "everyone": 0},
        }
    },
}
SPREAD = {"mean": 0.8, "lower": 0.78, "upper": 0.82}
CHANGE = {"mean": -0.012, "lower": -0.03, "upper": 0.006}
STUDENTS = {
    "command": "mmkd study threshold",
    "steps": 400,
    "rows": [
        {"cell": "0.90", "mean": SPREAD, "change": None, "counts": {"trusted pairs": 24.0}, "seeds": [0, 1, 2]},
        {"cell": "0.50", "mean": SPREAD, "change": CHANGE, "counts": {"trusted pairs": 64.0}, "seeds": [0, 1, 2]},
    ],
    "missing": ["everyone"],
}


def facts(**more):
    return {"verdict": "FAIL", "rule": "90", "threshold": 0.9, "sentence": "The rule: so.", "rows": [ROW, OPEN], **more}


def page(**more):
    """Its text and its tree."""
    html = render_trust(facts(**more))
    assert "<script" not in html
    root = ElementTree.fromstring(html.strip().removeprefix("<!DOCTYPE html>"))
    assert not [node for node in root.iter() if node.get("src")]
    return " ".join("".join(root.itertext()).split()), root


def test_claims_beside_measurements_with_bounds():
    text, root = page()
    assert "Claims more than is found here: tutor <b> in ct." in text
    rows = [[cell.text for cell in row] for row in root.iter("tr")]
    figures = ["95.0", "80.0", "72.0 to 86.0", "61.0", "88.0", "100", "79.0", "87.0", "measured", "overclaimed"]
    assert ["ct", *figures, "30 of 60", ROW["reason"]] in rows
    nothing = ["95.0", "–", "–", "–", "–", "0", "–", "–", "not measured", "unverified"]
    assert ["oct", *nothing, "30 of 60", ROW["reason"]] in rows
    assert "If the threshold were another" not in text


def test_the_sweep_counts_pairs_and_draws_a_panel_per_teacher():
    text, root = page(sweep=SWEEP, students=STUDENTS)
    titles = [node.text for node in root.iter() if node.tag.endswith("title")]
    assert "Samples admitted by threshold: tutor <b>" in titles
    rows = [[cell.text for cell in row] for row in root.iter("tr")]
    assert ["Pairs", "100", *["64"] * 8, "24", "24", "60"] in rows
    assert "24 % at 0.9" in text


def test_students_and_what_is_not_trained_yet():
    text, root = page(sweep=SWEEP, students=STUDENTS)
    assert "Each learnt for the same 400 steps" in text
    rows = [[cell.text for cell in row] for row in root.iter("tr")]
    assert ["0.50", "64", "80.0", "78.0 to 82.0", "−1.2", "−3.0 to +0.6", "3"] in rows
    assert "Not trained yet: everyone. mmkd study threshold trains them" in text
    assert any("Change of mean AUC" in (node.text or "") for node in root.iter() if node.tag.endswith("title"))
