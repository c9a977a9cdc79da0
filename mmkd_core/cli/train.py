"""`mmkd extract`, `mmkd pretrain`, `mmkd distill`: the steps that make a student."""

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mmkd_core.cli.options import HERE, Captions, Debug, Engine, Json, Recipe, Root, names, share
from mmkd_core.cli.output import Output, points, size
from mmkd_core.cli.progress import alone_or_led

if TYPE_CHECKING:
    from mmkd_core.extract.plan import Plan
    from mmkd_core.integrate.workspace import Workspace

app = typer.Typer()


@app.command(epilog="Example:  mmkd extract --max-bad 2%")
def extract(
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say what is missing, its size and time; do nothing.")
    ] = False,
    max_bad: Annotated[
        str | None,
        typer.Option(metavar="SHARE", help="Share of images that may be unreadable; mmkd.yaml decides if left out."),
    ] = None,
    engine: Annotated[Engine, typer.Option(help="Work here, or as a Ray Data pipeline on a cluster.")] = Engine.LOCAL,
    root: Root = HERE,
    json: Json = False,
    debug: Debug = False,
) -> None:
    """Ask every teacher in use for the features that are missing; a second run computes nothing."""
    from mmkd_core.cli.progress import watch
    from mmkd_core.integrate.extracting import plan_extract, run_extract
    from mmkd_core.integrate.workspace import Workspace

    out = Output(json, root)
    workspace = Workspace.open(root)
    config = workspace.config.extract
    if max_bad is not None:
        config = config.model_copy(update={"max_bad": share(max_bad)})
    if dry_run:
        _show_plan(out, plan_extract(workspace))
        return
    with workspace.writing():
        done = run_extract(workspace, watch(), config, engine.value)
    out.table(("teacher", "new images", "new texts"), [(n, done.images[n], done.texts[n]) for n in sorted(done.images)])
    computed = any(done.images.values()) or any(done.texts.values())
    if not computed and not done.failed:
        out.say("nothing was missing" if not done.skipped else "nothing else was missing")
    if done.skipped:
        out.say(f"{len(done.skipped):,} images cannot be read and are left out: {workspace.skipped_file}")
    wrote = [workspace.store] if computed else []
    skipped = {name: {"image": image, "reason": reason} for name, (image, reason) in done.skipped.items()}
    failed = {name: str(error) for name, error in done.failed.items()}
    following = "mmkd doctor" if done.failed else out.following()
    out.finish({**vars(done), "failed": failed, "skipped": skipped}, wrote=wrote, next=following)
    done.require()


def _show_plan(out: Output, plan: "Plan") -> None:
    from mmkd_core.cli.progress import duration

    def told(seconds: float | None) -> str:
        return "unknown" if seconds is None else duration(seconds)

    out.say(
        f"{plan.samples:,} samples: {plan.images:,} distinct images ({plan.duplicates:,} duplicates), "
        f"{plan.texts:,} distinct texts"
    )
    rows = [(s.teacher, s.images, s.texts, size(s.bytes), told(s.seconds)) for s in plan.teachers]
    out.table(("teacher", "missing images", "missing texts", "to store", "time"), rows)
    if plan.bytes:
        out.say(f"in all {size(plan.bytes)}; time at most about: {told(plan.seconds)}, measured on a few of each")
    else:
        out.say("nothing is missing")
    facts = {**vars(plan), "teachers": [vars(share) for share in plan.teachers]}
    out.finish(
        {**facts, "bytes": plan.bytes, "seconds": plan.seconds}, next="mmkd extract" if plan.bytes else out.following()
    )


@app.command(epilog="Example:  mmkd pretrain --domains xray,ct --captions labels --out runs/radio")
def pretrain(
    domains: Annotated[str | None, typer.Option(metavar="A,B", help="Domains to train on; all if left out.")] = None,
    captions: Annotated[Captions | None, typer.Option(help="The samples' own, or made from their labels.")] = None,
    steps: Annotated[int | None, typer.Option(min=1, help="Optimiser steps.")] = None,
    out: Annotated[
        Path | None, typer.Option(metavar="FOLDER", help="Keep it there, beside the workspace's own.")
    ] = None,
    root: Root = HERE,
    json: Json = False,
    debug: Debug = False,
) -> None:
    """Train stage 1: an image-text model on the workspace's own images and captions."""
    from mmkd_core.integrate.student_data import run_pretrain
    from mmkd_core.integrate.workspace import Workspace
    from mmkd_core.student import parallel

    answer = Output(json, root)
    parallel.start()
    workspace = Workspace.open(root)
    chosen = {"domains": names(domains) or None, "captions": captions and captions.value, "steps": steps}
    given = {name: value for name, value in chosen.items() if value is not None}
    config = workspace.config.pretrain.model_copy(update=given)
    with alone_or_led(workspace) as progress:
        folder, facts = run_pretrain(workspace, config, out, progress)
    parallel.only_leader()
    if not facts["trained"]:
        answer.say("it was there already, made from the same inputs")
    following = answer.following()
    if out:
        made, package = shlex.quote(str(out)), shlex.quote(f"{out}-teacher")
        following = f"mmkd export teacher {package} NAME --student {made} --domains {','.join(facts['domains'])}"
    answer.finish({**facts, "student": folder}, wrote=[folder], next=following)


@app.command(epilog="Example:  mmkd distill --incremental")
def distill(
    incremental: Annotated[
        bool, typer.Option("--incremental", help="Teach the release in use what new teachers know.")
    ] = False,
    recipe: Annotated[
        Recipe | None,
        typer.Option(help="Scheme: ours, or the paper's as released or as published; mmkd.yaml decides if left out."),
    ] = None,
    root: Root = HERE,
    json: Json = False,
    debug: Debug = False,
) -> None:
    """Distil the trusted features into the student, a candidate for the next release; with torchrun on several GPUs."""
    from mmkd_core.evaluate.predictions import Predictions
    from mmkd_core.integrate import releases
    from mmkd_core.integrate.teaching import run_distill, run_incremental
    from mmkd_core.integrate.workspace import Workspace
    from mmkd_core.student import parallel

    out = Output(json, root)
    parallel.start()
    workspace = _with_recipe(Workspace.open(root), recipe)
    with alone_or_led(workspace) as progress:
        outcome = (run_incremental if incremental else run_distill)(workspace, progress)
    parallel.only_leader()
    release = outcome.release
    auc = Predictions.load(release.predictions).auc()
    in_use = releases.current(workspace)
    current = in_use is not None and in_use.id == release.id
    out.table(("domain", "AUC"), [(domain, points(value)) for domain, value in auc.items()])
    made = "was made" if outcome.made else "was there already, made from the same inputs"
    out.say(
        f"release {release.id} {made}{'' if current else ' and is not in use'}; teachers: {_listed(release.teachers)}"
    )
    facts = {"release": release.id, "made": outcome.made, "current": current, "auc": auc, **_kept(release.facts)}
    out.finish(facts, wrote=[release.folder] if outcome.made else [], next=out.following())


def _with_recipe(workspace: "Workspace", recipe: Recipe | None) -> "Workspace":
    """The same workspace with another recipe in both stages, for this run."""
    from pydantic import ValidationError

    from mmkd_core.errors import WorkspaceError
    from mmkd_core.integrate.workspace import CONFIG
    from mmkd_core.integrate.workspace import Workspace as Made
    from mmkd_core.settings import first_fault

    if recipe is None:
        return workspace
    stages = {name: getattr(workspace.config, name) for name in ("distill", "incremental")}
    try:
        update = {name: type(stage)(**{**dict(stage), "recipe": recipe.value}) for name, stage in stages.items()}
    except ValidationError as error:
        raise WorkspaceError(
            f"recipe {recipe.value} does not go with {CONFIG}: {first_fault(error)[1]}",
            where=str(workspace.root / CONFIG),
            next="Correct the file, or leave --recipe out",
        ) from error
    return Made(workspace.root, workspace.config.model_copy(update=update))


def _listed(items: list[str]) -> str:
    return ", ".join(items) or "none"


def _kept(facts: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in facts.items() if key not in ("files", "student")}
