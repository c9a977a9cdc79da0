"""The chain's matrix: every name for forgetting by hand, and a verdict over steps that are each too small to fail."""

import json
from xml.etree import ElementTree

import numpy as np
import pytest

from mmkd_core.audit.chain import Learnt, chain
from mmkd_core.audit.chain_figures import CHAIN_FIGURES
from mmkd_core.audit.comparison import Verdict
from mmkd_core.audit.evidence import Evidence, Key, SampleValues
from mmkd_core.audit.gate import Gate, Rule
from mmkd_core.audit.pairing import AuditError
from mmkd_core.evaluate.predictions import DomainPredictions, Predictions
from mmkd_core.report.chain_page import render_chain


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


def evidence(row, outcomes=None):
    return Evidence(Predictions({domain: with_auc(domain, auc) for domain, auc in row.items()}, "p"), outcomes or {})


def releases(**rows):
    """``r1={"ct": 0.9}`` as evidence by release."""
    return {name: evidence(row) for name, row in rows.items()}


def outcomes(values, domain="ct"):
    names = column([f"{domain}-{i}" for i in range(len(values))])
    return SampleValues(names, names, column([domain] * len(values)), np.asarray(values), np.ones(len(values)))


def auc(found):
    return found.table("zero-shot", "auc")


BRIER = ("calibration", "brier")
LEARNT = Learnt({"ct": "0001", "mri": "0002"}, {"b": "0002"})
MATRIX = {"0001": {"ct": 0.80, "mri": 0.60}, "0002": {"ct": 0.85, "mri": 0.90}, "0003": {"ct": 0.75, "mri": 0.95}}


def test_every_figure_by_hand():
    found = chain(releases(**MATRIX), LEARNT, evidence({"ct": 0.5, "mri": 0.55}))
    assert auc(found).matrix == {name: pytest.approx(row) for name, row in MATRIX.items()}
    figures = {name: entry.estimate for name, entry in auc(found).figures.items()}
    assert figures == pytest.approx(
        {
            "acc": (0.75 + 0.95) / 2,
            "bwt": ((0.75 - 0.80) + (0.95 - 0.90)) / 2,
            "fwt": 0.60 - 0.55,  # what release 0001 knew of mri before its teacher came
            "forgetting_max_last": ((0.85 - 0.75) + (0.90 - 0.95)) / 2,
            "forgetting_first_last": ((0.80 - 0.75) + (0.90 - 0.95)) / 2,
        }
    )
    assert auc(found).parts["ct"] == pytest.approx({"max_last": 0.10, "first_last": 0.05})
    for entry in auc(found).figures.values():
        assert entry.lower < entry.estimate < entry.upper
    text = json.loads(json.dumps(found.to_json(), allow_nan=False))
    assert text["tables"][0]["figures"]["bwt"]["estimate"] == pytest.approx(0)
    assert text["gate"]["hash"] == Gate().hash


def test_what_the_last_release_learns_can_not_have_been_forgotten():
    found = chain(releases(**MATRIX), Learnt({"ct": "0001", "mri": "0003"}))
    assert list(auc(found).parts) == ["ct"]
    assert auc(found).figures["fwt"].estimate == pytest.approx(0.90 - 0.5)
    alone = chain(releases(**{k: {"ct": v["ct"]} for k, v in MATRIX.items()}))
    assert auc(alone).figures["fwt"] is None


def test_teachers_may_come_in_any_order():
    """The same three models with the domains learnt the other way round: other forgetting, of the same matrix."""
    found = chain(releases(**MATRIX), Learnt({"ct": "0002", "mri": "0001"}))
    assert auc(found).matrix == auc(chain(releases(**MATRIX), LEARNT)).matrix
    assert auc(found).parts == {
        "ct": pytest.approx({"max_last": 0.10, "first_last": 0.10}),
        "mri": pytest.approx({"max_last": -0.05, "first_last": -0.35}),
    }
    assert auc(found).figures["fwt"].estimate == pytest.approx(0.80 - 0.5)
    since = {row.part: row.status for row in found.comparisons if row.metric == "auc"}
    assert since == {"ct": "since release 0002", "mri": "since release 0001"}


COSINE, AGREES, FOUND = Key("fidelity", "cosine", "b"), Key("fidelity", "agreement", "b"), Key("retrieval", "R@10", "i")


def test_fidelity_and_retrieval_by_hand():
    """Teacher b came with release 0002: before it there was no head of it, but the student's own choices."""
    line = releases(**MATRIX)
    said = {
        "0001": {AGREES: [True] * 5 + [False] * 5, FOUND: [True] * 9 + [False]},
        "0002": {AGREES: [True] * 9 + [False], FOUND: [True] * 8 + [False] * 2, COSINE: [0.9] * 10},
        "0003": {AGREES: [True] * 8 + [False] * 2, FOUND: [True] * 10, COSINE: [0.8] * 10},
    }
    line = {n: Evidence(e.predictions, {k: outcomes(v) for k, v in said[n].items()}) for n, e in line.items()}
    before = evidence({"ct": 0.5, "mri": 0.5}, {AGREES: outcomes([True] * 3 + [False] * 7)})
    found = chain(line, LEARNT, before)
    cosine, agrees, ranks = (found.table(key.family, key.metric) for key in (COSINE, AGREES, FOUND))
    assert [cosine.matrix[name]["b"] for name in line] == [None, pytest.approx(0.9), pytest.approx(0.8)]
    assert cosine.figures["bwt"].estimate == pytest.approx(-0.1)
    assert cosine.figures["forgetting_max_last"].estimate == pytest.approx(0.1)
    assert cosine.figures["fwt"] is None
    assert agrees.learnt == {"b": "0002"}
    assert agrees.figures["fwt"].estimate == pytest.approx(0.5 - 0.3)
    assert agrees.parts["b"] == pytest.approx({"max_last": 0.1, "first_last": 0.1})
    assert ranks.learnt == {"i": "0001"}
    assert ranks.figures["bwt"].estimate == pytest.approx(0.1)
    assert ranks.figures["forgetting_max_last"].estimate == pytest.approx(-0.1)
    page = render_chain(found.to_json())
    ElementTree.fromstring(page.strip().removeprefix("<!DOCTYPE html>"))
    assert "fidelity, cosine" in page


def test_what_the_newest_release_cannot_be_measured_by_is_named():
    line = releases(**MATRIX)
    line["0002"] = Evidence(line["0002"].predictions, {COSINE: outcomes([0.9] * 10)})
    found = chain(line, LEARNT)
    (gap,) = found.undefined
    assert (gap.key, gap.verdict) == (COSINE, Verdict.INCONCLUSIVE)
    assert gap.reason == "the candidate was not measured by it, its parent was"
    assert "fidelity b not compared" in render_chain(found.to_json())


def test_calibration_and_flips_turn_their_signs():
    """An AUC of 0.8 is here 80 of 100 positives above all negatives; each of the others is a wrong first choice."""
    found = chain(releases(**MATRIX), LEARNT, evidence({"ct": 0.5, "mri": 0.5}), Gate(resamples=200))
    brier, flips = found.table("calibration", "brier"), found.table("flips", "negative")
    assert brier.less_is_better
    assert brier.matrix["0001"]["ct"] == pytest.approx(np.mean(scores_of("ct", 0.80)))
    lost = [np.mean(scores_of("ct", auc)) for auc in (0.80, 0.85, 0.75)]
    assert brier.parts["ct"] == pytest.approx({"max_last": lost[2] - lost[1], "first_last": lost[2] - lost[0]})
    assert brier.parts["ct"]["first_last"] > 0
    assert brier.figures["bwt"].estimate == pytest.approx(-brier.figures["forgetting_first_last"].estimate)
    # with_auc makes its positives wrong from the last one on: of 400 samples 200 are positives
    assert [flips.matrix[name]["ct"] for name in MATRIX] == [0, 0, pytest.approx(10 / 400)]
    assert [flips.matrix[name]["mri"] for name in MATRIX] == [None, 0, 0]
    assert flips.figures["bwt"].estimate == pytest.approx(-(10 / 400 + 0) / 2)
    assert flips.figures["fwt"] is None


def scores_of(domain, auc):
    """(n,) Brier scores, written out."""
    part = with_auc(domain, auc)
    return [
        sum((p - (c == t)) ** 2 for c, p in enumerate(row))
        for row, t in zip(part.posteriors(), part.truth, strict=True)
    ]


def test_a_family_that_decides_fails_the_chain():
    """Nothing is lost in zero-shot; the ranks of 400 captions fall by twenty points in two steps."""
    line = releases(**{name: {"ct": 0.9} for name in MATRIX})
    hits = {"0001": 360, "0002": 320, "0003": 280}
    line = {
        name: Evidence(found.predictions, {FOUND: outcomes([True] * hits[name] + [False] * (400 - hits[name]))})
        for name, found in line.items()
    }
    found = chain(line, gate=Gate(resamples=200))
    assert found.verdict is Verdict.FAIL
    assert [row.key for row in found.comparisons if row.verdict is Verdict.FAIL] == [FOUND]
    lenient = {"retrieval": {"R@10": Rule(gates=False, margin=0.05)}}
    assert chain(line, gate=Gate(resamples=200, families=lenient)).verdict is Verdict.PASS


def test_small_steps_add_up():
    """Each step loses 1.5 points, less than the margin of 2; four of them lose 6."""
    steps = {f"000{i}": {"ct": 0.94 - 0.015 * i} for i in range(5)}
    found = chain(releases(**steps), Learnt({"ct": "0000"}), gate=Gate(resamples=500))
    assert found.verdict is Verdict.FAIL
    (row,) = (row for row in found.comparisons if row.metric == "auc")
    assert row.delta == pytest.approx(-0.06)
    assert row.status == "since release 0000"


def test_the_page_has_every_figure_and_needs_no_network():
    found = chain(releases(**MATRIX), LEARNT)
    page = render_chain(found.to_json())
    root = ElementTree.fromstring(page.strip().removeprefix("<!DOCTYPE html>"))
    assert not [node for node in root.iter() if node.get("src")]
    assert "<script" not in page
    for name in (known.title for known in CHAIN_FIGURES):
        assert name in page
    assert found.verdict is Verdict.INCONCLUSIVE
    assert "The test data cannot show that 3 releases forgot nothing: zero-shot ct −5.0" in page
    assert "since release 0001" in page


def test_refusals():
    with pytest.raises(AuditError, match="at least two releases"):
        chain(releases(r1={"ct": 0.8}))


def test_a_domain_that_the_newest_release_was_not_measured_on_leaves_the_verdict_open():
    found = chain(releases(r1={"ct": 0.8, "mri": 0.8}, r2={"ct": 0.8}))
    assert found.verdict is Verdict.INCONCLUSIVE
    lost = {row.key for row in found.undefined if row.verdict}
    assert lost == {Key(f, m, "mri") for f, m in (("zero-shot", "auc"), ("zero-shot", "balanced_accuracy"), BRIER)}
    assert auc(found).matrix == {"r1": {"ct": pytest.approx(0.8)}, "r2": {"ct": pytest.approx(0.8)}}
