"""The audit of forgetting: its error rates by simulation, its verdicts, and what it refuses."""

import json
from dataclasses import replace

import numpy as np
import pytest
from scipy.special import ndtr, ndtri

from mmkd_core.audit.forgetting import AuditConfig, AuditError, ForgettingAudit, Verdict, forgetting
from mmkd_core.evaluate.predictions import DomainPredictions, Predictions

PROTOCOL = "mmkd/zero-shot@1"


def column(values):
    result = np.empty(len(values), dtype=object)
    result[:] = values
    return result


def build(domain, truth, score, groups):
    names = column([f"{domain}-{i}" for i in range(len(truth))])
    scores = np.stack([-score, score], axis=1)
    label = column([("no", "yes")[t] for t in truth])
    return DomainPredictions.build(names, column(list(groups)), label, scores, ("no", "yes"))


def pair(rng, patients=60, images=3, auc=(0.85, 0.85), domain="ct", noise=0.6):
    """Parent and candidate of known AUC on one domain: binormal scores that share most of their noise by patient."""
    truth = np.repeat(np.arange(patients) % 2, images)
    groups = np.repeat([f"{domain} patient {i}" for i in range(patients)], images)
    shared = np.repeat(rng.normal(size=patients), images)
    own = np.repeat(rng.normal(size=(2, patients)), images, axis=1)
    scores = [
        2**0.5 * ndtri(a) * truth + np.sqrt(1 - noise**2) * shared + noise * part
        for a, part in zip(auc, own, strict=True)
    ]
    return tuple(Predictions({domain: build(domain, truth, s, groups)}, PROTOCOL) for s in scores)


def test_the_simulated_models_have_the_auc_that_they_claim():
    parent, candidate = pair(np.random.default_rng(0), patients=20000, images=1, auc=(0.85, 0.75))
    assert parent.mean_auc() == pytest.approx(0.85, abs=0.01)
    assert candidate.mean_auc() == pytest.approx(0.75, abs=0.01)
    assert ndtr(ndtri(0.85)) == pytest.approx(0.85)


def test_error_rate_at_the_margin():
    """A true loss equal to the margin passes at the nominal 2.5 %; by point estimates half; by images far too often."""
    rng, trials = np.random.default_rng(11), 200
    passed = {"audit": 0, "point": 0, "image": 0}
    config = AuditConfig(margin=0.05, resamples=200)
    for trial in range(trials):
        parent, candidate = pair(rng, auc=(0.85, 0.80))
        found = forgetting(candidate, parent, replace(config, seed=trial))
        passed["audit"] += found.verdict is Verdict.PASS
        passed["point"] += found.mean.delta > -config.margin
        by_image = [
            Predictions({"ct": replace(p["ct"], group_id=p["ct"].sample_id)}, PROTOCOL) for p in (candidate, parent)
        ]
        passed["image"] += forgetting(*by_image, replace(config, seed=trial)).verdict is Verdict.PASS
    assert passed["audit"] <= 0.055 * trials
    assert 0.40 * trials < passed["point"] < 0.60 * trials
    assert passed["image"] > 0.08 * trials


def test_a_model_against_itself_passes():
    rng = np.random.default_rng(0)
    parts = {name: pair(rng, domain=name)[0][name] for name in ("ct", "mri")}
    same = Predictions(parts, PROTOCOL)
    found = forgetting(same, same)
    assert found.verdict is Verdict.PASS
    assert found.exit_code == 0
    for change in (*found.domains.values(), found.mean):
        assert (change.delta, change.lower, change.upper, change.needed) == (0, 0, 0, 0)
        assert (change.positive_flips, change.negative_flips) == (0, 0)


def test_two_equally_good_models_pass_with_enough_patients():
    parent, candidate = pair(np.random.default_rng(5), patients=1500, noise=0.3)
    found = forgetting(candidate, parent, AuditConfig(resamples=500))
    assert found.verdict is Verdict.PASS
    assert found.domains["ct"].lower < 0 < found.domains["ct"].upper


def test_a_large_loss_fails_and_a_small_sample_is_inconclusive():
    rng = np.random.default_rng(1)
    parent, candidate = pair(rng, patients=400, auc=(0.95, 0.70))
    failed = forgetting(candidate, parent)
    assert (failed.verdict, failed.exit_code) == (Verdict.FAIL, 1)
    change = failed.domains["ct"]
    assert change.upper < -0.02
    assert change.delta == pytest.approx(change.after - change.before)
    assert change.negative_flips > change.positive_flips
    assert (change.n, change.groups, change.needed) == (1200, 400, 0)

    parent, candidate = pair(rng, patients=16)
    few = forgetting(candidate, parent)
    assert (few.verdict, few.exit_code) == (Verdict.INCONCLUSIVE, 2)
    assert few.domains["ct"].needed > 0


def test_one_domain_that_fails_is_enough_and_fail_outranks_inconclusive():
    rng = np.random.default_rng(2)
    good = pair(rng, patients=400, domain="good")[0]["good"]
    bad = pair(rng, patients=400, auc=(0.95, 0.70), domain="bad")
    open_ = pair(rng, patients=16, domain="open")
    parent = Predictions({"good": good, "bad": bad[0]["bad"], "open": open_[0]["open"]}, PROTOCOL)
    candidate = Predictions({"good": good, "bad": bad[1]["bad"], "open": open_[1]["open"]}, PROTOCOL)
    found = forgetting(candidate, parent)
    verdicts = {domain: str(change.verdict) for domain, change in found.domains.items()}
    assert verdicts == {"good": "PASS", "bad": "FAIL", "open": "INCONCLUSIVE"}
    assert found.verdict is Verdict.FAIL
    assert found.mean.delta == pytest.approx(np.mean([change.delta for change in found.domains.values()]))
    assert found.mean.groups == 816
    assert found.mean.status == "over 3 domains"
    without = [Predictions({d: p[d] for d in ("good", "open")}, PROTOCOL) for p in (candidate, parent)]
    assert forgetting(*without).verdict is Verdict.INCONCLUSIVE


def test_flips_literal():
    truth = np.array([0, 0, 1, 1])
    groups = ["a", "b", "c", "d"]
    parent = Predictions({"ct": build("ct", truth, np.array([-1.0, 1, 1, 1]), groups)}, PROTOCOL)
    candidate = Predictions({"ct": build("ct", truth, np.array([-1.0, -1, -1, -1]), groups)}, PROTOCOL)
    found = forgetting(candidate, parent).domains["ct"]
    assert (found.positive_flips, found.negative_flips) == (1, 2)


def test_the_order_of_samples_does_not_matter():
    parent, candidate = pair(np.random.default_rng(3))
    shuffle = np.random.default_rng(4).permutation(len(candidate))
    shuffled = Predictions({"ct": candidate["ct"].take(shuffle)}, PROTOCOL)
    assert forgetting(shuffled, parent).to_json() == forgetting(candidate, parent).to_json()


def test_json_round_trip():
    parent, candidate = pair(np.random.default_rng(6))
    lone = build("lone", np.array([1, 1]), np.array([0.1, 0.2]), ["a", "b"])
    found = forgetting(*(Predictions({**p.domains, "lone": lone}, PROTOCOL) for p in (candidate, parent)))
    assert found.undefined == {"lone": "undefined: 1 of 2 classes have samples"}
    assert list(found.domains) == ["ct"]
    text = json.dumps(found.to_json(), allow_nan=False)
    assert json.loads(text)["exit_code"] == found.exit_code
    assert ForgettingAudit.from_json(json.loads(text)) == found


def test_a_new_domain_cannot_have_been_forgotten():
    rng = np.random.default_rng(7)
    parent, candidate = pair(rng)
    more = Predictions({**candidate.domains, "mri": pair(rng, domain="mri")[0]["mri"]}, PROTOCOL)
    assert forgetting(more, parent).to_json() == forgetting(candidate, parent).to_json()


class TestRefusals:
    def test_other_samples(self):
        parent, candidate = pair(np.random.default_rng(0))
        fewer = Predictions({"ct": candidate["ct"].take(np.arange(2, len(candidate)))}, PROTOCOL)
        with pytest.raises(
            AuditError, match=r"the candidate was not evaluated on sample ct-0 of ct, the parent was \(2"
        ):
            forgetting(fewer, parent)
        with pytest.raises(AuditError, match=r"the parent was not evaluated on sample ct-0 of ct, the candidate was"):
            forgetting(parent, fewer)
        with pytest.raises(
            AuditError, match=r"the candidate was not evaluated on ct\. Evaluate both releases on the same"
        ):
            forgetting(Predictions({}, PROTOCOL), parent)
        twice = Predictions({"ct": candidate["ct"].take(np.r_[0, np.arange(len(candidate))])}, PROTOCOL)
        with pytest.raises(AuditError, match="181 rows of ct for the candidate and 180 for the parent"):
            forgetting(twice, parent)

    def test_other_labels_groups_classes_protocols(self):
        parent, candidate = pair(np.random.default_rng(0))
        part = candidate["ct"]
        moved = part.group_id.copy()
        moved[0] = "somebody else"
        with pytest.raises(AuditError, match="give different values of group_id for sample ct-0"):
            forgetting(Predictions({"ct": replace(part, group_id=moved)}, PROTOCOL), parent)
        with pytest.raises(
            AuditError, match="the classes of ct are yes, no for the candidate and no, yes for the parent"
        ):
            forgetting(Predictions({"ct": replace(part, classes=("yes", "no"))}, PROTOCOL), parent)
        with pytest.raises(AuditError, match="by mmkd/zero-shot@2 and the parent by mmkd/zero-shot@1"):
            forgetting(Predictions({"ct": part}, "mmkd/zero-shot@2"), parent)

    def test_nothing_to_compare(self):
        lone = Predictions({"ct": build("ct", np.array([1, 1]), np.array([0.1, 0.2]), ["a", "b"])}, PROTOCOL)
        with pytest.raises(AuditError, match="no domain has samples of two classes"):
            forgetting(lone, lone)

    def test_config(self):
        with pytest.raises(AuditError, match=r"a margin of 2 is not a loss of AUC\. Use a fraction such as 0.02"):
            AuditConfig(margin=2)
        with pytest.raises(AuditError, match="no interval comes from confidence 95 and 2000 resamples"):
            AuditConfig(confidence=95)
