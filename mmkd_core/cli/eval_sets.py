"""`mmkd eval set` and `mmkd compare`: the six tasks on evaluation sets, and two models side by side."""

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mmkd_core.cli.options import HERE, Debug, Json, Root
from mmkd_core.cli.output import Output, points, span

if TYPE_CHECKING:
    from mmkd_core.evaluate.figures import Figure

app = typer.Typer()
compare_app = typer.Typer()

Model = Annotated[str, typer.Argument(metavar="MODEL", help="A teacher, a release (0001), current, stage-1, ensemble.")]
Task = Annotated[str | None, typer.Option(metavar="NAME", help="One task; all that the set has if left out.")]


@app.command("set", epilog="Example:  mmkd eval set evals/phantom-xray current --task diagnosis")
def evaluate_set(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="An evaluation set: task.yaml and a manifest.")],
    model: Model,
    task: Task = None,
    root: Root = HERE,
    json: Json = False,
    debug: Debug = False,
) -> None:
    """Evaluate a frozen model in the tasks of a set: zero-shot, probe, retrieval, VQA, survival, diagnosis."""
    from mmkd_core.cli.progress import watch
    from mmkd_core.data.eval_sets import EvalSet
    from mmkd_core.errors import MmkdError
    from mmkd_core.evaluate.figures import score
    from mmkd_core.evaluate.tasks import measure_of
    from mmkd_core.integrate.evaluating import evaluate_set as run
    from mmkd_core.integrate.workspace import Workspace

    out = Output(json, root)
    workspace, found = Workspace.open(root), EvalSet.load(folder)
    gate, figures, wrote = workspace.gate(), [], []
    failed: dict[str, MmkdError] = {}
    for name in (task,) if task else found.task.tasks:
        try:
            outcomes, paths = run(workspace, found, model, name, watch())
        except MmkdError as error:
            failed[name] = error  # the other tasks' figures are not lost for it
            continue
        wrote += paths
        for one in outcomes:
            figures += score(one, measure_of(one), gate.resamples, gate.seed)
    if not wrote:
        raise next(iter(failed.values()))
    _table(out, figures)
    for name, reason in failed.items():
        out.say(f"{name} was not done: {reason}")
    facts = {"model": model, "set": found.task.name, "figures": [figure.to_json() for figure in figures]}
    told = {name: str(error) for name, error in failed.items()}
    out.finish({**facts, "failed": told}, wrote=wrote, next=f"mmkd compare {shlex.quote(str(folder))} {model} OTHER")
    if failed:
        raise typer.Exit(2)


@compare_app.command(epilog="Example:  mmkd compare evals/phantom-xray 0002 0001")
def compare(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="The evaluation set that both were evaluated on.")],
    first: Annotated[str, typer.Argument(metavar="MODEL", help="The one.")],
    second: Annotated[str, typer.Argument(metavar="OTHER", help="The other.")],
    task: Task = None,
    root: Root = HERE,
    json: Json = False,
    debug: Debug = False,
) -> None:
    """Set two models side by side: MODEL minus OTHER on the same samples, with paired intervals."""
    from mmkd_core.data.eval_sets import EvalSet
    from mmkd_core.evaluate.figures import compare as paired
    from mmkd_core.evaluate.tasks import measure_of
    from mmkd_core.integrate.evaluations import kept_outcomes
    from mmkd_core.integrate.workspace import Workspace

    out = Output(json, root)
    workspace, found = Workspace.open(root), EvalSet.load(folder)
    gate, figures = workspace.gate(), []
    for one, other in kept_outcomes(workspace, found, first, second, task):
        figures += paired(one, other, measure_of(one), gate.resamples, gate.seed)
    _table(out, figures, sign=True)
    facts = {"first": first, "second": second, "set": found.task.name}
    out.finish(facts | {"figures": [figure.to_json() for figure in figures]}, next=out.following())


def _table(out: Output, figures: "list[Figure]", sign: bool = False) -> None:
    rows = []
    for figure in figures:
        found = figure.interval
        cells = (points(found.estimate, sign), span(found.lower, found.upper, sign)) if found else ("-", "-")
        groups = found.groups if found else "-"
        rows.append((figure.protocol, figure.part, figure.metric, *cells, groups, _status(figure, sign)))
    out.table(("protocol", "over", "metric", "points", "95 % interval", "patients", "remark"), rows)


def _status(figure: "Figure", sign: bool) -> str:
    if figure.status != "ok" or figure.interval is None:
        return figure.status
    if sign and (figure.interval.lower > 0 or figure.interval.upper < 0):
        return "better" if (figure.interval.lower > 0) != figure.lower_is_better else "worse"
    guess = f"by chance {points(figure.chance)}" if figure.chance is not None else ""
    remarks = ["lower is better" if figure.lower_is_better and not sign else "", figure.remark, guess]
    return "; ".join(remark for remark in remarks if remark)
