"""Whose replay weighs more when a bound is broken, and what is said and done about it along the way."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

from mmkd_core.distill.budget import Budget
from mmkd_core.distill.config import BudgetConfig
from mmkd_core.distill.course import Course, urgent

STRATA = [("a", "ct"), ("b", "xray")]
CONFIG = BudgetConfig(rise=0.1, slack=1e-9, rate=1.0, most=3.0, patience=0.05, every=5)


def test_only_what_is_watched_weighs_more_and_only_where_its_bound_is_broken(samples, bank, source):
    budget = Budget(STRATA, torch.tensor([1.0, 1.0]), torch.tensor([2.0, 2.0]), CONFIG)
    given = [source("a", range(12)), source("new", range(12)), source("b", range(12), dim=4)]
    a, new, b = urgent(given, budget, samples, bank)
    assert new is given[1], "the newcomer is no replay"
    index = np.arange(6)  # ct and xray in turn
    assert a.urgency(index).tolist() == b.urgency(index).tolist() == [1.0] * 6
    budget.update([0, 1], torch.tensor([1.1 * 1.5, 1.1 * 3.0]), 5)
    assert a.urgency(index).tolist() == pytest.approx([1.5, 1, 1.5, 1, 1.5, 1])
    assert b.urgency(index).tolist() == pytest.approx([1, 3, 1, 3, 1, 3])


def test_a_teacher_of_which_nothing_is_watched_is_left_as_it_is(samples, bank, source):
    budget = Budget([("a", "ct")], torch.tensor([1.0]), torch.tensor([2.0]), CONFIG)
    given = [source("a", range(12)), source("b", range(12))]
    _, b = urgent(given, budget, samples, bank)
    assert b is given[1]


class Levels:
    """A watch that reads its losses off a list, one row of strata a check."""

    strata = STRATA
    ignorant = torch.tensor([2.0, 2.0])

    def __init__(self, *rows):
        self.rows = list(rows)

    def turn(self, number):
        return [0, 1]

    def losses(self, places):
        return torch.tensor(self.rows.pop(0))

    def everywhere(self):
        return self.losses([0, 1])


def course(*levels):
    student = SimpleNamespace(model=SimpleNamespace(logit_scale=nn.Parameter(torch.tensor(1.0))))
    return Course(student, nn.Linear(1, 1), "none", 100, Levels([1.0, 1.0], *levels), CONFIG)


def test_a_broken_bound_is_said_once_and_what_stays_lost_ends_the_run():
    watched = course([1.0, 1.5], [1.0, 1.0], [1.5, 2.5], [1.0, 2.5])
    remark = watched(4)
    assert (remark.warnings, remark.note, remark.stop) == ((), "", "")
    remark = watched(5)
    (line,) = remark.warnings
    assert line.startswith("b/xray is beyond its bound, its loss is 1.500 of at most 1.100; ")
    assert remark.note == "b/xray at 1.36 of its bound"
    assert remark.facts == {"forgetting": pytest.approx(1.3636), "multiplier": pytest.approx(0.3636)}
    assert watched(6).warnings == ()
    assert watched(10).warnings == ()
    remark = watched(15)
    assert (remark.warnings, remark.stop) == ((), ""), "once a run, whichever bound is broken next"
    assert watched(20).stop == "stopped early, because the student knew nothing of b/xray any more for 5 % of the steps"


def test_at_the_end_all_bounds_are_looked_at_with_the_weights_that_are_kept():
    watched = course([1.0, 1.5], [1.4, 1.3], [1.0, 1.05])
    watched(5)
    assert watched.verdict() == (
        "2 of 2 bounds of the forgetting budget are broken at the end, loss over bound: a/ct 1.27, b/xray 1.18 "
        "(the audit decides whether anything was lost)"
    )
    assert watched.verdict() == "all 2 bounds of the forgetting budget are kept"
    assert [entry["loss"] for entry in watched.budget.facts().values()] == [1.0, 1.05]
    assert watched.budget.facts()["b/xray"]["multiplier"] == pytest.approx(0.364), "what it was in the run"


def test_without_a_watch_there_is_nothing_to_say():
    student = SimpleNamespace(model=SimpleNamespace(logit_scale=nn.Parameter(torch.tensor(1.0))))
    plain = Course(student, nn.Linear(1, 1), "none", 100)
    assert plain(5) is None
    assert plain.verdict() == ""
    assert plain.budget.facts() == {}
