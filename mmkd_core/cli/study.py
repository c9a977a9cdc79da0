"""`mmkd study`: the experiments that readers of the paper ask for, one command each."""

from typing import Annotated

import typer

from mmkd_core.cli.options import HERE, Debug, Json, Root
from mmkd_core.cli.output import Output, points, span

app = typer.Typer()


@app.command(epilog="Example:  mmkd study threshold --seeds 3")
def study(
    name: Annotated[
        str, typer.Argument(metavar="NAME", help="losses, staging, teachers, holdout, threshold, balance or order.")
    ],
    domain: Annotated[str | None, typer.Argument(metavar="DOMAIN", help="For holdout: never seen in training.")] = None,
    seeds: Annotated[int, typer.Option(min=1, help="Runs per cell; one has no interval.")] = 3,
    root: Root = HERE,
    json: Json = False,
    debug: Debug = False,
) -> None:
    """Run an experiment in workspaces of its own, resumably, and say in plain words what it found."""
    from mmkd_core.cli.progress import watch
    from mmkd_core.integrate.studying import run_study
    from mmkd_core.integrate.workspace import Workspace

    out, workspace = Output(json, root), Workspace.open(root)
    first = workspace.config.seed
    with workspace.writing():
        found = run_study(workspace, name, range(first, first + seeds), domain, watch())
    counts = list(found.table[0].counts)
    rows = []
    for row in found.table:
        change = (points(row.change.mean, True), span(row.change.lower, row.change.upper, True)) if row.change else ()
        numbers = [f"{row.counts[count]:,.4g}" for count in counts]
        rows.append((row.cell, points(row.mean.mean), *(change or ("", "")), len(row.seeds), *numbers))
    out.table(("cell", "mean AUC", "change", "95 % interval", "seeds", *counts), rows)
    out.say(f"\n{found.words}")
    facts = {"study": name, "question": found.study.question, "words": found.words}
    out.finish(
        facts | {"rows": [row.to_json() for row in found.table]}, wrote=found.files, next=f"mmkd report {found.name}"
    )
