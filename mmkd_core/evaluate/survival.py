"""``mmkd/survival@2``: how well frozen image features rank patients by risk.

A patient is the mean of their images' features. Inside each of five folds of patients (stratified by event): features
are standardised, reduced to at most one component per ten events (PCA), and given to a Cox model with a ridge penalty
(Cox 1972; lifelines), whose strength is chosen inside the training part alone. The risks of the five held-out parts are
compared within their own folds, because models of two folds have no common scale.

Harrell's C (Harrell et al. 1982) is what papers quote; Uno's C (Uno et al. 2011, eq. 5) weighs pairs by the inverse of
the censoring survival, so that it does not depend on how many patients were lost to follow-up. It looks at
pairs up to a horizon, which like all else is chosen on the training part of a fold.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mmkd_core import advice
from mmkd_core.errors import DataError
from mmkd_core.evaluate.figures import Measured
from mmkd_core.evaluate.outcomes import Outcomes
from mmkd_core.evaluate.patients import pooled
from mmkd_core.statistics import GroupBootstrap
from mmkd_core.statistics.intervals import Floats

PROTOCOL = "mmkd/survival@2"
FOLDS = 5
MAX_COMPONENTS = 16
EVENTS_PER_COMPONENT = 10
PENALTIES = (0.01, 0.1, 1.0)
TRIED_ON = 2000
"""Patients on whom the penalties are tried: more would not choose another one of three."""
MOMENTS = 1000
"""Different times that a Cox model is fitted to at most, as quantiles: lifelines then adds up by moments instead of by
patients. Coefficients change in the fourth decimal; figures are computed on the times as they are."""


@dataclass(frozen=True, eq=False)
class Patients:
    """G patients.

    Attributes:
        group_id: (G,) who.
        features: (G, D) mean of the unit-norm features of each patient's images.
        time: (G,) follow-up, above 0, in one unit.
        event: (G,) bool; False where the patient was last seen alive.
    """

    group_id: NDArray[np.object_]
    features: NDArray[np.float32]
    time: Floats
    event: NDArray[np.bool_]


def pool(
    features: NDArray[np.floating], group_id: NDArray[np.object_], time: Floats, event: NDArray[np.bool_]
) -> Patients:
    """Average the images of each patient.

    Raises:
        DataError: a time that is not above 0, or a patient with two times or two events.
    """
    if not (np.isfinite(time) & (time > 0)).all():
        bad = group_id[~(np.isfinite(time) & (time > 0))][0]
        raise DataError("a follow-up time must be above 0", where=f"group {bad}", next="Correct the manifest.")
    names, member, mean = pooled(features, group_id)
    first = np.unique(member, return_index=True)[1]
    differs = (time != time[first][member]) | (event != event[first][member])
    if differs.any():
        where = f"group {group_id[differs.argmax()]}"
        raise DataError("one patient with two times or two events", where=where, next="Correct the manifest.")
    return Patients(names, mean, time[first], event[first])


def predict(patients: Patients, seed: int = 0) -> Outcomes:
    """Out-of-fold risk of every patient.

    Raises:
        DataError: too few events for the folds.
    """
    if patients.event.sum() < 2 * FOLDS:
        what = f"{int(patients.event.sum())} events are too few for {FOLDS} folds"
        raise DataError(what, next="Survival needs at least ten patients with an event.")
    fold = _folds(patients.event, FOLDS, seed)
    risk, horizon = np.empty(len(fold)), []
    for number in range(FOLDS):
        train, held = np.flatnonzero(fold != number), np.flatnonzero(fold == number)
        risk[held] = _cox(patients, train, held, _penalty(patients, train, seed))
        horizon.append(_horizon(patients, train))
    columns = {
        "sample_id": patients.group_id,
        "group_id": patients.group_id,
        "time": patients.time,
        "event": patients.event,
        "risk": risk,
        "fold": fold,
    }
    return Outcomes(PROTOCOL, columns, {"folds": FOLDS, "horizon": horizon})


def measure(outcomes: Outcomes, bootstrap: GroupBootstrap) -> list[Measured]:
    """Harrell's and Uno's C."""
    names = ("Harrell C", "Uno C")
    wins, pairs = np.zeros((2, 1 + bootstrap.resamples)), np.zeros((2, 1 + bootstrap.resamples))
    for number in range(outcomes.facts["folds"]):
        rows = np.flatnonzero(outcomes["fold"] == number)
        time, event, risk = (outcomes[column][rows] for column in ("time", "event", "risk"))
        horizons = (None, outcomes.facts["horizon"][number])
        weights = np.stack([_censoring_weight(time, event, horizon) for horizon in horizons])
        won, of = _concordance(time, event, risk, weights, bootstrap.take(rows))
        wins, pairs = wins + won, pairs + of
    values = np.divide(wins, pairs, out=np.full(wins.shape, np.nan), where=pairs > 0)
    none = "no two patients can be compared"
    return [
        Measured(name, "", float(row[0]) if np.isfinite(row[0]) else None, row[1:], none)
        for name, row in zip(names, values, strict=True)
    ]


def concordance(time: Floats, event: NDArray[np.bool_], risk: Floats, horizon: float | None = None) -> float | None:
    """Harrell's C, or Uno's up to ``horizon``; ties of risk count half. None if no pair can be compared."""
    weight = _censoring_weight(time, event, horizon)[None]
    alone = GroupBootstrap([str(i) for i in range(len(time))], 1, 0)
    wins, pairs = _concordance(time, event, risk, weight, alone)
    return float(wins[0, 0] / pairs[0, 0]) if pairs[0, 0] else None


def _concordance(
    time: Floats, event: NDArray[np.bool_], risk: Floats, weights: Floats, bootstrap: GroupBootstrap
) -> tuple[Floats, Floats]:
    """Weight of the concordant pairs and of all comparable pairs (k, 1 + B): first on all rows, then of each resample.

    A pair is comparable if the one with the shorter time had the event; at equal times, if the other was censored.
    Both sums are quadratic forms in the multiplicities of a resample, ``w.T @ A @ w``. ``weights`` (k, n) are what each
    row counts as the earlier one of a pair; who beats whom is the same for all k of them and computed once.
    """
    order = np.lexsort((~event, time))[::-1]  # latest first; at equal times the censored come before the events
    time, event, risk, weights = time[order], event[order], risk[order], weights[:, order]
    later = np.searchsorted(-time, -time, side="left")  # how many have a longer time
    same = np.searchsorted(-time, -time, side="right")
    censored = np.concatenate([[0], np.cumsum(~event)])
    reach = later + censored[same] - censored[later]  # and those of the same time who were censored stand first
    rows = np.flatnonzero(event & (weights > 0).any(axis=0))
    wins, pairs = np.zeros((2, len(weights), 1 + bootstrap.resamples))
    pairs[:, 0] = weights[:, rows] @ reach[rows]
    step = max(1, 2**24 // max(1, len(time)))
    for block, times in bootstrap.take(order).weights():
        running = np.zeros((len(time) + 1, times.shape[1]))
        np.cumsum(times, axis=0, out=running[1:])
        pairs[:, 1:][:, block] = weights[:, rows] @ (times[rows] * running[reach[rows]])
    for first in range(0, len(rows), step):
        mine = rows[first : first + step]
        before = np.arange(len(time)) < reach[mine, None]
        won = (before & (risk[mine, None] >= risk)).astype(np.float32)
        won += before & (risk[mine, None] > risk)  # twice what a pair is worth: whole numbers
        wins[:, 0] += 0.5 * weights[:, mine] @ won.sum(axis=1, dtype=np.float64)
        for block, times in bootstrap.take(order).weights():
            wins[:, 1:][:, block] += 0.5 * weights[:, mine] @ (times[mine] * (won @ times))
    return wins, pairs


def _censoring_weight(time: Floats, event: NDArray[np.bool_], horizon: float | None) -> Floats:
    """(n,) weight of a patient as the earlier one of a pair: 1 for Harrell's C, 1 / G(time)^2 below the horizon."""
    if horizon is None:
        return np.ones(len(time))
    # Kaplan-Meier of being followed. At equal times events come first: lifelines has no such order for ties.
    moments, place = np.unique(time, return_inverse=True)
    left = np.bincount(place, ~event)
    still = len(time) - np.concatenate([[0], np.cumsum(np.bincount(place))[:-1]]) - np.bincount(place, event)
    followed = np.cumprod(1 - np.divide(left, still, out=np.zeros(len(moments)), where=still > 0))[place]
    return np.where((time < horizon) & (followed > 0), 1 / np.maximum(followed, 1e-12) ** 2, 0.0)


def _horizon(patients: Patients, rows: NDArray[np.int64]) -> float:
    """Uno's tau: the time by which nine in ten events have happened, where some patients are still followed."""
    return float(np.quantile(patients.time[rows][patients.event[rows]], 0.9))


def _folds(event: NDArray[np.bool_], folds: int, seed: int) -> NDArray[np.int64]:
    """Fold of each patient; events and censored patients are dealt out evenly."""
    fold, rng = np.empty(len(event), np.int64), np.random.default_rng([seed, 31])
    start = 0
    for kind in (True, False):
        rows = rng.permutation(np.flatnonzero(event == kind))
        fold[rows] = (start + np.arange(len(rows))) % folds
        start += len(rows)
    return fold


def _penalty(patients: Patients, train: NDArray[np.int64], seed: int) -> float:
    """The penalty whose risks rank an inner quarter best; the strongest of equals."""
    train = np.random.default_rng([seed, 32]).permutation(train)[:TRIED_ON]
    inner = _folds(patients.event[train], 4, seed + 1)
    fit, held = train[inner != 0], train[inner == 0]
    found = {p: _rank(patients, held, _cox(patients, fit, held, p)) for p in PENALTIES}
    return max(found, key=lambda p: (found[p], p))


def _rank(patients: Patients, rows: NDArray[np.int64], risk: Floats) -> float:
    value = concordance(patients.time[rows], patients.event[rows], risk)
    return 0.5 if value is None else value


def lifelines() -> Any:
    """The library of that name.

    Raises:
        DataError: it is not installed.
    """
    try:
        import lifelines as library
        import lifelines.statistics
    except ImportError as error:
        what = "survival needs the package lifelines, which is not installed"
        raise DataError(what, next=advice.install("survival")) from error
    return library


def _moments(time: Floats) -> Floats:
    """Times rounded up to at most ``MOMENTS`` of them."""
    values = np.unique(time)
    if len(values) > MOMENTS:
        values = np.unique(np.quantile(time, np.linspace(0, 1, MOMENTS), method="higher"))
    return np.asarray(values[np.searchsorted(values, time)], np.float64)


def _cox(patients: Patients, train: NDArray[np.int64], held: NDArray[np.int64], penalty: float) -> Floats:
    """Log partial hazard of the held-out patients; zero for all where the features say nothing."""
    cox_model = lifelines().CoxPHFitter(penalizer=penalty)
    from pandas import DataFrame
    from sklearn.decomposition import PCA
    from sklearn.preprocessing import StandardScaler

    count = min(MAX_COMPONENTS, int(patients.event[train].sum()) // EVENTS_PER_COMPONENT, patients.features.shape[1])
    scaler = StandardScaler().fit(patients.features[train])
    fit, new = (scaler.transform(patients.features[rows].astype(np.float64)) for rows in (train, held))
    if count < 1 or not fit.std(axis=0).any():
        return np.zeros(len(held))
    reducer = PCA(count, random_state=0).fit(fit)
    fit, new = reducer.transform(fit), reducer.transform(new)
    spread = fit.std(axis=0)
    kept = spread > 1e-9
    fit, new = fit[:, kept] / spread[kept], new[:, kept] / spread[kept]
    frame: Any = DataFrame(fit).assign(time=_moments(patients.time[train]), event=patients.event[train])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = cox_model.fit(frame, "time", "event")
        return np.asarray(model.predict_log_partial_hazard(DataFrame(new)), np.float64)
