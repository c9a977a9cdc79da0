"""Writes ``report.html``: the template, the figures and the tables put together in one file that needs nothing else.

The page has no script and a content security policy that forbids every request. Names come from plugins and are
escaped. The same summary and curves give the same bytes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from markupsafe import Markup

from mmkd_core.errors import DataError
from mmkd_core.report import figures, html
from mmkd_core.report.view import View

SCHEMA = "mmkd.summary/v1"
_REQUIRED = ("name", "data", "teachers", "releases")

Curves = Mapping[str, Sequence[Mapping[str, Any]]]


def write_report(summary: Mapping[str, Any], curves: Curves, out: Path) -> Path:
    """Write the report of a run to ``out`` (a file), whole or not at all, and return its path.

    Args:
        summary: what ``summary.json`` holds (schema ``mmkd.summary/v1``); AUCs and changes are fractions.
            ``stage_1``, ``integration``, ``trust``, ``store`` and ``seconds`` may be missing.
        curves: per phase ("pretrain", "distill", "incremental") one row per step: "step" and the loss terms.
        out: the file; its folder is made if it is not there.

    Raises:
        DataError: the summary is of another version or lacks a part that no report can do without.
        WorkspaceError: the file cannot be written.
    """
    return html.write(render(summary, curves), out, "the report")


def render(summary: Mapping[str, Any], curves: Curves) -> str:
    """The report as a string of HTML that is also well-formed XML."""
    if summary.get("schema") != SCHEMA:
        raise DataError(
            f"the summary has schema {summary.get('schema')!r}, this mmkd reads {SCHEMA!r}",
            where="summary.json",
            next="Write it again with this version.",
        )
    if missing := [key for key in _REQUIRED if key not in summary]:
        raise DataError(f"the summary has no {', '.join(missing)}", where="summary.json", next="Write it again.")
    view = View(html.cleaned(summary))
    return html.render(
        "report.html.j2",
        v=view,
        figures={name: Markup(figure) for name, figure in _figures(view).items()},
        phases=_phases(html.cleaned(curves)),
    )


def _figures(view: View) -> dict[str, str]:
    if not view.measured:
        return {}
    drawn = {"heat": figures.heat_map(view.heat_teachers, view.heat_students, view.domains, uid="heat")}
    for name, width in (("wide", 880), ("narrow", 430)):
        if view.dots:
            drawn[f"dots_{name}"] = figures.dot_plot(
                view.dots, view.before_name, view.after_name, uid=f"dots-{name}", width=width
            )
        if view.forest:
            drawn[f"forest_{name}"] = figures.forest_plot(
                view.forest, view.forest_mean, view.margin, uid=f"forest-{name}", width=width
            )
    return drawn


_PHASES = {
    "pretrain": "Stage 1: image-text pretraining",
    "distill": "Stage 2: distillation from the first teachers",
    "incremental": "Incremental distillation of the new teacher",
}
_TERMS = {
    "loss": "total",
    "clip": "CLIP (captions)",
    "fd": "FD (features)",
    "icl": "ICL (contrast)",
    "relation": "relation (texts)",
}


def _phases(curves: Curves) -> list[dict[str, Any]]:
    """Per phase its panels; a term that only repeats the total is left out."""
    phases: list[dict[str, Any]] = []
    for key in [*(k for k in _PHASES if k in curves), *sorted(set(curves) - set(_PHASES))]:
        rows = curves[key]
        if not rows:
            continue
        found = dict.fromkeys(name for row in rows for name in row if name != "step")
        terms = [*(name for name in _TERMS if name in found), *(name for name in found if name not in _TERMS)]
        series = {name: [row.get(name) for row in rows] for name in terms}
        terms = [name for name in terms if name == "loss" or series[name] != series.get("loss")]
        steps = [int(row.get("step", i + 1)) for i, row in enumerate(rows)]
        panels = [
            Markup(figures.loss_panel(_TERMS.get(name, name), steps, series[name], uid=f"loss-{len(phases)}-{i}"))
            for i, name in enumerate(terms)
        ]
        phases.append({"title": _PHASES.get(key, key), "steps": steps[-1], "panels": panels})
    return phases
