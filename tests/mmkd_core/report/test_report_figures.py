from __future__ import annotations

import re
import xml.etree.ElementTree as ET

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mmkd_core.report import figures, svg, words
from mmkd_core.report.curves import smooth
from mmkd_core.report.figures import DotRow, ForestRow, HeatRow


def _nodes(figure: str, tag: str, class_: str) -> list[ET.Element]:
    found = (n for n in ET.fromstring(figure).iter(f"{{http://www.w3.org/2000/svg}}{tag}"))
    return [n for n in found if set(class_.split()) <= set((n.get("class") or "").split())]


def _luminance(rgb: tuple[float, float, float]) -> float:
    """WCAG 2.2, relative luminance of sRGB in 0..1."""
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in rgb]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def _rgb(colour: str) -> tuple[float, float, float]:
    r, g, b = (int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5))
    return r, g, b


def _contrast(one: tuple[float, float, float], other: tuple[float, float, float]) -> float:
    high, low = sorted((_luminance(one), _luminance(other)), reverse=True)
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("colours", [svg.LIGHT, svg.DARK], ids=["light", "dark"])
def test_numbers_in_cells_can_be_read_in_both_schemes(colours: dict[str, str]) -> None:
    for auc in (i / 100 for i in range(101)):
        opacity = figures.cell_opacity(auc)
        cell, paper = _rgb(colours["cell" if auc >= 0.5 else "cell-low"]), _rgb(colours["paper"])
        mixed = tuple(opacity * c + (1 - opacity) * p for c, p in zip(cell, paper, strict=True))
        text = _rgb(colours["cell-ink"])
        assert _contrast(mixed, text) >= 4.5  # type: ignore[arg-type]


@pytest.mark.parametrize("colours", [svg.LIGHT, svg.DARK], ids=["light", "dark"])
@pytest.mark.parametrize("name", ["ink", "muted", "accent", "pass", "fail", "unsure"])
def test_text_colours_can_be_read_in_both_schemes(colours: dict[str, str], name: str) -> None:
    assert _contrast(_rgb(colours[name]), _rgb(colours["paper"])) >= 4.5


def test_light_and_dark_name_the_same_colours() -> None:
    assert set(svg.LIGHT) == set(svg.DARK)
    used = set(re.findall(r"var\(--([a-z-]+)\)", svg.FIGURE_CSS))
    assert used <= set(svg.LIGHT)


def test_heat_map_marks_whole_and_partial_trust_differently() -> None:
    trust = {"ct": (600, 600), "mri": (72, 600), "oct": (0, 600)}
    rows = [HeatRow("a", {"ct": 0.95, "mri": 0.8, "oct": 0.2, "xray": None}, 0.65, trust)]
    figure = figures.heat_map(rows, [HeatRow("release 0001", {"ct": 0.9}, 0.9)], ["ct", "mri", "oct", "xray"], uid="h")
    outlines = _nodes(figure, "rect", "trust")
    assert [("part" in (o.get("class") or "")) for o in outlines] == [False, True]
    texts = [n.text for n in _nodes(figure, "text", "mid")]
    assert texts.count("✓ all") == 1
    assert texts.count("12 %") == 1
    assert len(_nodes(figure, "rect", "cell low")) == 1
    assert len(_nodes(figure, "rect", "empty")) == 4
    assert [n.text for n in _nodes(figure, "text", "bold on-cell")] == ["95.0", "80.0", "20.0"]


def test_dot_plot_places_values_on_its_own_ticks() -> None:
    row = DotRow("ct", 0.6, (0.55, 0.65), 0.8, (0.75, 0.85), 0.7)
    figure = figures.dot_plot([row], "before", "after", uid="d")
    ticks = {n.text: float(n.get("x", "")) for n in _nodes(figure, "text", "head mid")}
    rings, dots = (_nodes(figure, "circle", kind)[1:] for kind in ("before", "after"))  # the first is the legend's
    assert float(rings[0].get("cx", "")) == pytest.approx(ticks["60"], abs=0.01)
    assert float(dots[0].get("cx", "")) == pytest.approx(ticks["80"], abs=0.01)
    bar = _nodes(figure, "line", "after")[1]
    assert float(bar.get("x1", "")) == pytest.approx((ticks["70"] + ticks["80"]) / 2, abs=0.02)
    assert "50 chance" in ticks


def test_dot_plot_without_a_before_shows_no_change() -> None:
    figure = figures.dot_plot([DotRow("ct", None, None, 0.8, None, None)], None, "release 0001", uid="d")
    texts = [n.text for n in _nodes(figure, "text", "")]
    assert not {"before", "change"} & set(texts)
    assert "–" in texts  # of the best teacher
    assert not _nodes(figure, "circle", "before")


def _forest(name: str, delta: float, lower: float, upper: float, verdict: str) -> ForestRow:
    return ForestRow(name, delta, lower, upper, 200, 80, verdict)


def test_forest_plot_draws_verdicts_as_shapes_and_runs_large_gains_off_the_edge() -> None:
    rows = [
        _forest("ct", 0.001, -0.01, 0.012, "PASS"),
        _forest("mri", -0.05, -0.07, -0.03, "FAIL"),
        _forest("oct", -0.01, -0.03, 0.01, "INCONCLUSIVE"),
        _forest("xray", 0.4, 0.3, 0.5, "PASS"),
    ]
    figure = figures.forest_plot(rows, None, 0.02, uid="f")
    assert len(_nodes(figure, "rect", "pass")) == 1
    assert len(_nodes(figure, "rect", "unsure hollow")) == 1
    assert len(_nodes(figure, "path", "fail")) == 1
    assert len(_nodes(figure, "path", "pass")) == 1  # the arrow of xray
    assert [n.text for n in _nodes(figure, "text", "bold")] == ["pass", "fail", "inconclusive", "pass"]
    limit = float(_nodes(figure, "line", "limit")[0].get("x1", ""))
    failed = [float(n.get("x2", "")) for n in _nodes(figure, "line", "fail")]
    assert max(failed) < limit
    passed = min(float(n.get("x1", "")) for n in _nodes(figure, "line", "pass"))
    assert passed > limit


def test_loss_panel_leaves_out_what_is_not_finite_and_uses_logarithms_for_a_wide_span() -> None:
    values = [100.0, None, 50.0, float("nan"), 10.0, 1.0, float("inf"), 0.1, 0.01]
    figure = figures.loss_panel("fd", range(1, 10), values, uid="l")
    assert "nan" not in figure
    assert "inf" not in figure
    assert (_nodes(figure, "text", "small")[0].text or "").endswith(" log")
    assert _nodes(figure, "path", "raw")[0].get("d", "").count("L") == 5
    assert "no values" in figures.loss_panel("fd", [1], [None], uid="l")


def test_long_curves_are_thinned_but_keep_their_spikes() -> None:
    values: list[float | None] = [1.0] * 20_000
    values[12_345] = 9.0
    figure = figures.loss_panel("fd", range(20_000), values, uid="l")
    assert len(figure) < 20_000
    tops = [float(y) for y in re.findall(r"[ML][\d.]+ ([\d.]+)", _nodes(figure, "path", "raw")[0].get("d", ""))]
    assert min(tops) < 45
    assert sorted(tops)[1] > 120


def test_standalone_holds_its_colours_and_is_well_formed() -> None:
    figure = svg.standalone(figures.loss_panel("fd", [1, 2], [2.0, 1.0], uid="l"))
    assert "prefers-color-scheme:dark" in figure
    assert ET.fromstring(figure).tag == "{http://www.w3.org/2000/svg}svg"


@settings(deadline=None)
@given(st.text(), st.floats(width=32), st.one_of(st.none(), st.floats(0, 1)), st.integers(0, 10), st.integers(0, 10))
def test_any_name_and_any_number_gives_well_formed_figures(
    name: str, wild: float, auc: float | None, some: int, more: int
) -> None:
    pair = None if auc is None else (auc / 2, auc)
    drawn = [
        figures.heat_map([HeatRow(name, {name: auc}, wild, {name: (some, some + more)})], [], [name], uid="a"),
        figures.dot_plot([DotRow(name, auc, pair, auc, None, None)], name, name, uid="b"),
        figures.dot_plot([DotRow(name, auc, pair, auc, None, None)], None, name, uid="b", width=430),
        figures.forest_plot([ForestRow(name, wild, wild, auc, some, None, name)], None, 0.02, uid="c"),
        figures.loss_panel(name, [0, 1, 2], [wild, auc, wild], uid="d"),
    ]
    for figure in drawn:
        ET.fromstring(figure.encode("utf-8"))
        assert not re.search(r'"(nan|inf|-inf)"', figure)


@settings(deadline=None)
@given(st.floats(-1e6, 1e6), st.floats(1e-3, 1e6), st.integers(2, 8))
def test_ticks_lie_inside_the_axis_in_order(low: float, span: float, about: int) -> None:
    axis = svg.Axis(low, low + span, 0, 100)
    ticks = axis.ticks(about)
    assert 1 <= len(ticks) <= about + 2
    assert ticks == sorted(set(ticks))
    slack = 1e-6 * (abs(low) + span)
    assert all(low - slack <= tick <= low + span + slack for tick in ticks)


def test_running_mean_is_exact_on_a_constant_and_weighs_by_half_life() -> None:
    assert smooth([2.0] * 100) == pytest.approx([2.0] * 100)
    # Half-life of one step: weights 1, 1/2 from the newest back.
    assert smooth([3.0, 0.0]) == pytest.approx([3.0, 1.0])


def test_words() -> None:
    assert [words.points(v) for v in (0.8344, 1, None, float("nan"))] == ["83.4", "100.0", "–", "–"]
    assert [words.signed(v) for v in (0.034, -0.0021, 0.0, -0.0001, None)] == ["+3.4", "−0.2", "0.0", "0.0", "–"]
    assert [words.share(a, b) for a, b in ((1, 600), (599, 600), (0, 5), (5, 5), (149, 1334), (0, 0))] == [
        "<1 %", ">99 %", "0 %", "100 %", "11 %", "–",
    ]  # fmt: skip
    assert [words.duration(s) for s in (0.44, 9.96, 42, 65, 3599.7, 7800, None)] == [
        "0.4 s", "10 s", "42 s", "1 min 05 s", "1 h 00 min", "2 h 10 min", "–",
    ]  # fmt: skip
    assert [words.amount(b) for b in (512, 1900, 999_600, 150_000_000, 2.5e15, None)] == [
        "512 B", "1.9 kB", "1.0 MB", "150 MB", "2500.0 TB", "–",
    ]  # fmt: skip
    assert words.between([0.781, 0.826]) == "78.1 to 82.6"
    assert words.percent(0.9125) == "91.2 %"
