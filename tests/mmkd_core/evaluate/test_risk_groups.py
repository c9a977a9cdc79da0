"""Kaplan-Meier curves and the log-rank test of the halves by risk, against scipy, and the figure of both."""

from __future__ import annotations

import re
from xml.etree import ElementTree

import numpy as np
import pytest
from scipy import stats

from mmkd_core.evaluate.outcomes import Outcomes
from mmkd_core.evaluate.risk_groups import above_median, risk_groups
from mmkd_core.evaluate.survival import PROTOCOL
from mmkd_core.report.survival_plot import survival_plot
from mmkd_core.report.svg import standalone


def outcomes(n: int = 200, seed: int = 0, knows: float = 1.0) -> Outcomes:
    rng = np.random.default_rng(seed)
    hidden = rng.normal(size=n)
    death, lost = rng.exponential(np.exp(-hidden)), rng.exponential(2.0, n)
    names = np.array([f"p{i}" for i in range(n)], object)
    columns = {
        "sample_id": names,
        "group_id": names,
        "time": np.round(np.minimum(death, lost) + 0.05, 2),
        "event": death <= lost,
        "risk": knows * hidden + 100.0 * (np.arange(n) % 5),  # each fold on a scale of its own
        "fold": np.arange(n) % 5,
    }
    return Outcomes(PROTOCOL, columns, {"folds": 5, "horizon": [2.0] * 5})


def test_the_halves_are_made_inside_the_folds() -> None:
    said = outcomes()
    high = above_median(said)
    for fold in range(5):
        assert high[said["fold"] == fold].sum() == 20


def test_curves_and_test_are_those_of_scipy() -> None:
    said = outcomes()
    groups, high = risk_groups(said), above_median(said)
    assert groups is not None
    halves = []
    for rows, curve in ((high, groups.high), (~high, groups.low)):
        time, event = said["time"][rows], said["event"][rows]
        halves.append(stats.CensoredData(uncensored=time[event], right=time[~event]))
        oracle = stats.ecdf(halves[-1]).sf
        np.testing.assert_allclose(curve.survival[1:], oracle.evaluate(curve.time[1:]), atol=1e-9)
        assert curve.survival[0] == 1.0
        assert (curve.lower <= curve.survival + 1e-12).all()
        assert (curve.survival <= curve.upper + 1e-12).all()
        assert curve.at_risk(0.5) == (time >= 0.5).sum()
    assert groups.p_value == pytest.approx(stats.logrank(*halves).pvalue, rel=1e-9)
    assert groups.p_value < 0.001


def test_a_model_that_knows_nothing_does_not_tell_the_halves_apart_and_a_collapsed_one_has_none() -> None:
    said = outcomes(seed=2)
    said.columns["risk"] = np.random.default_rng(5).normal(size=len(said))
    groups = risk_groups(said)
    assert groups is not None
    assert groups.p_value > 0.01
    said.columns["risk"] = np.zeros(len(said))
    assert risk_groups(said) is None


def test_the_figure_says_all_in_words_and_stays_small_with_many_patients() -> None:
    groups = risk_groups(outcomes(20_000))
    assert groups is not None
    drawn = standalone(survival_plot(groups, "student <0001> on clinic", "km"))
    assert len(drawn) < 60_000
    tree = ElementTree.fromstring(drawn)
    told = next(part for part in tree.iter() if part.tag.endswith("desc")).text
    assert told is not None
    assert "10,000 patients of low risk" in told
    assert "p < 0.001" in told
    words = {part.text for part in tree.iter() if part.tag.endswith("text")}
    assert {"low risk", "high risk", "at risk", "log-rank test: p < 0.001", "10,000"} <= words
    assert "prefers-color-scheme:dark" in drawn
    curves = re.findall(r'<path d="([^"]+)" class="smooth', drawn)
    assert len(curves) == 2
    for curve in curves:  # a curve goes right and down, never back
        points = np.array([[float(number) for number in point.split()] for point in curve[1:].split("L")])
        assert (np.diff(points[:, 0]) >= 0).all()
        assert (np.diff(points[:, 1]) >= 0).all()
