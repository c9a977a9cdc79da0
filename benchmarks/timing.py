"""Timing ways to the same thing side by side, and the one shape in which every figure is reported.

Ways are timed in turn, and their order turns with the rounds, so that a busy machine disturbs them alike. A figure is
the median of the ratios of the rounds, its spread their quartiles.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

Figure = dict[str, object]
Seconds = dict[str, np.ndarray]


def interleaved(
    ways: Mapping[str, Callable[[Any], object]],
    inputs: Callable[[int], Any],
    rounds: int,
    *,
    warm: int = 2,
    clock: Callable[[], float] = time.perf_counter,
    budget: float = float("inf"),
    check: Callable[[list[Any]], None] = lambda results: None,
) -> Seconds:
    """Seconds of each way and round.

    Args:
        ways: called with the input of the round.
        inputs: from the number of the round to its input.
        rounds: how many are timed.
        warm: rounds before them that are not timed, and whose results go to ``check``.
        clock: ``time.thread_time`` for what computes in one thread: another process that takes the processor away does
            not count then.
        budget: seconds by the wall after which no further round is begun; at least one is timed.
        check: must raise if the results of the ways differ.
    """
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    names, began = list(ways), time.perf_counter()
    for turn in range(rounds + warm):
        if turn > warm and time.perf_counter() - began > budget:
            break
        given = inputs(turn)
        results = []
        for name in names[turn % len(names) :] + names[: turn % len(names)]:
            start = clock()
            got = ways[name](given)
            spent = clock() - start
            if turn < warm:
                results.append(got)
            else:
                seconds[name].append(spent)
        if turn < warm:
            check(results)
    return {name: np.array(values) for name, values in seconds.items()}


def ratio(name: str, over: np.ndarray, under: np.ndarray, against: str) -> Figure:
    """A figure: the median of the ratios of the rounds."""
    low, middle, high = np.percentile(over / under, [25, 50, 75])
    return figure(name, float(middle), "x", against, [round(float(low), 4), round(float(high), 4)])


def figure(name: str, value: float, unit: str, against: str, spread: object = None) -> Figure:
    """A figure that is counted, or measured otherwise."""
    return {"name": name, "value": round(value, 4), "unit": unit, "against": against, "spread": spread}
