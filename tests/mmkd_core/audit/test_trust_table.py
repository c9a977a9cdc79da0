"""Claims beside measurements, and the sweep of the threshold."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from mmkd_core.audit.gap import Gap, gap, judged
from mmkd_core.audit.trust import THRESHOLDS, sweep, trust_table, verdict
from mmkd_core.contract import TrustClaim
from mmkd_core.data.manifest import Corpus
from mmkd_core.statistics import Interval, wilson_lower
from mmkd_core.trust import DomainTrust, TeacherTrust, TeacherView, TrustConfig, judge, measure
from mmkd_core.trust.measured import Probe


def found(n=100, accuracy=0.8, auc=None):
    lower = wilson_lower(round(accuracy * n), n) if n else None
    return DomainTrust(n, accuracy if n else None, lower, None, n >= 20, False, 3, 50, "because", auc)


def claim(score, metric="zero-shot accuracy"):
    return TrustClaim(score=score, metric=metric, dataset="d", n=10, source="s")


@pytest.mark.parametrize(
    ("trust", "claimed", "finding"),
    [
        (found(), claim(0.85), "holds"),
        (found(), claim(0.95), "overclaimed"),
        (found(n=5), claim(0.95), "unverified"),
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


def test_where_nothing_is_claimed_there_is_nothing_to_compare_with():
    silent = TeacherTrust("t", np.zeros(2, dtype=bool), {"ct": found(n=100)}, {}, "")
    assert verdict(trust_table([silent], {})) is None
    assert verdict([]) is None
    both = trust_table([silent, replace(silent, teacher="u")], {"u": {"ct": claim(0.8)}})
    assert verdict(both) == "PASS"


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
    return TeacherView("tutor", ("ct",), {"oct": 0.84}, 3.0, image, image, classes), data


@pytest.mark.parametrize("strict", [False, True])
@pytest.mark.parametrize("seed", range(3))
def test_the_sweep_admits_what_the_rule_admits_at_every_threshold(seed, strict):
    view, data = evidence(seed)
    config = TrustConfig(strict=strict, probe="val")
    found = measure(view, data, config)
    swept = sweep(found, config)
    assert THRESHOLDS[0] == 0.0
    assert THRESHOLDS[-1] == 1.0
    for place in range(1, len(THRESHOLDS), 7):
        trust = judge(found, data, replace(config, threshold=THRESHOLDS[place]))
        assert {d: row.admitted[place] for d, row in swept.items()} == {
            d: row.admitted for d, row in trust.domains.items()
        }


def test_the_sweep_knows_both_ends():
    view, data = evidence(0)
    swept = sweep(measure(view, data, TrustConfig(probe="val")), TrustConfig(probe="val"))
    assert (swept["ct"].admitted[0], swept["ct"].of, swept["ct"].everyone) == (60, 60, 60)
    assert (swept["oct"].of, swept["oct"].everyone) == (90, 0)  # without a rule a teacher teaches what it declares
    assert swept["mri"].admitted[-1] == 0


def split_of(accuracy, patients, images, rng, name, classes=3):
    """A probe of which a share is right, patient by patient."""
    n = patients * images
    truth = np.arange(n) % classes
    right = rng.random(n) < accuracy
    logits = 4.0 * np.eye(classes)[np.where(right, truth, (truth + 1) % classes)] + rng.normal(size=(n, classes))
    group = np.array([f"{name}-{i % patients}" for i in range(n)], dtype=object)
    return Probe(name, np.arange(n), logits, truth, group, tuple("abc"[:classes]))


class TestGap:
    """Does what was measured on the probe hold on the test split?"""

    def test_by_heart_is_found_out(self):
        rng = np.random.default_rng(0)
        found = gap([split_of(1.0, 30, 1, rng, "val")], [split_of(0.4, 60, 1, rng, "test")])
        assert (found.probe, found.n, found.patients) == (1.0, 60, 60)
        assert found.test == pytest.approx(0.4, abs=0.15)
        assert found.p < 1e-3
        assert judged({("tutor", "ct"): found})["tutor", "ct"].unexplained

    def test_chance_explains_what_it_explains(self):
        """Of 40 pairs of splits that are alike, all looked at together, none is called known by heart."""
        rng = np.random.default_rng(1)
        alike = [gap([split_of(0.7, 15, 3, rng, "val")], [split_of(0.7, 30, 3, rng, "test")]) for _ in range(40)]
        pairs = {("t", str(i)): found for i, found in enumerate(alike)}
        assert not any(found.unexplained for found in judged(pairs).values())
        assert 0.2 < np.mean([found.p < 0.5 for found in pairs.values()]) < 0.8

    def test_thirty_copies_of_five_patients_are_five(self):
        """A difference that five patients explain is none, however many images they have."""
        truth, rng = np.arange(150) % 2, np.random.default_rng(0)
        group = np.repeat([f"v{i}" for i in range(5)], 30).astype(object)
        good = np.repeat([True, True, True, True, False], 30)

        def part(name, right):
            logits = 4.0 * np.eye(2)[np.where(right, truth, 1 - truth)] + 0.1 * rng.normal(size=(150, 2))
            patient = np.array([f"{name} {g}" for g in group], dtype=object)
            return Probe(name, np.arange(150), logits, truth, patient, ("a", "b"))

        found = gap([part("val", good)], [part("test", ~good)])
        assert found.probe - found.test == pytest.approx(0.6)
        assert not judged({("t", "ct"): found})["t", "ct"].unexplained
        assert found.p > 0.01

    def test_a_better_test_split_is_no_finding(self):
        rng = np.random.default_rng(0)
        found = gap([split_of(0.4, 30, 1, rng, "val")], [split_of(1.0, 60, 1, rng, "test")])
        assert not judged({("t", "ct"): found})["t", "ct"].unexplained

    def test_more_of_a_difficult_class_is_not_held_against_a_teacher(self):
        """Right about every a and no b: the same on both splits, which have them in other shares."""

        def part(name, truth):
            logits = np.tile([4.0, 0.0], (len(truth), 1)) + 0.1 * np.random.default_rng(0).normal(size=(len(truth), 2))
            group = np.array([f"{name}{i}" for i in range(len(truth))], dtype=object)
            return Probe(name, np.arange(len(truth)), logits, truth, group, ("a", "b"))

        found = gap([part("val", np.array([0] * 50 + [1] * 10))], [part("test", np.array([0] * 10 + [1] * 50))])
        assert found.probe - found.test == pytest.approx(2 / 3)
        assert found.p > 0.05

    def test_nothing_to_compare(self):
        rng = np.random.default_rng(0)
        empty = split_of(1.0, 0, 0, rng, "test")
        assert gap([split_of(1.0, 30, 1, rng, "val")], [empty]) is None

    def test_the_audit_fails(self):
        teacher = TeacherTrust("tutor", np.zeros(2, dtype=bool), {"ct": found()}, {}, "")
        bad = Gap(0.99, 0.5, 0.99, 0.6, 50, 50, 1e-5, unexplained=True)
        (row,) = trust_table([teacher], {"tutor": {"ct": claim(0.8)}}, {("tutor", "ct"): bad})
        assert row.finding == "knows the probe"
        assert verdict([row]) == "FAIL"
