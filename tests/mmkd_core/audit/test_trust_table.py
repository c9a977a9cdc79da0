"""Claims beside measurements, and the sweep of the threshold."""

from pathlib import Path

import numpy as np
import pytest

from mmkd_core.audit.trust import sweep, trust_table
from mmkd_core.contract import TrustClaim
from mmkd_core.data.manifest import Corpus
from mmkd_core.statistics import Interval, wilson_lower
from mmkd_core.trust import DomainTrust, TeacherTrust, TeacherView, measure


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


def test_the_bounds_belong_to_the_metric_of_the_claim():
    interval = Interval(0.9, 0.86, 0.94, 100, 50)
    teacher = TeacherTrust("tutor", np.zeros(2, dtype=bool), {"ct": found(auc=interval)}, {}, "")
    (row,) = trust_table([teacher], {"tutor": {"ct": claim(0.9, "AUC")}})
    assert (row.measured, row.lower, row.upper) == (0.9, 0.86, 0.94)
    (row,) = trust_table([teacher], {"tutor": {"ct": claim(0.9)}})
    assert row.measured == 0.8
    assert (row.lower, row.upper) == pytest.approx((wilson_lower(80, 100), 1 - wilson_lower(20, 100)))


def test_a_higher_threshold_never_admits_more():
    rng = np.random.default_rng(0)
    rows = [
        {
            "image": f"{i}",
            "image_id": f"{i}",
            "caption": f"c{i}",
            "domain": "ct",
            "label": "ab"[i % 2],
            "group_id": f"{i}",
            "split": "train" if i % 3 else "val",
        }
        for i in range(300)
    ]
    data = Corpus.build(Path("/nowhere"), rows, {"ct": {"a": ("a",), "b": ("b",)}})
    image = np.eye(2)[np.arange(300) % 2] + 0.6 * rng.normal(size=(300, 2))
    view = TeacherView("tutor", ("ct",), {}, 3.0, image, image, {"ct": np.eye(2, dtype=np.float32)})
    swept = sweep(measure(view, data), data)
    admitted = [trust.mask.sum() for trust in swept.values()]
    assert admitted == sorted(admitted, reverse=True)
    assert admitted[0] == 200 > admitted[-1]
    assert swept[0.5].domains["ct"].trusted
    assert swept[0.95].config["threshold"] == 0.95
