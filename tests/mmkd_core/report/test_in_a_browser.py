"""The pages in headless Chromium: nothing in the console, nothing asked for, readable at any width, usable by keyboard.

``MMKD_SCREENSHOTS=FOLDER pytest tests/mmkd_core/report/test_in_a_browser.py`` keeps a picture of each page in two
widths and both schemes, to be looked at.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import test_audit_page
import test_trust_page
from chromium import Chromium, executable

from mmkd_core.audit.chain import chain
from mmkd_core.audit.evidence import Evidence
from mmkd_core.evaluate.predictions import DomainPredictions, Predictions
from mmkd_core.report.audit_page import render_audit
from mmkd_core.report.chain_page import render_chain
from mmkd_core.report.page import render
from mmkd_core.report.study_page import render_study
from mmkd_core.report.trust_page import render_trust
from mmkd_core.study.findings import Run

NARROW, WIDE = 380, 1280
FOCUSED = """(() => {
  const found = document.activeElement, style = getComputedStyle(found), box = found.getBoundingClientRect();
  return {name: found.getAttribute("aria-label") || found.textContent.trim(), tag: found.tagName,
          outlined: style.outlineStyle !== "none" && parseFloat(style.outlineWidth) >= 2,
          seen: box.bottom > 0 && box.top < innerHeight && box.right > 0 && box.left < innerWidth}})()"""
REACHABLE = """[...document.querySelectorAll('a[href], summary, [tabindex="0"]')]
  .filter(element => element.tagName === "SUMMARY" || !element.closest("details:not([open])")).length"""
WORST_CONTRAST = """(() => {
  const parts = text => text.match(/[\\d.]+/g).map(Number);
  const light = ([r, g, b]) => [r, g, b].map(v => v / 255)
    .map(v => v <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4)
    .reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0);
  const behind = element => {
    for (let at = element; at; at = at.parentElement) {
      const colour = parts(getComputedStyle(at).backgroundColor);
      if (colour.length === 3 || colour[3] > 0) return colour;
    }
    return [255, 255, 255];
  };
  let worst = 21;
  const texts = "h1,h2,h3,p,td,th,a,summary,figcaption,caption span,dt,dd,footer,code";
  for (const element of document.querySelectorAll(texts)) {
    if (element.closest("svg") || !element.textContent.trim()) continue;
    const [a, b] = [light(parts(getComputedStyle(element).color)), light(behind(element))].sort((x, y) => y - x);
    worst = Math.min(worst, (a + 0.05) / (b + 0.05));
  }
  return worst;
})()"""


def study() -> str:
    cells = {"both": "", "fd": "distill.weights fd 1, icl 0", "only-a-teacher-with-a-long-name": "only phantom-radio"}
    levels = {"both": 0.9, "fd": 0.87, "only-a-teacher-with-a-long-name": 0.905}
    domains = {"xray": 0.03, "ct": 0.0, "ultrasound": -0.02, "dermatology": 0.01}
    runs = [
        Run(cell, seed, {d: level + shift + 0.004 * seed for d, shift in domains.items()}, {"trusted pairs": 562.0})
        for cell, level in levels.items()
        for seed in range(3)
    ]
    facts = {"name": "losses", "question": "What do FD and ICL bring?", "cells": cells, "asked": list(range(12))}
    return render_study(facts, runs)


def audit() -> str:
    facts = test_audit_page.facts()
    return render_audit(facts, dict.fromkeys((card["sample_id"] for card in facts["cards"]), test_audit_page.picture()))


def releases() -> str:
    truth = np.arange(60) % 2
    names, labels = (np.array(values, dtype=object) for values in ([f"s{i}" for i in range(60)], ["no", "yes"] * 30))
    evidence = {}
    for name, lost in (("0001", 0), ("0002", 6), ("0003", 3)):
        score = np.where(truth, 1.0, -1.0) * np.where(np.arange(60) < lost, -1, 1)
        scores = np.stack([-score, score], axis=1)
        part = DomainPredictions.build(names, names, labels, scores, ("no", "yes"))
        evidence[name] = Evidence(Predictions({"ct": part, "ultrasound": part}, "p"))
    return render_chain(chain(evidence).to_json())


def trust() -> str:
    return render_trust(test_trust_page.facts(sweep=test_trust_page.SWEEP, students=test_trust_page.STUDENTS))


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Chromium]:
    program = executable()
    if program is None:
        pytest.skip("no Chromium here: `apt install chromium`, or name one with MMKD_CHROMIUM")
    with Chromium(program, tmp_path_factory.mktemp("profile")) as opened:
        yield opened


@pytest.fixture(params=["release", "study", "audit", "chain", "trust"])
def page(request: pytest.FixtureRequest, summary: dict[str, Any], curves: Any, tmp_path: Path) -> Path:
    made: dict[str, Callable[[], str]] = {"study": study, "audit": audit, "chain": releases, "trust": trust}
    made["release"] = lambda: render(summary, curves)
    out = tmp_path / f"{request.param}.html"
    out.write_text(made[request.param](), encoding="utf-8")
    return out


def test_says_nothing_asks_for_nothing_and_fits_the_window(browser: Chromium, page: Path) -> None:
    for width in (NARROW, WIDE):
        for dark in (False, True):
            browser.open(page, width, dark)
            assert browser.complaints == []
            assert browser.requests == [page.absolute().as_uri()]
            assert browser.run("document.documentElement.scrollWidth") <= width, "the page scrolls sideways"
            assert browser.run(WORST_CONTRAST) >= 4.5, "WCAG AA for text of this size"
            luminance = sum(
                int(part) for part in browser.run("getComputedStyle(document.body).backgroundColor")[4:-1].split(",")
            )
            assert (luminance < 3 * 60) == dark
            if folder := os.environ.get("MMKD_SCREENSHOTS"):
                scheme = "dark" if dark else "light"
                browser.picture(Path(folder) / f"{page.stem}-{width}-{scheme}.png")


def test_tab_reaches_everything_and_enter_opens(browser: Chromium, page: Path) -> None:
    browser.open(page, WIDE, dark=False)
    reachable = browser.run(REACHABLE)
    stops = []
    for _ in range(reachable):
        browser.press("Tab", 9)
        stops.append(browser.run(FOCUSED))
    assert stops[0]["name"] == "Skip to the results"
    assert len({stop["name"] + stop["tag"] for stop in stops}) == reachable, "each once"
    assert all(stop["tag"] != "BODY" for stop in stops)
    assert all(stop["outlined"] and stop["seen"] for stop in stops)
    folded = browser.run("document.querySelectorAll('details').length")
    assert browser.run("document.querySelectorAll('details[open]').length") == 0
    if folded:
        browser.run("document.querySelector('summary').focus()")
        browser.press("Enter", 13)
        assert browser.run("document.querySelectorAll('details[open]').length") == 1


def test_is_printed_in_light_with_its_details_open(browser: Chromium, page: Path) -> None:
    browser.open(page, WIDE, dark=True)
    whole = browser.print()
    assert whole.startswith(b"%PDF")
    browser.ask(
        "Emulation.setEmulatedMedia", media="print", features=[{"name": "prefers-color-scheme", "value": "dark"}]
    )
    assert browser.run("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    tables = "[...document.querySelectorAll('details table')]"
    assert browser.run(f"{tables}.every(table => table.getBoundingClientRect().height > 40)")
