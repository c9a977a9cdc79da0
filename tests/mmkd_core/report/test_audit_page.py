"""The page of an audit: whole, without network, escaped, with the images inside."""

import base64
import io
from xml.etree import ElementTree

import numpy as np
import pytest
from PIL import Image

from mmkd_core.audit.evidence import Evidence, Key, SampleValues
from mmkd_core.audit.forgetting import forgetting
from mmkd_core.evaluate.predictions import DomainPredictions, Predictions
from mmkd_core.report.audit_page import SHOWN, AuditView, render_audit, write_audit

DRIFT = {
    "cka": 0.987654,
    "neighbour_overlap": None,
    "procrustes": 0.01,
    "effective_rank_before": 12.34,
    "effective_rank_after": 11.0,
    "n": 30,
}


def facts(turned: int = 4, patients: int = 200) -> dict:
    """The JSON of a real audit of simulated models, with cards."""
    truth = np.arange(patients) % 2
    names = np.array([f"s{i}" for i in range(patients)], dtype=object)
    labels = np.array([("no", "yes <b>")[t] for t in truth], dtype=object)
    score = np.where(truth, 1.0, -1.0) * np.linspace(1, 2, patients)
    evidence = []
    for values in (np.where(np.arange(patients) < turned, -score, score), score):
        part = DomainPredictions.build(names, names, labels, np.stack([-values, values], axis=1), ("no", "yes <b>"))
        evidence.append(Evidence(Predictions({"ct": part}, "p")))
    audit = forgetting(*evidence)
    said = {"choice": "no", "sure": 0.612}
    cards = [
        {
            "sample_id": name,
            "domain": "ct",
            "label": "yes <b>",
            "before": {"choice": "yes <b>", "sure": 0.9},
            "after": said,
            "teachers": {"tutor": {"choice": "yes <b>", "sure": 0.99}, "stranger": said},
            "trusted": ["tutor"],
            "train": ["t1"],
            "replayed": "r1" if i == 0 else None,
            "cosine": 0.876 if i == 0 else None,
        }
        for i, name in enumerate(audit.flips["ct"].negative)
    ]
    drift = {"images": DRIFT, "texts": DRIFT, "domains": {"ct": DRIFT}}
    more = {"candidate": "0002", "parent": "0001", "gate_changed": {}, "drift": drift, "cards": cards}
    return {**audit.to_json(), **more, "replay_first": ["t1"]}


def picture() -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (8, 8), (200, 30, 30)).save(file, "JPEG")
    return file.getvalue()


def test_whole_and_without_network(tmp_path):
    page = write_audit(facts(), {"s0": picture(), "r1": picture()}, tmp_path / "new" / "a.html").read_text()
    root = ElementTree.fromstring(page.removeprefix("<!DOCTYPE html>"))
    sources = [node.get("src") for node in root.iter() if node.get("src")]
    assert len(sources) == 2
    assert all(source.startswith("data:image/jpeg;base64,") for source in sources)
    assert base64.b64decode(sources[0].split(",")[1]) == picture()
    assert "<script" not in page
    assert "http" not in page.replace("http://www.w3.org/", "").replace("http-equiv", "")
    assert "default-src 'none'; style-src 'unsafe-inline'; img-src data:" in page


def test_what_the_cards_say():
    page = render_audit(facts(), {"s0": picture(), "r1": picture()})
    assert "nearest replayed, cosine 0.88" in page
    assert "yes &lt;b&gt;" in page
    assert "<b>," not in page
    assert "tutor</dt>" in page
    assert "stranger</dt>" not in page  # neither trusted nor right
    assert render_audit(facts(turned=60), {}).count('<article class="card">') == SHOWN


@pytest.mark.parametrize(
    ("turned", "patients", "headline"),
    [
        (0, 200, "Release 0002 kept what 0001 knew."),
        (60, 200, "Release 0002 forgot too much: auc ct"),
        (3, 30, "The test data cannot show that release 0002 forgot nothing: auc ct"),
    ],
)
def test_the_headline_is_the_verdict(turned, patients, headline):
    given = facts(turned, patients)
    view = AuditView(given, {})
    assert view.headline.startswith(headline)
    assert (len(view.open) == 0) == (given["verdict"] == "PASS")
    assert ("What keeps it from passing" in render_audit(given, {})) == (given["verdict"] != "PASS")


def test_a_changed_gate_is_seen():
    given = facts()
    assert ">changed<" not in render_audit(given, {})
    changed = {"zero-shot auc margin": {"was": 0.02, "is": 0.99}}
    assert "zero-shot auc margin: 0.02, now 0.99." in render_audit({**given, "gate_changed": changed}, {})


def test_without_labels_there_is_no_figure_of_auc():
    """What decides is retrieval alone."""
    names = np.array([f"s{i}" for i in range(200)], dtype=object)
    old = SampleValues(names, names, names, np.arange(200) % 5 != 0, np.ones(200))
    evidence = Evidence(Predictions({}, "p"), {Key("retrieval", "R@10", "image to text"): old})
    more = {key: value for key, value in facts().items() if key in ("candidate", "parent", "gate_changed", "drift")}
    page = render_audit({**forgetting(evidence, evidence).to_json(), **more, "cards": []}, {})
    text = " ".join(" ".join(ElementTree.fromstring(page).itertext()).split())
    assert "Zero-shot AUC by domain" not in text
    assert "retrieval, R@10" in text
    assert "These data cannot decide auc mean, balanced_accuracy mean, brier mean." in text
    assert "zero-shot, auc mean no domain has samples of two classes nothing: it lies in the data none" in text


def test_a_comparison_that_could_not_be_made_is_told_with_the_way_out():
    given = facts(0)
    gap = {"family": "fidelity", "metric": "cosine", "part": "tutor <b>", "gates": True, "verdict": "INCONCLUSIVE"}
    gap |= {"reason": "tutor is not in use any more", "next": "Run `mmkd teachers add tutor`"}
    view = AuditView({**given, "verdict": "INCONCLUSIVE", "undefined": [gap]}, {})
    assert view.headline == "What release 0002 kept could not all be compared: cosine tutor <b>."
    page = render_audit({**given, "verdict": "INCONCLUSIVE", "undefined": [gap]}, {})
    text = " ".join(" ".join(ElementTree.fromstring(page).itertext()).split())
    assert "fidelity, cosine tutor <b> tutor is not in use any more Run `mmkd teachers add tutor` INCONCLUSIVE" in text
    assert "What keeps it from passing" in text
