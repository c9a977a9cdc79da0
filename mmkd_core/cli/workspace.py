"""`mmkd init` and `mmkd report`: the workspace as a whole."""

from pathlib import Path
from typing import Annotated, Any

import typer

from mmkd_core.cli.options import HERE, TRUST, Debug, Json, Root, Rule
from mmkd_core.cli.output import Output, points

app = typer.Typer()


@app.command(epilog="Example:  mmkd init my-student --seed 1 --trust gain")
def init(
    folder: Annotated[Path | None, typer.Argument(metavar="DIR", help="New folder; here if left out.")] = None,
    name: Annotated[str | None, typer.Option(help="Name of the student.")] = None,
    seed: Annotated[int | None, typer.Option(min=0, max=2**32 - 1, help="Seed of everything that is drawn.")] = None,
    config: Annotated[Path | None, typer.Option(metavar="FILE", help="An mmkd.yaml to start from.")] = None,
    trust: Annotated[Rule | None, TRUST] = None,
    root: Root = HERE,
    json: Json = False,
    debug: Debug = False,
) -> None:
    """Make a workspace: mmkd.yaml with every setting, gate.yaml with what counts as forgetting, room for the rest."""
    from mmkd_core.audit.gate import GATE
    from mmkd_core.integrate.workspace import CONFIG, Config, Workspace, read_config

    root = folder or root
    settings: dict[str, Any] = read_config(config).model_dump(mode="json", by_alias=True) if config else {}
    trusted: dict[str, Any] = settings.setdefault("trust", {})
    if name is not None:
        settings["name"] = name
    if seed is not None:
        settings["seed"] = trusted["seed"] = seed
    if trust is not None:
        trusted["rule"] = trust.value
    workspace = Workspace.create(root, Config.model_validate(settings))
    facts = {"workspace": root.absolute(), "config": workspace.config}
    out = Output(json, root)
    out.say(f"images of your own: {out.command('mmkd data import PATH')}; synthetic ones: the next command")
    out.finish(facts, wrote=[root / CONFIG, root / GATE], next=out.following())


@app.command(epilog="Example:  mmkd report 0002")
def report(
    name: Annotated[
        str | None,
        typer.Argument(metavar="[RELEASE|STUDY]", help="Such as 0002, current or losses; the workspace if left out."),
    ] = None,
    root: Root = HERE,
    json: Json = False,
    debug: Debug = False,
) -> None:
    """Write the page of the workspace (report.html, with summary.json), of a release, or of a study."""
    from mmkd_core.cli.progress import watch
    from mmkd_core.integrate.summary import report_on, write_summary
    from mmkd_core.integrate.workspace import Workspace, read_json

    out = Output(json, root)
    workspace = Workspace.open(root)
    with workspace.writing():
        if name is None:
            summary, page = write_summary(workspace, watch())
            facts, wrote = read_json(summary), [page, summary]
        else:
            facts, page = report_on(workspace, name, watch())
            wrote = [page]
    if "rows" in facts:
        out.say(facts["words"])
    else:
        kinds = ("teachers", "releases")
        models = [(name, points(entry.get("mean_auc"))) for kind in kinds for name, entry in facts[kind].items()]
        out.table(("model", "mean AUC"), models)
    out.finish(facts, wrote=wrote, next=out.following())
