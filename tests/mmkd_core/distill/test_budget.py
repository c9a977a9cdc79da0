from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional as F

from mmkd_core.distill.budget import Budget, Watch, named
from mmkd_core.distill.config import BudgetConfig

STRATA = [("a", "ct"), ("a", "xray"), ("b", "ct")]
CONFIG = BudgetConfig(rise=0.1, slack=0.01, rate=2.0, most=3.0, patience=0.2)
PARENT = torch.tensor([1.0, 0.5, 0.0])
IGNORANT = torch.tensor([2.0, 1.5, 2.0])


def test_bounds_and_multipliers_by_hand():
    budget = Budget(STRATA, PARENT, IGNORANT, CONFIG)
    assert budget.bound.tolist() == pytest.approx([1.11, 0.56, 0.01])
    assert budget.update([0, 1], torch.tensor([1.11 * 1.25, 0.5]), 1) == [("a", "ct")]
    assert budget.weight(("a", "ct")) == pytest.approx(1 + 2 * 0.25)
    assert budget.weight(("a", "xray")) == 1
    assert budget.weight(("nobody", "ct")) == 1
    assert budget.update([0], torch.tensor([1.11 * 1.25]), 1) == [], "said once"
    assert budget.weight(("a", "ct")) == pytest.approx(2.0)
    budget.update([0], torch.tensor([1.11 * 0.75]), 1)
    assert budget.weight(("a", "ct")) == pytest.approx(1.5)
    assert budget.worst() == (("a", "xray"), pytest.approx(0.5 / 0.56))
    assert budget.facts()["b/ct"] == {"bound": 0.01, "loss": 0.0, "multiplier": 0.0}


def test_training_stops_where_a_stratum_stays_lost():
    budget = Budget(STRATA, PARENT, IGNORANT, CONFIG)
    budget.update([1], torch.tensor([2.0]), 10)
    assert budget.lost(10, 100) is None
    budget.update([1], torch.tensor([0.9]), 20)  # broken, not lost
    budget.update([1], torch.tensor([2.0]), 30)
    assert budget.lost(30, 100) is None
    budget.update([0], torch.tensor([1.0]), 40)  # another one's turn
    budget.update([1], torch.tensor([2.0]), 50)
    assert budget.lost(49, 100) is None
    assert budget.lost(50, 100) == ("a", "xray"), "lost since step 30, a fifth of the run"
    assert budget.lost(50, 101) is None


@given(checks=st.lists(st.tuples(st.integers(0, 2), st.floats(0, 20)), max_size=30), cut=st.integers(0, 30))
def test_a_checkpoint_holds_a_budget_and_multipliers_stay_in_bounds(checks, cut):
    whole, broken, resumed = (Budget(STRATA, PARENT, IGNORANT, CONFIG) for _ in range(3))
    for place, value in checks:
        whole.update([place], torch.tensor([value]), 1)
    for place, value in checks[:cut]:
        broken.update([place], torch.tensor([value]), 1)
    resumed.load_state_dict(broken.state_dict())
    for place, value in checks[cut:]:
        resumed.update([place], torch.tensor([value]), 1)
    assert resumed.facts() == whole.facts()
    assert resumed.lost(1, 1) == whole.lost(1, 1)
    assert all(0 <= float(m) <= CONFIG.most for m in whole.multiplier)
    assert not list(whole.parameters())


def test_no_strata_no_budget():
    budget = Budget([], torch.zeros(0), torch.zeros(0), CONFIG)
    assert budget.update([], torch.zeros(0), 1) == []
    assert budget.worst() is None
    assert budget.lost(1, 1) is None


@pytest.fixture
def watch(built, samples, bank, source):
    sources = {"a": source("a", range(12)), "b": source("b", range(12), dim=4)}
    watched = {
        ("a", "ct"): np.array([0, 2]),
        ("a", "xray"): np.array([1, 3]),
        ("b", "ct"): np.array([4, 6]),
        ("gone", "ct"): np.array([8]),
        ("a", "nowhere"): np.array([8]),
    }
    return Watch(built, samples, bank, sources, watched, most=4), sources


def test_the_watch_measures_the_relation_loss(watch, built, samples, bank):
    found, sources = watch
    assert found.strata == [("a", "ct"), ("b", "ct"), ("a", "xray")], "by domain"
    losses = found.losses([2, 1])
    for value, (teacher, domain), rows in ((losses[0], ("a", "xray"), [1, 3]), (losses[1], ("b", "ct"), [4, 6])):
        image = torch.from_numpy(built.embed_images(samples.pixels[rows]))
        text = torch.from_numpy(built.embed_texts(bank.texts[domain]))
        source = sources[teacher]
        target = (source.logit_scale * source.images(np.array(rows)) @ source.bank[domain].T).softmax(-1)
        student = (built.logit_scale * image @ text.T).log_softmax(-1)
        torch.testing.assert_close(value, F.kl_div(student, target, reduction="batchmean"), rtol=1e-4, atol=1e-6)


def test_who_knows_nothing_finds_all_texts_equally_likely(watch, bank):
    found, sources = watch
    posterior = (sources["b"].logit_scale * sources["b"].images(np.array([4, 6])) @ sources["b"].bank["ct"].T).softmax(
        -1
    )
    entropy = -(posterior * posterior.log()).sum(-1)
    assert float(found.ignorant[1]) == pytest.approx(float((np.log(len(bank.texts["ct"])) - entropy).mean()), rel=1e-5)


def test_strata_take_turns_and_the_model_is_left_as_it_was(watch, built):
    found, _ = watch
    assert [found.turn(number) for number in range(3)] == [[0, 1], [2, 0], [1, 2]]
    built.model.train()
    built.model.visual.eval()
    before = [module.training for module in built.model.modules()]
    found.losses([0, 1, 2])
    assert [module.training for module in built.model.modules()] == before
    assert found.losses([]).tolist() == []
    built.model.eval()


def test_all_strata_are_looked_at_in_pieces(watch, built, samples, bank, monkeypatch):
    """With hundreds of strata all of their images at once are more than a GPU holds."""
    found, _ = watch
    whole, seen, prepare = found.losses([0, 1, 2]), [], built.prepare
    monkeypatch.setattr(built, "prepare", lambda pixels: seen.append(len(pixels)) or prepare(pixels))
    torch.testing.assert_close(found.everywhere(), whole)
    assert seen == [4, 2]
    assert Watch(built, samples, bank, {}, {}, most=4).everywhere().tolist() == []


def test_names():
    assert named(("a", "ct")) == "a/ct"
