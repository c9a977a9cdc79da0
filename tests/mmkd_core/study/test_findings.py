"""The table, its intervals and the paragraph, on numbers that can be checked by hand."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from mmkd_core.study.findings import Run, Spread, in_words, markdown, rows


def runs(*table: tuple[str, list[float], list[float]]) -> list[Run]:
    """Cells with the AUC of two domains by seed."""
    return [
        Run(cell, seed, {"ct": ct, "xray": xray}, {"trusted pairs": 100.0})
        for cell, first, second in table
        for seed, (ct, xray) in enumerate(zip(first, second, strict=True))
    ]


BASE = ("base", [0.80, 0.82, 0.81], [0.70, 0.71, 0.69])
BETTER = ("better", [0.90, 0.93, 0.91], [0.69, 0.70, 0.68])
SAME = ("same", [0.84, 0.78, 0.82], [0.69, 0.72, 0.68])


def test_a_spread_is_that_of_a_t_test() -> None:
    values = [0.1, 0.13, 0.11]
    spread = Spread.of(values)
    low, high = stats.ttest_1samp(values, 0).confidence_interval(0.95)
    assert (spread.mean, spread.lower, spread.upper) == pytest.approx((np.mean(values), low, high))
    assert spread.decided
    assert Spread.of([0.1]) == Spread(0.1, None, None)
    assert not Spread.of([0.1]).decided


def test_changes_are_paired_by_seed() -> None:
    base, better, same = rows(runs(BASE, BETTER, SAME), "base")
    assert base.change is None
    assert base.mean.mean == pytest.approx(0.755)
    assert better.change is not None
    assert better.change.mean == pytest.approx(np.mean([0.045, 0.05, 0.045]))
    assert better.change.decided
    assert better.changes["xray"].mean == pytest.approx(-0.01)
    assert same.change is not None
    assert not same.change.decided
    assert better.counts == {"trusted pairs": 100.0}
    assert [row.change for row in rows(runs(BETTER, SAME), "base")] == [None, None]  # it is not finished yet


def test_the_paragraph_says_what_was_found_and_what_was_not() -> None:
    words = in_words("Does it help?", rows(runs(BASE, BETTER, SAME), "base"))
    assert words.startswith("Does it help? With 3 seeds, base reaches 75.5 (")
    assert "better is 4.7 (3.9 to 5.4) points better." in words
    assert "No difference was found for same (+0.0): within what 3 seeds can tell apart." in words
    assert "Against the mean, better is 1.0 (1.0 to 1.0) points worse in xray." in words
    one = in_words("?", rows([run for run in runs(BASE, BETTER) if run.seed == 0], "base"))
    assert "With 1 seed, base reaches 75.0." in one
    assert "better (+4.5): one seed has no interval" in one


def test_the_table_is_markdown_with_a_line_per_cell() -> None:
    text = markdown("Does it help?", rows(runs(BASE, BETTER), "base"))
    lines = [line for line in text.splitlines() if line.startswith("| ")]
    assert lines[0] == "| cell | mean AUC | against the first | ct | xray | trusted pairs |"
    assert lines[2].startswith("| base | 75.5 (")
    assert lines[3].endswith("| 91.3 | 69.0 | 100 |")
