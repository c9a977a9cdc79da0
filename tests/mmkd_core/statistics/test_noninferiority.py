"""Paired tests against literals and their own definitions; figures of all resamples against scikit-learn."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import ndtri
from scipy.stats import binom
from sklearn.metrics import accuracy_score, f1_score, precision_score, recall_score

from mmkd_core.statistics import (
    GroupBootstrap,
    holm,
    paired_shares,
    percentile_interval,
    resampled,
    samples_to_decide,
)
from mmkd_core.statistics.classification import classification
from mmkd_core.statistics.noninferiority import null_variance, paired_score, samples_for_shares


def flips(gained, lost, n, patients=None):
    """New and old outcomes of n samples of which some flipped, and their patients."""
    new, old = np.ones(n, bool), np.ones(n, bool)
    old[:gained], new[gained : gained + lost] = False, False
    return new, old, np.arange(n).astype(str) if patients is None else patients


def passing(n, discordant, change, margin):
    """Probability that the score test of n independent samples passes, by summing over all numbers of flips."""
    gain, loss = (discordant + change) / 2, (discordant - change) / 2
    total = 0.0
    for differing in range(int(binom.ppf(1e-7, n, discordant)), int(binom.ppf(1 - 1e-7, n, discordant)) + 1):
        lost = np.arange(differing + 1)
        score = np.array([paired_score((differing - k) / n, k / n, n, -margin) for k in lost])
        passed = binom.pmf(lost, differing, loss / (gain + loss))[score > ndtri(0.975)].sum()
        total += binom.pmf(differing, n, discordant) * passed
    return total


class TestClassification:
    def test_equals_scikit_learn_on_materialised_resamples(self):
        rng = np.random.default_rng(0)
        truth, choice = rng.integers(0, 4, 60), rng.integers(0, 5, 60)  # class 4 is chosen and never true
        bootstrap = GroupBootstrap(rng.integers(0, 20, 60).astype(str), 12)
        found = classification(truth, choice, 5, bootstrap)
        ((_, weight),) = bootstrap.weights()
        for b in range(12):
            rows = np.repeat(np.arange(60), weight[:, b].astype(int))
            how = {"average": "macro", "labels": range(5), "zero_division": 0}
            assert found.accuracy[b] == pytest.approx(accuracy_score(truth[rows], choice[rows]), abs=1e-12)
            for name, score in (("precision", precision_score), ("recall", recall_score), ("f1", f1_score)):
                assert getattr(found, name)[b] == pytest.approx(score(truth[rows], choice[rows], **how), abs=1e-12)

    def test_means_are_weighted_means_of_the_resample(self):
        rng = np.random.default_rng(1)
        values, own, groups = rng.normal(size=30), rng.uniform(1, 2, 30), rng.integers(0, 9, 30).astype(str)
        bootstrap = GroupBootstrap(groups, 15)
        ((_, weight),) = bootstrap.weights()
        expected = [np.average(values, weights=weight[:, b] * own) for b in range(15)]
        np.testing.assert_allclose(bootstrap.mean(values, own), expected, atol=1e-12)
        part = bootstrap.take([3, 4, 5])
        with np.errstate(invalid="ignore"):
            np.testing.assert_allclose(part.mean(values[3:6]), values[3:6] @ weight[3:6] / weight[3:6].sum(axis=0))


class TestPairedShares:
    def test_interval_literal(self):
        """The bounds solve his equation: the score there is the quantile."""
        new, old, patients = flips(gained=1, lost=7, n=100)
        found = paired_shares(new, old, patients, margin=0.1)
        assert found.estimate == pytest.approx(-0.06)
        for bound, sign in ((found.lower, 1), (found.upper, -1)):
            z = paired_score(0.01, 0.07, 100, bound)
            assert z == pytest.approx(sign * 1.984217, abs=1e-4)  # Student's t, 99 degrees of freedom

    def test_null_variance_is_that_of_the_likeliest_shares(self):
        """Against a search over the shares that have the wanted difference."""
        gain, loss, change = 0.03, 0.05, -0.04
        lost = np.linspace(0.0401, 0.5, 200_001)
        likelihood = gain * np.log(lost + change) + loss * np.log(lost) + 0.92 * np.log(1 - 2 * lost - change)
        best = lost[np.nanargmax(likelihood)]
        assert null_variance(gain, loss, change) == pytest.approx(2 * best + change - change**2, abs=1e-5)

    def test_no_flip_is_no_proof(self):
        """Of 50 patients none flipped; a loss of 2 points leaves that 36 times in 100. A bootstrap would be certain."""
        new, old, patients = flips(0, 0, 50)
        found = paired_shares(new, old, patients, margin=0.02)
        assert (found.estimate, found.spread) == (0.0, 0.0)
        assert found.p_kept > 0.1
        assert found.lower < -0.02
        assert paired_shares(*flips(0, 0, 500), margin=0.02).p_kept < 0.025
        ten_each = np.repeat(np.arange(50), 10).astype(str)
        assert paired_shares(*flips(0, 0, 500, ten_each), margin=0.02).p_kept > 0.1

    def test_p_and_bounds_agree(self):
        new, old, patients = flips(10, 12, 400)
        at = paired_shares(new, old, patients, margin=0.5)
        touching = paired_shares(new, old, patients, margin=-at.lower)
        assert touching.p_kept == pytest.approx(0.025, abs=1e-6)
        assert touching.p_kept + touching.p_lost == pytest.approx(1)

    @given(st.integers(0, 2**32))
    @settings(max_examples=25)
    def test_order_names_and_copies(self, seed):
        rng = np.random.default_rng(seed)
        new, old, group = rng.random(80) < 0.8, rng.random(80) < 0.8, rng.integers(0, 25, 80)
        found = paired_shares(new, old, group.astype(str), 0.1)
        turn, rename = rng.permutation(80), rng.permutation(25)
        again = paired_shares(new[turn], old[turn], rename[group[turn]].astype(str), 0.1)
        assert (again.lower, again.upper, again.p_kept) == pytest.approx((found.lower, found.upper, found.p_kept))
        single, twice = (
            paired_shares(np.tile(new, k), np.tile(old, k), np.tile(np.arange(80), k).astype(str), 0.1) for k in (1, 2)
        )
        assert twice.lower == pytest.approx(single.lower, abs=1e-6)  # copies of images are no new patients
        swapped = paired_shares(old, new, group.astype(str), 0.1)
        assert (swapped.lower, swapped.upper) == pytest.approx((-found.upper, -found.lower), abs=1e-6)

    def test_a_weight_is_as_good_as_copies(self):
        rng = np.random.default_rng(2)
        patient = np.repeat(np.arange(50), 4)  # whose images flip together
        new, old = rng.random(50)[patient] < 0.8, rng.random(50)[patient] < 0.8
        often = np.where(patient < 20, 2, 1)
        weighted = paired_shares(new, old, patient.astype(str), 0.3, weight=often)
        copied = paired_shares(*(np.repeat(x, often) for x in (new, old, patient.astype(str))), margin=0.3)
        assert (weighted.estimate, weighted.lower) == pytest.approx((copied.estimate, copied.lower))

    def test_one_patient_shows_nothing(self):
        found = paired_shares([1, 1, 0], [1, 1, 1], ["a"] * 3, 0.1)
        assert (found.lower, found.upper, found.p_kept, found.p_lost) == (-1, 1, 1, 1)

    def test_samples_needed_where_nothing_flipped(self):
        """Of n patients without a flip a loss of m leaves n m / (1 - m) as the squared score."""
        found = paired_shares(*flips(0, 0, 50), margin=0.02)
        assert found.needed(0.02, 0.025, 0.8) == pytest.approx(ndtri(0.975) ** 2 * 0.98 / 0.02)
        ten_each = paired_shares(*flips(0, 0, 500, np.repeat(np.arange(50), 10).astype(str)), margin=0.02)
        assert ten_each.needed(0.02, 0.025, 0.8) == pytest.approx(10 * found.needed(0.02, 0.025, 0.8))


class TestResampled:
    def test_p_is_where_the_bound_meets_the_margin(self):
        draws = np.random.default_rng(0).normal(0, 0.01, 20_000)
        lower = percentile_interval(0.0, draws, 100, 100, 0.95, (-1, 1)).lower
        found = resampled(0.0, draws, 100, 100, margin=-lower)
        assert found.p_kept == pytest.approx(0.025, abs=2e-4)
        assert found.p_lost == pytest.approx(0.975, abs=2e-4)
        assert found.spread == pytest.approx(0.1, rel=0.02)

    def test_tails_beyond_the_resamples(self):
        draws = np.random.default_rng(0).normal(0, 0.01, 2000)
        found = resampled(0.0, draws, 10**6, 10**6, margin=0.05)
        assert 1e-8 < found.p_kept < 1e-6  # five standard errors
        assert resampled(0.0, np.zeros(100), 50, 50, 0.02).p_kept == 0
        assert resampled(-0.03, np.full(100, -0.03), 50, 50, 0.02).p_lost == 0
        assert resampled(0.0, draws, 10, 1, 0.02).p_kept == 1


def test_holm_literal():
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.9, 0.8]) == [1.0, 1.0]
    assert holm([]) == []


class TestPlanning:
    def test_literal(self):
        z = ndtri(0.975) + ndtri(0.8)
        assert samples_to_decide(0.3, 0.02) == pytest.approx((z * 0.3 / 0.02) ** 2)
        assert samples_to_decide(0.3, 0.02, change=-0.01) == pytest.approx((z * 0.3 / 0.01) ** 2)
        assert samples_to_decide(0.3, 0.02, change=-0.02) == np.inf

    @pytest.mark.parametrize(("discordant", "margin", "n"), [(0.08, 0.02, 300), (0.05, 0.03, 200), (0.2, 0.05, 120)])
    def test_a_loss_of_the_margin_passes_with_the_nominal_probability(self, discordant, margin, n):
        """Exactly, over all numbers of flips."""
        assert passing(n, discordant, -margin, margin) <= 0.032

    @pytest.mark.parametrize("case", [(0.08, 0.02, 0.0), (0.05, 0.03, -0.01), (0.1, 0.05, 0)])
    def test_power_of_the_score_test_is_as_planned(self, case):
        discordant, margin, change = case
        n = round(samples_for_shares(discordant, margin, change))
        assert passing(n, discordant, change, margin) == pytest.approx(0.8, abs=0.03)
