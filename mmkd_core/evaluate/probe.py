"""``mmkd/linear-probe@2``: what a linear classifier finds in frozen image features, with 1, 10 and 100 % of the labels.

Labels are drawn by whole patients, each class at least once, with five seeds; all labels need no draw and are one run.
The spread over seeds says what the draw of labels does, the interval what the draw of test patients does; they are
reported apart.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from itertools import repeat

import numpy as np
from numpy.typing import NDArray

from mmkd_core.evaluate.classes import classification
from mmkd_core.evaluate.classifier import fit
from mmkd_core.evaluate.figures import Measured
from mmkd_core.evaluate.outcomes import Outcomes
from mmkd_core.statistics import GroupBootstrap
from mmkd_core.statistics.odds import NEVER

PROTOCOL = "mmkd/linear-probe@2"
FRACTIONS = (0.01, 0.1, 1.0)
SEEDS = 5


@dataclass(frozen=True, eq=False)
class Labelled:
    """n images of one split: features (n, D), and n labels, groups and ids."""

    features: NDArray[np.floating]
    label: NDArray[np.object_]
    group_id: NDArray[np.object_]
    sample_id: NDArray[np.object_]

    def __len__(self) -> int:
        return len(self.label)

    def take(self, index: NDArray[np.int64]) -> Labelled:
        """The images at ``index``."""
        return Labelled(self.features[index], self.label[index], self.group_id[index], self.sample_id[index])


def draws(seed: int) -> list[tuple[float, int]]:
    """Fraction of the labels and seed of each run; all labels need no draw and are one run."""
    return [(share, seed + number) for share in FRACTIONS for number in range(SEEDS if share < 1 else 1)]


def predict(train: Labelled, val: Labelled, test: Labelled, seed: int = 0) -> Outcomes:
    """Logits of the test images under every run (fraction x seed).

    Raises:
        DataError: the training images have fewer than two classes.
    """
    classes = sorted({str(name) for part in (train, val, test) for name in part.label})
    runs, logits = [], []
    for fraction, number in draws(seed):
        part = train.take(draw(train, fraction, number))
        found = fit(part.features, part.label, val.features, val.label, seed)
        whole = np.full((len(test), len(classes)), NEVER)
        whole[:, [classes.index(name) for name in found.classes]] = found.logits(test.features)
        logits.append(whole)
        runs.append(
            {
                "fraction": fraction,
                "seed": number,
                "rows": len(part),
                "C": found.strength,
                "converged": found.converged,
            }
        )
    truth = np.array([classes.index(str(name)) for name in test.label], np.int64)
    return Outcomes(
        PROTOCOL,
        {
            "sample_id": np.tile(test.sample_id, len(runs)),
            "group_id": np.tile(test.group_id, len(runs)),
            "run": np.repeat(np.arange(len(runs)), len(test)),
            "truth": np.tile(truth, len(runs)),
            "logits": np.concatenate(logits),
        },
        {"classes": classes, "runs": runs},
    )


def measure(outcomes: Outcomes, bootstrap: GroupBootstrap) -> list[Measured]:
    """Per fraction: classification figures as means over its seeds; the remark says how far the seeds differ."""

    def table(rows: NDArray[np.int64], part: str) -> list[Measured]:
        return classification(outcomes["logits"][rows], outcomes["truth"][rows], bootstrap.take(rows), part)

    return over_runs(outcomes, table)


def over_runs(outcomes: Outcomes, table: Callable[[NDArray[np.int64], str], list[Measured]]) -> list[Measured]:
    """Means over the seeds of each fraction of labels.

    Args:
        outcomes: with a column ``run`` and the fact ``runs``.
        table: the figures of the rows of one run, given the name of its fraction.
    """
    found, runs = [], outcomes.facts["runs"]
    for fraction in sorted({run["fraction"] for run in runs}):
        part = f"{fraction:.0%} of the labels"
        mine = [
            np.flatnonzero(outcomes["run"] == number) for number, run in enumerate(runs) if run["fraction"] == fraction
        ]
        with ThreadPoolExecutor(os.cpu_count()) as pool:  # running sums, for which numpy lets go of the interpreter
            tables = list(pool.map(table, mine, repeat(part)))
        for same in zip(*tables, strict=True):
            values = [one.estimate for one in same if one.estimate is not None]
            estimate = float(np.mean(values)) if len(values) == len(same) else None
            draws = np.mean([one.draws for one in same], axis=0)
            seeds = f"SD over {len(same)} draws of labels {np.std(values, ddof=1):.3f}" if len(values) > 1 else ""
            found.append(replace(same[0], estimate=estimate, draws=draws, remark=seeds))
    return found


def draw(train: Labelled, fraction: float, seed: int) -> NDArray[np.int64]:
    """Rows (ascending) of whole groups that make up ``fraction`` of the images, each class at least once."""
    classes = sorted({str(label) for label in train.label})
    return draw_groups(train.group_id, [train.label.astype(str) == name for name in classes], fraction, seed)


def draw_groups(
    group_id: NDArray[np.object_], kinds: Sequence[NDArray[np.bool_]], fraction: float, seed: int
) -> NDArray[np.int64]:
    """Rows (ascending) of whole groups that make up ``fraction`` of the n images, at least one row of each kind.

    Args:
        group_id: (n,).
        kinds: for each kind (n,) which rows are of it, at least one.
    """
    if fraction >= 1:
        return np.arange(len(group_id))
    groups, member = np.unique(group_id.astype(str), return_inverse=True)
    order = np.random.default_rng([seed, 43]).permutation(len(groups))
    sizes = np.bincount(member)[order]
    chosen = set(order[: 1 + int(np.searchsorted(np.cumsum(sizes), fraction * len(group_id)))].tolist())
    place = np.empty(len(groups), np.int64)
    place[order] = np.arange(len(groups))
    for of_kind in kinds:
        holders = member[of_kind]
        if not chosen & set(holders.tolist()):
            chosen.add(int(holders[place[holders].argmin()]))
    return np.flatnonzero(np.isin(member, sorted(chosen)))
