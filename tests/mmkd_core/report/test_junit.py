"""JUnit XML as a build server reads it."""

from xml.etree import ElementTree

from mmkd_core.report.junit import write_junit


def row(family, part, verdict, gates=True, needed=0):
    figures = {"delta": -0.013, "lower": -0.03, "upper": 0.01, "margin": 0.02, "n": 200, "groups": 80}
    return {
        "family": family,
        "metric": "auc",
        "part": part,
        "verdict": verdict,
        "gates": gates,
        "needed": needed,
    } | figures


def test_one_case_per_comparison(tmp_path):
    rows = [
        row("zero-shot", "ct", "PASS"),
        row("zero-shot", "mri <x>", "FAIL"),
        row("zero-shot", "oct", "INCONCLUSIVE", needed=340),
        row("calibration", "ct", "FAIL", gates=False),
    ]
    gaps = [
        {"part": "tutor", "gates": True, "verdict": "INCONCLUSIVE", "reason": "it is gone", "next": "Run `mmkd x`"},
        {"part": "other", "gates": True, "verdict": None, "reason": "one class only", "next": ""},
    ]
    facts = {"candidate": "0002", "parent": "0001", "verdict": "FAIL", "gate": {"hash": "abc"}, "comparisons": rows}
    facts["undefined"] = [{"family": "fidelity", "metric": "cosine", **gap} for gap in gaps]
    root = ElementTree.parse(write_junit(facts, tmp_path / "a.xml")).getroot()
    first, second, third = root.findall("testsuite")
    assert {k: first.get(k) for k in ("tests", "failures", "errors", "skipped")} == {
        "tests": "3",
        "failures": "1",
        "errors": "1",
        "skipped": "0",
    }
    assert (second.get("skipped"), second.get("failures")) == ("1", "0")
    assert [case.get("name") for case in first.findall("testcase")] == ["ct", "mri <x>", "oct"]
    assert first.find("properties/property[@name='gate']").get("value") == "abc"
    assert first.find("testcase/error").get("message").endswith("340 more samples would decide")
    assert "change -1.30 points, interval -3.00 to +1.00" in first.find("testcase/failure").get("message")
    assert (third.get("tests"), third.get("errors"), third.get("skipped")) == ("2", "1", "1")
    assert third.find("testcase/error").get("message") == "not compared: it is gone. Run `mmkd x`"
    assert third.find("testcase/skipped").get("message") == "not compared: one class only."
