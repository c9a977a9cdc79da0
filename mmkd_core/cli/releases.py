"""`mmkd releases`: the student's past and present."""

from typing import Annotated, Any

import typer

from mmkd_core.cli.options import HERE, Because, Debug, Json, Root, check_reason
from mmkd_core.cli.output import Output, points

app = typer.Typer(help="List, show and roll back releases of the student.", no_args_is_help=True)

Id = Annotated[str, typer.Argument(metavar="ID", help="Number of the release, such as 0001.")]


@app.command("list", epilog="Example:  mmkd releases list")
def list_(root: Root = HERE, json: Json = False, debug: Debug = False) -> None:
    """Show all releases, oldest first, which one is in use, and which ones are damaged (exit code 2)."""
    from mmkd_core.integrate import history, releases
    from mmkd_core.integrate.using import standing
    from mmkd_core.integrate.workspace import Workspace

    out = Output(json, root)
    workspace = Workspace.open(root)
    current, (found, damaged) = releases.pointed_at(workspace), releases.sorted_out(workspace)
    told, log = {r.id: standing(workspace, r) for r in found}, history.entries(workspace)
    forced = {entry.release for entry in log if history.WAYS[entry.way].forced}
    out.table(
        ("release", "in use", "parent", "audit", "by force", "recipe", "steps", "teachers"),
        [
            (
                r.id,
                "yes" if r.id == current else "",
                r.parent,
                told[r.id],
                "yes" if r.id in forced else "",
                r.facts["recipe"],
                r.facts["steps"],
                ", ".join(r.teachers),
            )
            for r in found
        ]
        + [(name, "yes" if name == current else "", None, "damaged", "", None, None, "") for name in damaged],
    )
    facts = [
        {"id": r.id, "current": r.id == current, "parent": r.parent, "teachers": r.teachers}
        | {"audit": told[r.id], "log": [entry for entry in log if entry.release == r.id]}
        | {"recipe": r.facts["recipe"], "steps": r.facts["steps"], "license": r.facts["license"]["weights"]}
        for r in found
    ]
    whole = {"releases": facts, "current": current, "damaged": {name: str(why) for name, why in damaged.items()}}
    out.finish(whole, next=out.following())
    for error in damaged.values():  # after the list, which leads past it; a script must not take it for a healthy one
        raise error


@app.command(epilog="Example:  mmkd releases show 0001")
def show(release: Id, root: Root = HERE, json: Json = False, debug: Debug = False) -> None:
    """Show one release: what it learnt, from whom, and how good it is; its files are checked against their hashes."""
    from mmkd_core.evaluate.metrics import METRICS
    from mmkd_core.evaluate.predictions import Predictions
    from mmkd_core.evaluate.summary import SHOWN
    from mmkd_core.integrate import history, releases
    from mmkd_core.integrate.using import standing
    from mmkd_core.integrate.workspace import Workspace

    out = Output(json, root)
    workspace = Workspace.open(root)
    found = releases.verify(releases.release(workspace, release))
    log = history.entries(workspace, found.id)
    predictions = Predictions.load(found.predictions)
    facts = {key: value for key, value in found.facts.items() if key != "files"}
    measured = {name: {d: METRICS[name].estimate(p) for d, p in predictions.domains.items()} for name in SHOWN}
    shown = ("parent", "recipe", "steps", "seconds", "replayed")
    out.table(
        ("field", "value"),
        [
            *((key, facts[key]) for key in shown),
            ("licence", _licence(facts)),
            ("teachers", ", ".join(found.teachers)),
            ("audit", standing(workspace, found)),
            *(("log", entry.sentence) for entry in log),
            ("mean AUC", points(predictions.mean_auc())),
            *((f"{METRICS[name].title} {d}", points(value)) for name in SHOWN for d, value in measured[name].items()),
        ],
    )
    whole = {**facts, "audit": standing(workspace, found), "log": log, "folder": found.folder}
    whole |= {**measured, "mean_auc": predictions.mean_auc()}
    out.finish(whole, next=out.following())


def _licence(facts: dict[str, Any]) -> str:
    """The licence that binds the student, what it forbids, and which teachers it comes from."""
    from mmkd_core.contract import LicenseInfo
    from mmkd_core.integrate.releases import starts
    from mmkd_core.plugins.licences import beyond_its_name, forbids, in_words

    binding = LicenseInfo(**facts["license"])
    others = set(beyond_its_name(binding))
    sources = {**facts["licenses"], **starts(facts.get("start", {}))}
    teachers = {name: LicenseInfo(**terms) for name, terms in sorted(sources.items())}
    named = [n for n, terms in teachers.items() if terms.weights == binding.weights or others & set(forbids(terms))]
    words = in_words(binding)
    return f"{binding.weights} (from {', '.join(named)}{'; ' if words else ''}{words})"


@app.command(epilog="Example:  mmkd releases rollback 0001")
def rollback(
    release: Id,
    force: Annotated[
        bool, typer.Option("--force", help="Also one that passed no audit; who did so and when is recorded.")
    ] = False,
    because: Because = None,
    root: Root = HERE,
    json: Json = False,
    debug: Debug = False,
) -> None:
    """Put a release that was in use, or passed its audit, into use again, after a check of its files."""
    from mmkd_core.integrate import history, releases
    from mmkd_core.integrate.using import put_into_use
    from mmkd_core.integrate.workspace import Workspace

    check_reason(force, because)
    out = Output(json, root)
    workspace = Workspace.open(root)
    with workspace.writing():
        chosen, before = put_into_use(workspace, release, force, because)
    out.say(f"in use: release {chosen.id}")
    log = history.entries(workspace, chosen.id)
    if log:
        out.say(log[-1].sentence)
    facts = {"current": chosen.id, "before": before, "log": log[-1] if log else None}
    out.finish(facts, wrote=[workspace.releases / releases.CURRENT], next=out.following())
