"""Claims beside measurements, and the sweep of the threshold."""

from pathlib import Path

import numpy as np
import pytest

from mmkd_core.audit.trust import THRESHOLDS, sweep, trust_table, verdict
from mmkd_core.contract import TrustClaim
from mmkd_core.data.manifest import Corpus
from mmkd_core.statistics import Interval, wilson_lower
from mmkd_core.trust import DomainTrust, TeacherTrust, TeacherView, TrustConfig, judge, measure


def found(n=100, accuracy=0.8, auc=None):
    lower = wilson_lower(round(accuracy * n), n) if n else None
    return DomainTrust(n, accuracy if n else None, lower, None, n > 0, False, 3, 50, "because", auc)


def claim(score, metric="zero-shot accuracy"):
    return TrustClaim(score=score, metric=metric, dataset="d", n=10, source="s")


@pytest.mark.parametrize(
    ("trust", "claimed", "finding"),
    [
        (found(), claim(0.85), "holds"),
        (found(), claim(0.95), "overclaimed"),
        (found(n=5), claim(0.95), "holds"),
        (found(n=0), claim(0.95), "unverified"),
        (found(), None, "no claim"),
        (found(), claim(0.9, "R@1"), "not comparable"),
        (found(), claim(0.9, "balanced accuracy"), "not comparable"),
        (found(), claim(0.95, "zero-shot AUC"), "not comparable"),
        (found(auc=Interval(0.9, 0.86, 0.94, 100, 50)), claim(0.95, "zero-shot AUC"), "overclaimed"),
        (found(auc=Interval(0.9, 0.86, 0.94, 100, 50)), claim(0.93, "AUROC"), "holds"),
    ],
)
def test_findings(trust, claimed, finding):
    teacher = TeacherTrust("tutor", np.zeros(2, dtype=bool), {"ct": trust}, {}, "")
    (row,) = trust_table([teacher], {"tutor": {"ct": claimed}} if claimed else {})
    assert (row.teacher, row.domain, row.finding, row.reason) == ("tutor", "ct", finding, "because")
    assert row.claimed == (claimed.score if claimed else None)
    assert (row.admitted, row.of, row.n) == (3, 50, trust.n)


def test_one_refuted_claim_fails_and_one_that_is_open_leaves_it_open():
    def rows(*scores):
        trusts = [TeacherTrust(f"t{i}", np.zeros(2, dtype=bool), {"ct": found(n=n)}, {}, "") for i, (n, _) in scores]
        return trust_table(trusts, {f"t{i}": {"ct": claim(score)} for i, (_, score) in scores})

    assert verdict(rows(*enumerate([(100, 0.8)]))) == "PASS"
    assert verdict(rows(*enumerate([(100, 0.8), (0, 0.8)]))) == "INCONCLUSIVE"
    assert verdict(rows(*enumerate([(0, 0.8), (100, 0.95)]))) == "FAIL"


def test_the_bounds_belong_to_the_metric_of_the_claim():
    interval = Interval(0.9, 0.86, 0.94, 100, 50)
    teacher = TeacherTrust("tutor", np.zeros(2, dtype=bool), {"ct": found(auc=interval)}, {}, "")
    (row,) = trust_table([teacher], {"tutor": {"ct": claim(0.9, "AUC")}})
    assert (row.measured, row.lower, row.upper) == (0.9, 0.86, 0.94)
    (row,) = trust_table([teacher], {"tutor": {"ct": claim(0.9)}})
    assert row.measured == 0.8
    assert (row.lower, row.upper) == pytest.approx((wilson_lower(80, 100), 1 - wilson_lower(20, 100)))


def evidence(seed):
    """A teacher that is right in ct, half right in mri, and has neither probe images nor a claim in oct."""
    rng = np.random.default_rng(seed)
    domains, n = ("ct", "mri", "oct"), 90
    rows = [
        {
            "image": f"{d}{i}",
            "image_id": f"{d}{i}",
            "caption": f"{d} c{i}",
            "domain": d,
            "label": "ab"[i % 2],
            "group_id": f"{d}{i}",
            "split": "train" if i % 3 or d == "oct" else "val",
        }
        for d in domains
        for i in range(n)
    ]
    prompts = {d: {"a": ("a",), "b": ("b",)} for d in domains}
    data = Corpus.build(Path("/nowhere"), rows, prompts)
    noise = np.repeat([0.25, 0.9, 0.6], n)[:, None] * rng.normal(size=(3 * n, 2))
    label = np.array([0 if text == "a" else 1 for text in data.label])
    image = np.eye(2)[label] + noise
    classes = {d: np.eye(2, dtype=np.float32) for d in domains}
    return measure(TeacherView("tutor", ("ct",), {"oct": 0.84}, 3.0, image, image, classes), data), data


@pytest.mark.parametrize("strict", [False, True])
@pytest.mark.parametrize("seed", range(3))
def test_the_sweep_admits_what_the_rule_admits_at_every_threshold(seed, strict):
    found, data = evidence(seed)
    swept = sweep(found, strict)
    assert THRESHOLDS[0] == 0.0
    assert THRESHOLDS[-1] == 1.0
    for place in range(1, len(THRESHOLDS), 7):
        trust = judge(found, data, TrustConfig(threshold=THRESHOLDS[place], strict=strict))
        assert {d: row.admitted[place] for d, row in swept.items()} == {
            d: row.admitted for d, row in trust.domains.items()
        }
        whole = {d for d, row in swept.items() if row.whole_up_to is not None and row.whole_up_to >= THRESHOLDS[place]}
        assert whole == {d for d, row in trust.domains.items() if row.trusted}


def test_a_higher_threshold_never_admits_more_and_none_admits_all():
    found, _ = evidence(0)
    for domain, row in sweep(found).items():
        assert list(row.admitted) == sorted(row.admitted, reverse=True)
        assert row.admitted[0] == row.of == (90 if domain == "oct" else 60)
        assert row.everyone == (row.of if domain == "ct" else 0)  # without a rule a teacher teaches what it declares
    assert sweep(found)["oct"].whole_up_to == 0.84
