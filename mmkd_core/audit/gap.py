"""Does what was measured on the probe hold on the test split? A teacher that knows the probe by heart is found out.

Patients are dealt anew to the two splits, as often as there are: if chance explains the difference, such a deal gives
one as large now and then (a permutation test; Good 2005). All teachers and domains are looked at together (Holm 1979).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy.stats import rankdata

from mmkd_core.statistics import holm, macro_auc
from mmkd_core.statistics.odds import log_odds
from mmkd_core.trust.measured import Probe

FEW, MANY = 999, 19_999
"""Deals at first, and where those leave it open."""
LEAST = 0.02
"""A smaller difference of accuracy and AUC is no finding, however sure it is."""
ALPHA = 0.05

Values = NDArray[np.float64]


@dataclass(frozen=True)
class Gap:
    """One teacher in one domain, on the images that decided and on images that did not.

    Attributes:
        probe, test: accuracy on each.
        probe_auc, test_auc: macro AUC on each, None where it is undefined.
        n, patients: of the test split.
        p: how often chance makes the probe look as much better, by accuracy or by rank of the right answer.
        unexplained: chance does not explain it, all teachers and domains considered.
    """

    probe: float
    test: float
    probe_auc: float | None
    test_auc: float | None
    n: int
    patients: int
    p: float
    unexplained: bool = False

    @property
    def size(self) -> float:
        """The larger of the differences of accuracy and AUC."""
        ranked = 0.0 if self.probe_auc is None or self.test_auc is None else self.probe_auc - self.test_auc
        return max(self.probe - self.test, ranked)


def gap(probes: Sequence[Probe], tests: Sequence[Probe], seed: int = 0) -> Gap | None:
    """Compare the answers on two splits; None where one has no labelled images.

    Of several findings the one with the least likely difference stands for all, and their number is considered.
    """
    found = [_gap(*pair, seed) for pair in zip(probes, tests, strict=True) if len(pair[0]) and len(pair[1])]
    if not found:
        return None
    worst = min(found, key=lambda part: part.p)
    return replace(worst, p=min(1.0, len(found) * worst.p))


def _gap(probe: Probe, test: Probe, seed: int) -> Gap:
    """Of one probe. Answers are compared within a class, so that more images of a difficult class are no difference."""
    split, truth = np.repeat([True, False], [len(probe), len(test)]), np.concatenate([probe.truth, test.truth])
    right = np.concatenate([probe.right, test.right]).astype(np.float64)
    odds = np.concatenate([log_odds(part.logits)[np.arange(len(part)), part.truth] for part in (probe, test)])
    group = np.concatenate([probe.group, test.group])
    values = np.stack([_within(right, truth), _within(odds, truth, ranked=True)], axis=1)
    chance = min(1.0, 2 * float(_p(values, split, group, seed).min()))
    aucs = [macro_auc(log_odds(part.logits), part.truth) for part in (probe, test)]
    return Gap(
        float(probe.right.mean()), float(test.right.mean()), aucs[0], aucs[1], len(test), len(set(test.group)), chance
    )


def judged(gaps: Mapping[tuple[str, str], Gap]) -> dict[tuple[str, str], Gap]:
    """The same with the verdict on each, which depends on how many there are."""
    adjusted = holm([found.p for found in gaps.values()])
    return {
        key: replace(found, unexplained=p < ALPHA and found.size >= LEAST)
        for (key, found), p in zip(gaps.items(), adjusted, strict=True)
    }


def _within(values: Values, truth: NDArray[np.int64], ranked: bool = False) -> Values:
    """(n,) values, or their ranks, less the mean of their class."""
    result = np.zeros(len(values))
    for c in np.unique(truth):
        own = truth == c
        part = rankdata(values[own]) / own.sum() if ranked else values[own]
        result[own] = part - part.mean()
    return result


def _p(values: Values, split: NDArray[np.bool_], group: NDArray[np.object_], seed: int) -> Values:
    """(k,) share of the deals of patients that put the probe as far above the test split as it is."""
    names, place = np.unique(group.astype(str), return_inverse=True)
    sums = np.zeros((len(names), values.shape[1] + 1))
    np.add.at(sums, place, np.column_stack([values, np.ones(len(values))]))
    probe = np.zeros(len(names), dtype=bool)
    probe[place[split]] = True
    found, rng = _ahead(probe[None], sums)[0], np.random.default_rng(seed)
    p = np.ones(values.shape[1])
    for deals in (FEW, MANY):
        beaten = np.zeros(values.shape[1])
        block = max(1, 2_000_000 // len(names))
        for start in range(0, deals, block):
            dealt = rng.permuted(np.tile(probe, (min(block, deals - start), 1)), axis=1)
            beaten += (_ahead(dealt, sums) >= found - 1e-12).sum(axis=0)
        p = (beaten + 1) / (deals + 1)
        if p.min() > 0.02:
            break
    return p


def _ahead(probe: NDArray[np.bool_], sums: Values) -> Values:
    """(B, k) mean of the probe's patients minus that of the others, for B deals (B, G)."""
    own, total = probe.astype(np.float64) @ sums, sums.sum(axis=0)
    rest = total - own
    ahead: Values = own[:, :-1] / np.maximum(own[:, -1:], 1) - rest[:, :-1] / np.maximum(rest[:, -1:], 1)
    return ahead
