"""Survival: Harrell's C against lifelines, Uno's against a plain double loop, and models whose rank is known."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from lifelines.utils import concordance_index

from mmkd_core.errors import DataError
from mmkd_core.evaluate.figures import score
from mmkd_core.evaluate.survival import MOMENTS, Patients, _moments, concordance, measure, pool, predict
from mmkd_core.statistics import GroupBootstrap


def cohort(n: int, seed: int, informative: bool = True, slope: float = 2.0) -> Patients:
    """Exponential times whose hazard the first feature tells, or nothing does."""
    rng = np.random.default_rng(seed)
    features = rng.normal(size=(n, 8)).astype(np.float32)
    hidden = features[:, 0] if informative else rng.normal(size=n)
    death, censored = rng.exponential(np.exp(-slope * hidden)), rng.exponential(3.0, n)
    names = np.array([f"p{i:04d}" for i in range(n)], object)
    return Patients(names, features, np.minimum(death, censored) + 1e-6, death <= censored)


def uno_by_hand(time: np.ndarray, event: np.ndarray, risk: np.ndarray, horizon: float) -> float:
    """Uno et al. 2011, eq. 5, pair by pair; at equal times an event comes before a censoring."""
    order = np.unique(time)
    followed, curve = 1.0, {}
    for t in order:
        still = (time >= t).sum() - ((time == t) & event).sum()
        followed *= 1 - ((time == t) & ~event).sum() / still if still else 1.0
        curve[t] = followed
    wins = pairs = 0.0
    for i in range(len(time)):
        for j in range(len(time)):
            comparable = time[i] < time[j] or (time[i] == time[j] and not event[j])
            if i != j and event[i] and time[i] < horizon and comparable and curve[time[i]] > 0:
                weight = curve[time[i]] ** -2
                pairs += weight
                wins += weight * (1.0 if risk[i] > risk[j] else 0.5 if risk[i] == risk[j] else 0.0)
    return wins / pairs


@given(st.integers(5, 40), st.integers(0, 10_000))
@settings(max_examples=60, deadline=None)
def test_harrell_is_that_of_lifelines_with_ties_of_every_kind(n: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    time, event = rng.integers(1, 9, n).astype(float), rng.random(n) < 0.6
    risk = rng.integers(0, 6, n).astype(float)
    found = concordance(time, event, risk)
    try:
        assert found == pytest.approx(concordance_index(time, -risk, event), abs=1e-12)
    except ZeroDivisionError:
        assert found is None


@given(st.integers(6, 40), st.integers(0, 10_000))
@settings(max_examples=40, deadline=None)
def test_uno_is_the_sum_over_pairs(n: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    time, event = np.round(rng.exponential(2, n) + 0.1, 1), rng.random(n) < 0.7
    if not event.any():
        return
    risk, horizon = rng.normal(size=n), float(np.quantile(time[event], 0.9))
    found = concordance(time, event, risk, horizon)
    if found is not None:
        assert found == pytest.approx(uno_by_hand(time, event, risk, horizon), abs=1e-12)


def test_a_resample_is_as_if_patients_were_copied_out() -> None:
    patients = cohort(60, 3)
    outcomes = predict(patients)
    figure = score(outcomes, measure, resamples=40, seed=5)[0]
    bootstrap = GroupBootstrap(outcomes["group_id"], 40, 5)
    draws = np.concatenate([times.T for _, times in bootstrap.weights()])
    values = []
    for times in draws.astype(int):
        wins = pairs = 0.0
        for fold in range(outcomes.facts["folds"]):
            rows = np.repeat(np.arange(60), times)
            rows = rows[outcomes["fold"][rows] == fold]
            time, event, risk = (outcomes[name][rows] for name in ("time", "event", "risk"))
            for i in range(len(rows)):
                later = (time[i] < time) | ((time[i] == time) & ~event)
                if event[i]:
                    pairs += later.sum()
                    wins += (later * (0.5 * (risk[i] >= risk) + 0.5 * (risk[i] > risk))).sum()
        values.append(wins / pairs)
    assert figure.interval is not None
    expected = bootstrap.interval(figure.interval.estimate, np.array(values))
    assert figure.interval.lower == pytest.approx(expected.lower, abs=1e-5)
    assert figure.interval.upper == pytest.approx(expected.upper, abs=1e-5)


def test_a_model_that_knows_the_hazard_ranks_well_and_one_that_does_not_is_at_chance() -> None:
    for informative, low, high in ((True, 0.75, 1.0), (False, 0.4, 0.6)):
        for figure in score(predict(cohort(400, 1, informative)), measure, resamples=50):
            assert figure.interval is not None
            assert low < figure.interval.estimate < high, figure
            assert figure.interval.groups == 400


def test_a_collapsed_model_is_at_chance() -> None:
    patients = cohort(100, 2)
    constant = Patients(patients.group_id, np.ones((100, 8), np.float32), patients.time, patients.event)
    for figure in score(predict(constant), measure, resamples=20):
        assert figure.interval is not None
        assert figure.interval.estimate == pytest.approx(0.5)


def test_images_of_a_patient_are_one_patient() -> None:
    images = np.array([[2.0, 0.0], [0.0, 4.0], [3.0, 3.0]])
    groups = np.array(["b", "b", "a"], object)
    patients = pool(images, groups, np.array([5.0, 5.0, 7.0]), np.array([True, True, False]))
    assert list(patients.group_id) == ["a", "b"]
    np.testing.assert_allclose(patients.features, [[0.5**0.5, 0.5**0.5], [0.5, 0.5]], rtol=1e-6)
    assert list(patients.time) == [7.0, 5.0]
    assert list(patients.event) == [False, True]


def test_what_cannot_be_is_refused() -> None:
    one = np.ones((2, 2))
    with pytest.raises(DataError, match="above 0"):
        pool(one, np.array(["a", "b"], object), np.array([0.0, 1.0]), np.array([True, True]))
    with pytest.raises(DataError, match="two times"):
        pool(one, np.array(["a", "a"], object), np.array([2.0, 1.0]), np.array([True, True]))
    with pytest.raises(DataError, match="too few"):
        predict(cohort(8, 0))


def test_many_times_are_rounded_for_the_fit_and_few_are_not() -> None:
    few = np.random.default_rng(0).integers(1, 900, 5000).astype(float)
    assert np.array_equal(_moments(few), few)
    many = np.random.default_rng(1).exponential(size=20_000)
    rounded = _moments(many)
    assert len(np.unique(rounded)) <= MOMENTS
    assert (rounded >= many).all()
    assert rounded.max() == many.max()
    ranks = np.abs(np.argsort(np.argsort(many)) - np.searchsorted(np.sort(many), rounded))
    assert ranks.max() <= 20_000 / (MOMENTS - 1) + 1


def test_nothing_is_fitted_to_held_out_patients() -> None:
    """All of a fold but one become noise, and die at other times: what is said of the one stays as it was."""
    patients = cohort(240, 3)
    found = predict(patients)
    for number in range(found.facts["folds"]):
        held = np.flatnonzero(found["fold"] == number)
        one, rest = held[0], held[1:]
        rng = np.random.default_rng(number)
        features, time = patients.features.copy(), patients.time.copy()
        features[rest] = 1000 * rng.normal(size=features[rest].shape)
        time[rest] = 50 * rng.permutation(time[rest])
        other = predict(Patients(patients.group_id, features, time, patients.event))
        assert other["risk"][one] == found["risk"][one], "scaler, components, penalty and coefficients"
        assert other.facts["horizon"][number] == found.facts["horizon"][number]
