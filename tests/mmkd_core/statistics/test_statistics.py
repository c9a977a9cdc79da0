"""Wilson, AUC and the group bootstrap against scipy, scikit-learn and materialised resamples."""

import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binomtest
from sklearn.metrics import roc_auc_score

from mmkd_core.statistics import (
    GroupBootstrap,
    Interval,
    defined_classes,
    macro_auc,
    paired_auc_difference,
    percentile_interval,
    wilson_lower,
)


def sklearn_macro(scores, truth):
    """Mean of the binary AUCs that are defined, by an independent implementation."""
    classes = [c for c in range(scores.shape[1]) if 0 < (truth == c).sum() < len(truth)]
    return np.mean([roc_auc_score(truth == c, scores[:, c]) for c in classes]) if classes else None


@st.composite
def scored(draw, samples=24):
    """Scores with many ties, a truth that may lack classes, and groups."""
    n, classes = draw(st.integers(2, samples)), draw(st.integers(2, 4))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    scores = rng.integers(0, draw(st.integers(1, 6)), (n, classes)).astype(np.float32)
    groups = [f"patient {i}" for i in rng.integers(0, draw(st.integers(1, n)), n)]
    return scores, rng.integers(0, classes, n), groups


class TestWilson:
    def test_against_scipy(self):
        for successes, n in [(0, 10), (1, 7), (46, 50), (92, 98), (10, 10), (560, 609)]:
            two_sided = binomtest(successes, n).proportion_ci(confidence_level=0.90, method="wilson")
            assert wilson_lower(successes, n) == pytest.approx(two_sided.low, abs=1e-12)

    def test_literal_and_the_size_that_ninety_percent_needs(self):
        assert wilson_lower(46, 50) == pytest.approx(0.8329, abs=5e-4)
        assert wilson_lower(19, 20) < 0.90 < wilson_lower(950, 1000)
        assert wilson_lower(0, 0) == 0.0

    def test_refuses_impossible_counts(self):
        with pytest.raises(ValueError, match="5 successes in 4 trials"):
            wilson_lower(5, 4)


class TestMacroAuc:
    @given(scored())
    @settings(max_examples=30, deadline=None)
    def test_against_sklearn(self, case):
        scores, truth, _ = case
        assert macro_auc(scores, truth) == (
            None if sklearn_macro(scores, truth) is None else pytest.approx(sklearn_macro(scores, truth), abs=1e-12)
        )

    def test_literals(self):
        assert macro_auc([[0.1, 0.9], [0.9, 0.1]], [1, 0]) == 1.0
        assert macro_auc([[0.5, 0.5]] * 4, [0, 0, 1, 1]) == 0.5
        assert macro_auc([[1.0, 0.0]] * 3, [0, 0, 0]) is None

    def test_a_class_that_is_absent_is_left_out(self):
        scores, truth = np.array([[3, 1, 9], [1, 2, 0], [2, 0, 5.0]]), np.array([0, 1, 0])
        assert defined_classes(truth, 3) == [0, 1]
        assert macro_auc(scores, truth) == 1.0

    def test_refuses_what_cannot_be_ranked(self):
        with pytest.raises(ValueError, match="NaN or infinity"):
            macro_auc([[np.nan, 0], [0, 1]], [0, 1])
        with pytest.raises(ValueError, match="truth outside the 2 classes"):
            macro_auc([[1, 0], [0, 1]], [0, 2])
        with pytest.raises(ValueError, match="do not belong together"):
            macro_auc([[1, 0], [0, 1]], [0])


class TestGroupBootstrap:
    @given(scored(), st.integers(0, 9))
    @settings(max_examples=25, deadline=None)
    def test_equals_materialised_resampling(self, case, seed):
        scores, truth, groups = case
        bootstrap = GroupBootstrap(groups, resamples=8, seed=seed)
        fast = bootstrap.macro_auc(scores, truth)
        ((_, weight),) = bootstrap.weights()
        for b in range(8):
            rows = np.repeat(np.arange(len(truth)), weight[:, b].astype(int))
            slow = sklearn_macro(scores[rows], truth[rows])
            assert np.isnan(fast[b]) if slow is None else fast[b] == pytest.approx(slow, abs=1e-12)

    @given(st.lists(st.sampled_from("abcdefgh"), min_size=1, max_size=40), st.integers(0, 5))
    def test_draws_as_many_groups_as_there_are_and_whole_ones(self, groups, seed):
        bootstrap = GroupBootstrap(groups, resamples=20, seed=seed)
        ((_, weight),) = bootstrap.weights()
        per_group = {g: weight[[i for i, name in enumerate(groups) if name == g]] for g in set(groups)}
        assert all((rows == rows[0]).all() for rows in per_group.values())
        assert (sum(rows[0] for rows in per_group.values()) == len(per_group)).all()

    def test_multiplicities_are_multinomial(self):
        ((_, weight),) = GroupBootstrap([str(i) for i in range(10)], resamples=4000, seed=1).weights()
        assert weight.mean() == 1.0
        assert (weight == 0).mean() == pytest.approx(0.9**10, abs=0.01)
        assert weight.var() == pytest.approx(0.9, abs=0.03)

    def test_does_not_depend_on_the_order_of_samples(self):
        rng = np.random.default_rng(3)
        scores, truth, groups = rng.normal(size=(50, 3)), rng.integers(0, 3, 50), rng.integers(0, 12, 50).astype(str)
        shuffle = rng.permutation(50)
        first = GroupBootstrap(groups, 50).macro_auc(scores, truth)
        again = GroupBootstrap(groups[shuffle], 50).macro_auc(scores[shuffle], truth[shuffle])
        np.testing.assert_allclose(first, again, atol=1e-12)

    def test_strata_are_resampled_each_on_its_own(self):
        groups, strata = ["a", "b", "b", "x", "y", "z"], ["one"] * 3 + ["two"] * 3
        both = GroupBootstrap(groups, 40, seed=5, strata=strata)
        ((_, weight),) = both.weights()
        assert (weight[0] + weight[1] == 2).all()
        assert (weight[3:].sum(axis=0) == 3).all()
        ((_, part),) = both.take([3, 4, 5]).weights()
        ((_, alone),) = GroupBootstrap(groups[3:], 40, seed=5, strata=strata[3:]).weights()
        np.testing.assert_array_equal(part, alone)
        with pytest.raises(ValueError, match="a group lies in two strata"):
            GroupBootstrap(["a", "a"], 10, strata=["one", "two"])

    def test_blocks_change_nothing(self, monkeypatch):
        rng = np.random.default_rng(0)
        scores, truth, groups = rng.normal(size=(40, 2)), rng.integers(0, 2, 40), rng.integers(0, 9, 40).astype(str)
        whole = GroupBootstrap(groups, 100).macro_auc(scores, truth)
        monkeypatch.setattr("mmkd_core.statistics.bootstrap.CHUNK_BYTES", 40 * 4 * 7)
        bootstrap = GroupBootstrap(groups, 100)
        assert len(list(bootstrap.weights())) == 15
        np.testing.assert_array_equal(bootstrap.macro_auc(scores, truth), whole)

    def test_five_thousand_samples_in_two_hundred_megabytes(self):
        rng = np.random.default_rng(0)
        scores, truth = rng.normal(size=(5000, 2)), rng.integers(0, 2, 5000)
        tracemalloc.start()
        GroupBootstrap([str(i // 4) for i in range(5000)], 500).macro_auc(scores, truth)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < 200 * 2**20

    def test_patients_make_wider_intervals_than_images(self):
        rng = np.random.default_rng(7)
        patient = np.repeat(np.arange(30), 12)
        truth = np.repeat(rng.integers(0, 2, 30), 12)
        score = truth + np.repeat(rng.normal(size=30), 12) + 0.2 * rng.normal(size=360)
        scores = np.stack([-score, score], axis=1)
        width = []
        for groups in (patient.astype(str), np.arange(360).astype(str)):
            bootstrap = GroupBootstrap(groups, 500)
            found = bootstrap.interval(macro_auc(scores, truth), bootstrap.macro_auc(scores, truth))
            assert found.lower < found.estimate < found.upper
            width.append(found.upper - found.lower)
        assert width[0] > 2 * width[1]

    def test_refuses_no_samples_and_other_samples(self):
        with pytest.raises(ValueError, match="at least one sample"):
            GroupBootstrap([])
        with pytest.raises(ValueError, match="1 samples for a bootstrap over 2"):
            GroupBootstrap(["a", "b"]).macro_auc([[1, 0]], [0])


class TestIntervals:
    def test_many_groups_give_plain_percentiles(self):
        draws = np.random.default_rng(0).normal(size=4000)
        found = percentile_interval(0.0, draws, 10**6, 10**6, 0.95, (-1, 1))
        assert (found.lower, found.upper) == pytest.approx(tuple(np.quantile(draws, [0.025, 0.975])), abs=1e-3)

    def test_one_group_decides_nothing(self):
        bootstrap = GroupBootstrap(["same"] * 5, 50)
        assert bootstrap.interval(0.7, np.full(50, 0.7)) == Interval(0.7, 0.0, 1.0, 5, 1)

    def test_coverage_with_eight_patients(self):
        rng = np.random.default_rng(2)
        covered = {"expanded": 0, "plain": 0}
        for trial in range(250):
            values = rng.normal(size=8)
            ((_, weight),) = GroupBootstrap([str(i) for i in range(8)], 300, seed=trial).weights()
            draws = values @ weight / 8
            found = percentile_interval(values.mean(), draws, 8, 8, 0.95, (-9, 9))
            covered["expanded"] += found.lower < 0 < found.upper
            lower, upper = np.quantile(draws, [0.025, 0.975])
            covered["plain"] += lower < 0 < upper
        assert covered["plain"] < 0.90 * 250
        assert covered["expanded"] > covered["plain"] + 0.03 * 250

    def test_paired_difference_is_narrower_than_its_parts(self):
        rng = np.random.default_rng(4)
        truth = rng.integers(0, 2, 300)
        score = truth + rng.normal(size=300)
        other = score + 0.1 * rng.normal(size=300)
        first, second = (np.stack([-s, s], axis=1) for s in (score, other))
        bootstrap = GroupBootstrap([str(i // 2) for i in range(300)], 500)
        found = paired_auc_difference(first, second, truth, bootstrap)
        alone = bootstrap.interval(macro_auc(first, truth), bootstrap.macro_auc(first, truth))
        assert found.estimate == pytest.approx(macro_auc(first, truth) - macro_auc(second, truth))
        assert found.upper - found.lower < 0.4 * (alone.upper - alone.lower)
        assert paired_auc_difference(first, second, np.zeros(300, int), bootstrap) is None
