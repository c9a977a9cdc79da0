"""Figures of the audit: its speed against a loop over scikit-learn, and its error rates on models of known quality.

``audit-speed``: accuracy, macro precision, recall, F1 and AUC of 2000 samples of nine classes in 2000 resamples of
patients, against the simplest fast loop in numpy: every class is sorted once, a resample is a vector of weights, and
costs one ``bincount`` and a cumulative sum per class. All resamples of both are timed and must agree to 1e-6.
``audit-speed-sklearn`` is the loop that most people write, which copies the samples of a resample out and calls
scikit-learn; it is timed on the first 20 resamples and scaled. ``audit-calibration``: the share of simulated losses of
just the margin that pass (both tests, patients with several images), and the share of harmless updates that pass with
the number of samples that the planner gives.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np
from scipy.special import ndtri
from sklearn.metrics import accuracy_score, f1_score, precision_score, recall_score, roc_auc_score
from timing import Figure, figure, interleaved, ratio

from mmkd_core.statistics import GroupBootstrap, macro_auc, paired_shares, resampled, samples_to_decide, wilson_lower
from mmkd_core.statistics.classification import classification
from mmkd_core.statistics.noninferiority import samples_for_shares

ROUNDS, SAMPLES, CLASSES, RESAMPLES, CHECKED = 7, 2000, 9, 2000, 20
TRIALS = 2000
Case = tuple[np.ndarray, np.ndarray, np.ndarray, int]


def _case(turn: int) -> Case:
    """Posteriors, truth and patients of three images each."""
    rng = np.random.default_rng(turn)
    truth = rng.integers(0, CLASSES, SAMPLES)
    logits = rng.normal(size=(SAMPLES, CLASSES)) + 1.5 * np.eye(CLASSES)[truth]
    posterior = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    return posterior, truth, (np.arange(SAMPLES) // 3).astype(str), turn


def _ours(case: Case) -> np.ndarray:
    posterior, truth, groups, seed = case
    bootstrap = GroupBootstrap(groups, RESAMPLES, seed)
    found = classification(truth, posterior.argmax(axis=1), CLASSES, bootstrap)
    auc = bootstrap.macro_auc(posterior, truth)
    return np.stack([found.accuracy, found.precision, found.recall, found.f1, auc], axis=1)


def _numpy(case: Case) -> np.ndarray:
    """(RESAMPLES, 5) by a loop over resamples, nothing copied or sorted inside it."""
    posterior, truth, groups, seed = case
    cell = truth * CLASSES + posterior.argmax(axis=1)
    ranked = []  # per class: positives, negatives in order of score, and how many of those each positive beats
    for column in range(CLASSES):
        score, own = posterior[:, column], np.flatnonzero(truth == column)
        others = np.flatnonzero(truth != column)
        others = others[np.argsort(score[others])]
        ways = [np.searchsorted(score[others], score[own], side) for side in ("left", "right")]
        ranked.append((own, others, *ways))
    result = []
    for _, draws in GroupBootstrap(groups, RESAMPLES, seed).weights():
        for weight in np.ascontiguousarray(draws.T, dtype=np.float64):
            confusion = np.bincount(cell, weight, CLASSES**2).reshape(CLASSES, CLASSES)
            right, said, was = confusion.diagonal(), confusion.sum(axis=0), confusion.sum(axis=1)
            shares = [right / np.maximum(said, 1), right / np.maximum(was, 1), 2 * right / np.maximum(said + was, 1)]
            aucs = []
            for own, others, below, up_to in ranked:
                beaten = np.concatenate([[0.0], np.cumsum(weight[others])])
                pairs = weight[own].sum() * beaten[-1]
                if pairs:
                    aucs.append(weight[own] @ (beaten[below] + beaten[up_to]) / (2 * pairs))
            result.append([right.sum() / weight.sum(), *(share.mean() for share in shares), np.mean(aucs)])
    return np.array(result)


def _loop(case: Case) -> np.ndarray:
    posterior, truth, groups, seed = case
    draws = next(GroupBootstrap(groups, RESAMPLES, seed).weights())[1][:, :CHECKED].astype(int)
    how = {"average": "macro", "labels": range(CLASSES), "zero_division": 0}
    result = []
    for column in draws.T:
        rows = np.repeat(np.arange(SAMPLES), column)
        true, chance = truth[rows], posterior[rows]
        choice = chance.argmax(axis=1)
        figures = [score(true, choice, **how) for score in (precision_score, recall_score, f1_score)]
        auc = roc_auc_score(true, chance, multi_class="ovr")
        result.append([accuracy_score(true, choice), *figures, auc])
    return np.array(result)


def _agree(results: list[np.ndarray]) -> None:
    by_name = sorted(results, key=len)  # the loop over scikit-learn did only the first ones
    for other in by_name[1:]:
        np.testing.assert_allclose(other[: len(by_name[0])], by_name[0], atol=1e-6)
    np.testing.assert_allclose(by_name[1], by_name[2], atol=1e-6)


def speed() -> list[Figure]:
    """How many times faster than either loop."""
    ways = {"ours": _ours, "numpy": _numpy, "sklearn": _loop}
    seconds = interleaved(ways, _case, ROUNDS, warm=1, clock=time.thread_time, check=_agree)
    shared = f"5 metrics, {RESAMPLES} resamples, n = {SAMPLES} (equal to 1e-6)"
    scaled = seconds["sklearn"] * (RESAMPLES / CHECKED)
    return [
        ratio("audit-speed", seconds["numpy"], seconds["ours"], f"a loop in numpy, sorted once, {shared}"),
        ratio("audit-speed-sklearn", scaled, seconds["ours"], f"a loop over scikit-learn, {shared}"),
    ]


def calibration() -> list[Figure]:
    """False PASS of a true loss of the margin, and power with the planned number of samples."""
    figures = []
    for name, test in (("shares", _shares), ("auc", _auc)):
        loss = _passed(test, harmless=False)
        power = _passed(test, harmless=True)
        said = f"{TRIALS} simulated audits by the test of {name}, 95 % interval"
        figures += [
            _rate(f"audit-calibration false PASS ({name})", loss, f"a nominal 2.5 %, at most 5 %; {said}"),
            _rate(f"audit-calibration power ({name})", power, f"80 % as planned, within 3 points; {said}"),
        ]
    return figures


def _rate(name: str, passed: int, against: str) -> Figure:
    low, high = wilson_lower(passed, TRIALS, 0.975), 1 - wilson_lower(TRIALS - passed, TRIALS, 0.975)
    return figure(name, 100 * passed / TRIALS, "%", against, [round(100 * low, 1), round(100 * high, 1)])


def _passed(test: Callable[[np.random.Generator, bool], bool], harmless: bool) -> int:
    rng = np.random.default_rng(20)
    return sum(test(rng, harmless) for _ in range(TRIALS))


def _shares(rng: np.random.Generator, harmless: bool) -> bool:
    """Right or wrong; 8 % of the samples differ, patients of three images whose changes go together."""
    margin, differing, images, same = 0.03, 0.08, 3, 0.5
    effect = 1 + (images - 1) * same**2  # of the groups: correlation of two images of a patient
    patients = round(samples_for_shares(differing, margin) * effect / images)
    change = 0.0 if harmless else -margin
    chances = [(differing - change) / 2, 1 - differing, (differing + change) / 2]
    own = rng.choice([-1, 0, 1], (patients, images), p=chances)
    shared = rng.choice([-1, 0, 1], (patients, 1), p=chances)
    flip = np.where(rng.random((patients, images)) < same, shared, own).ravel()
    groups = np.repeat(np.arange(patients), images).astype(str)
    return paired_shares(flip >= 0, flip <= 0, groups, margin).p_kept <= 0.025


def _auc(rng: np.random.Generator, harmless: bool) -> bool:
    """AUC of two models whose scores share most of their noise, patients of two images of one class."""
    margin, before, noise, images = 0.03, 0.90, 0.5, 2
    patients = round(_auc_plan(margin, before, noise, images) / images)
    after = before if harmless else before - margin
    new, old, truth, groups = _scores(rng, patients, images, (after, before), noise)
    bootstrap = GroupBootstrap(groups, 400, int(rng.integers(2**31)))
    draws = bootstrap.macro_auc(new, truth) - bootstrap.macro_auc(old, truth)
    change = (macro_auc(new, truth) or 0.0) - (macro_auc(old, truth) or 0.0)
    return resampled(change, draws, len(truth), patients, margin).p_kept <= 0.025


_PLANS: dict[tuple[float, float, float, int], float] = {}


def _auc_plan(margin: float, auc: float, noise: float, images: int) -> float:
    """Samples that the planner asks for, from the spread that an audit of a large pilot measured."""
    key = margin, auc, noise, images
    if key not in _PLANS:
        new, old, truth, groups = _scores(np.random.default_rng(7), 4000, images, (auc, auc), noise)
        bootstrap = GroupBootstrap(groups, 1000)
        draws = bootstrap.macro_auc(new, truth) - bootstrap.macro_auc(old, truth)
        _PLANS[key] = samples_to_decide(resampled(0.0, draws, len(truth), 4000, margin).spread, margin)
    return _PLANS[key]


def _scores(
    rng: np.random.Generator, patients: int, images: int, auc: tuple[float, float], noise: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Binormal scores (n, 2) of two models of known AUC; both noises belong to the patient."""
    truth = np.repeat(np.arange(patients) % 2, images)
    shared = np.repeat(rng.normal(size=patients), images)
    own = np.repeat(rng.normal(size=(2, patients)), images, axis=1)
    models = [
        2**0.5 * ndtri(a) * truth + np.sqrt(1 - noise**2) * shared + noise * part
        for a, part in zip(auc, own, strict=True)
    ]
    new, old = (np.stack([-score, score], axis=1) for score in models)
    return new, old, truth, np.repeat(np.arange(patients), images).astype(str)


FIGURES: dict[str, Callable[[], list[Figure]]] = {"audit-speed": speed, "audit-calibration": calibration}
