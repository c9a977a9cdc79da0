"""The chain's matrix: every name for forgetting by hand, and a verdict over steps that are each too small to fail."""

import json
from xml.etree import ElementTree

import numpy as np
import pytest

from mmkd_core.audit.chain import chain
from mmkd_core.audit.comparison import Verdict
from mmkd_core.audit.gate import Gate
from mmkd_core.audit.pairing import AuditError
from mmkd_core.evaluate.predictions import DomainPredictions, Predictions
from mmkd_core.report.chain_page import NAMES, render_chain


def column(values):
    result = np.empty(len(values), dtype=object)
    result[:] = values
    return result


def with_auc(domain, auc, n=400):
    """Predictions whose AUC is exactly ``auc``: of n/2 positives a share lies above all negatives, the rest below."""
    half = n // 2
    truth = np.repeat([0, 1], half)
    won = round(auc * half)
    score = np.concatenate([np.zeros(half), np.where(np.arange(half) < won, 1.0, -1.0)])
    names = column([f"{domain}-{i}" for i in range(n)])
    label = column([("no", "yes")[t] for t in truth])
    return DomainPredictions.build(names, names, label, np.stack([-score, score], axis=1), ("no", "yes"))


def releases(**rows):
    """``r1={"ct": 0.9}`` as predictions by release."""
    return {
        name: Predictions({domain: with_auc(domain, auc) for domain, auc in row.items()}, "p")
        for name, row in rows.items()
    }


MATRIX = {"0001": {"ct": 0.80, "mri": 0.60}, "0002": {"ct": 0.85, "mri": 0.90}, "0003": {"ct": 0.75, "mri": 0.95}}


def test_every_figure_by_hand():
    found = chain(releases(**MATRIX), {"ct": "0001", "mri": "0002"}, {"mri": 0.55})
    assert found.matrix == {name: pytest.approx(row) for name, row in MATRIX.items()}
    figures = {name: entry.estimate for name, entry in found.figures.items()}
    assert figures == pytest.approx(
        {
            "acc": (0.75 + 0.95) / 2,
            "bwt": ((0.75 - 0.80) + (0.95 - 0.90)) / 2,
            "fwt": 0.60 - 0.55,  # what release 0001 knew of mri before its teacher came
            "forgetting_max_last": ((0.85 - 0.75) + (0.90 - 0.95)) / 2,
            "forgetting_first_last": ((0.80 - 0.75) + (0.90 - 0.95)) / 2,
        }
    )
    assert found.domains["ct"] == pytest.approx({"max_last": 0.10, "first_last": 0.05})
    for entry in found.figures.values():
        assert entry.lower < entry.estimate < entry.upper
    text = json.loads(json.dumps(found.to_json(), allow_nan=False))
    assert text["figures"]["bwt"]["estimate"] == pytest.approx(0)
    assert text["gate"]["hash"] == Gate().hash


def test_what_the_last_release_learns_can_not_have_been_forgotten():
    found = chain(releases(**MATRIX), {"ct": "0001", "mri": "0003"}, {})
    assert list(found.domains) == ["ct"]
    assert found.figures["fwt"].estimate == pytest.approx(0.90 - 0.5)
    alone = chain(releases(**{k: {"ct": v["ct"]} for k, v in MATRIX.items()}), {}, {})
    assert alone.figures["fwt"] is None


def test_small_steps_add_up():
    """Each step loses 1.5 points, less than the margin of 2; four of them lose 6."""
    steps = {f"000{i}": {"ct": 0.94 - 0.015 * i} for i in range(5)}
    found = chain(releases(**steps), {"ct": "0000"}, {}, Gate(resamples=500))
    assert found.verdict is Verdict.FAIL
    (row,) = found.comparisons
    assert row.delta == pytest.approx(-0.06)
    assert row.status == "since release 0000, which learnt it"


def test_the_page_has_every_figure_and_needs_no_network():
    found = chain(releases(**MATRIX), {"ct": "0001", "mri": "0002"}, {})
    page = render_chain(found.to_json())
    root = ElementTree.fromstring(page.strip().removeprefix("<!DOCTYPE html>"))
    assert not [node for node in root.iter() if node.get("src")]
    assert "<script" not in page
    for name, _ in NAMES.values():
        assert name in page
    assert "Over 3 releases too much was forgotten: ct" in page or found.verdict is not Verdict.FAIL
    assert "since release 0001, which learnt it" in page


def test_refusals():
    with pytest.raises(AuditError, match="at least two releases"):
        chain(releases(r1={"ct": 0.8}), {}, {})
    with pytest.raises(AuditError, match="was not evaluated on mri"):
        chain(releases(r1={"ct": 0.8, "mri": 0.8}, r2={"ct": 0.8}), {}, {})
