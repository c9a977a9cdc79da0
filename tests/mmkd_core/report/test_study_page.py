"""The page of a study, on numbers that can be checked by hand."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from typing import Any

import pytest

from mmkd_core.report.study_page import render_study, verdict
from mmkd_core.study.findings import Run, Spread

CELLS = {"seen": "", "without-ct": "no training image of ct"}
FACTS: dict[str, Any] = {"name": "holdout-ct", "question": "Is <ct> needed?", "cells": CELLS, "asked": list("abcdef")}


def run(cell: str, seed: int, ct: float, xray: float) -> Run:
    return Run(cell, seed, {"ct": ct, "xray": xray}, {"trusted pairs": 1200.0})


RUNS = [
    run("without-ct", 0, 0.60, 0.90),
    run("seen", 0, 0.80, 0.90),
    run("seen", 1, 0.82, 0.91),
    run("without-ct", 1, 0.63, 0.92),
]


def text(html: str) -> str:
    return " ".join(" ".join(ET.fromstring(html).itertext()).split())


def test_says_what_was_asked_what_differs_and_what_was_found() -> None:
    page = text(render_study(FACTS, RUNS))
    assert "4 of 6 runs" in page
    assert "not finished" in page
    assert "Is <ct> needed?" in page
    assert "With 2 seeds, seen reaches 85.8" in page
    assert "no training image of ct" in page
    assert "mmkd study holdout ct --seeds 3" in page
    # means of seeds: (0.85 + 0.865) / 2 and (0.75 + 0.775) / 2; differences -0.1 and -0.09, t(1) = 12.706
    assert "without-ct no training image of ct 76.2" in page
    assert "−9.5 [−15.9, −3.1]" in page
    assert "worse" in page


def test_the_first_cell_is_the_one_of_the_study_whatever_finished_first() -> None:
    rows = [row for row in ET.fromstring(render_study(FACTS, RUNS)).iter("tr") if row.find("td") is not None]
    assert ["".join(row.find("th").itertext()) for row in rows][:1] == ["seen"]  # type: ignore[union-attr]


def test_one_cell_has_no_figure_of_changes_and_one_seed_no_interval() -> None:
    assert "Against" not in text(render_study(FACTS, RUNS[1:2]))
    page = text(render_study(FACTS, RUNS[:2]))
    assert "One seed has no interval: a change may be chance." in page
    assert "−10.0 [" not in page
    assert "−10.0" in page


@pytest.mark.parametrize(
    ("change", "word"),
    [
        (Spread(0.1, 0.05, 0.15), "BETTER"),
        (Spread(-0.1, -0.15, -0.05), "WORSE"),
        (Spread(0.1, -0.05, 0.25), "OPEN"),
        (Spread(0.1, None, None), ""),
    ],
)
def test_a_change_is_told_apart_by_its_interval(change: Spread, word: str) -> None:
    assert verdict(change) == word
