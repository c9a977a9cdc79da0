"""`mmkd eval` and `mmkd audit`: figures with intervals, and verdicts with exit codes."""

from typing import TYPE_CHECKING, Annotated

import typer

from mmkd_core.cli.options import HERE, Because, Debug, Json, Root, check_reason
from mmkd_core.cli.output import Output, points, span

if TYPE_CHECKING:
    from mmkd_core.statistics import Interval

eval_app = typer.Typer(help="Evaluate teachers, releases and the stage-1 student.", no_args_is_help=True)
audit_app = typer.Typer(help="Ask for a verdict: 0 PASS, 1 FAIL, 3 INCONCLUSIVE.", no_args_is_help=True)

Model = Annotated[str, typer.Argument(metavar="MODEL", help="A teacher, a release (0001), current, or stage-1.")]


@eval_app.command("zero-shot", epilog="Example:  mmkd eval zero-shot current")
def zero_shot(model: Model, root: Root = HERE, json: Json = False, debug: Debug = False) -> None:
    """Classify the test split by prompts alone: AUC per domain with 95 % intervals, resampled by patient."""
    from mmkd_core.cli.progress import watch
    from mmkd_core.evaluate.summary import summarise
    from mmkd_core.integrate.measuring import zero_shot_of
    from mmkd_core.integrate.workspace import Workspace

    out = Output(json, root)
    workspace = Workspace.open(root)
    predictions, path = zero_shot_of(workspace, model, watch())
    gate = workspace.gate()
    found = summarise(predictions, gate.confidence, gate.resamples, gate.seed)
    rows = [
        (domain, *_interval_cells(e.auc), *map(_estimate, (e.balanced_accuracy, e.brier)), e.n, e.groups, e.status)
        for domain, e in found.domains.items()
    ]
    if mean := found.mean:
        others = map(_estimate, (found.mean_balanced_accuracy, found.mean_brier))
        rows.append(("mean", *_interval_cells(mean), *others, mean.n, mean.groups, ""))
    columns = ("domain", "AUC", "95 % interval", "balanced accuracy", "Brier score", "samples", "patients", "status")
    out.table(columns, rows)
    if not rows:
        instead = out.command(f"mmkd eval retrieval {model}")
        out.say(f"no image of the test split has a label, so there is nothing to measure; `{instead}` needs none")
    facts = {"model": model, "predictions": path, **found.to_json()}
    measured = path.parent == workspace.evaluations  # those of a release were made with it
    out.finish(facts, wrote=[path] if measured else [], next=out.following())


@eval_app.command(epilog="Example:  mmkd eval retrieval current")
def retrieval(model: Model, root: Root = HERE, json: Json = False, debug: Debug = False) -> None:
    """Find the captions of images and the images of captions on the test split."""
    from mmkd_core.cli.progress import watch
    from mmkd_core.evaluate.retrieval import KS
    from mmkd_core.integrate.measuring import retrieval_of
    from mmkd_core.integrate.workspace import Workspace

    out = Output(json, root)
    found = retrieval_of(Workspace.open(root), model, watch())
    ways = {"image to text": found.image_to_text, "text to image": found.text_to_image}
    rows: list[tuple[object, ...]] = []
    for name, way in ways.items():
        told = [points(way.recall[k]) if k in way.recall else "undefined" for k in KS]
        guess = [points(way.chance.recall(k)) if k in way.recall else "" for k in KS]
        rows.append((name, *told, f"{way.median_rank:g}", way.queries, way.gallery))
        rows.append(("by chance", *guess, way.chance.median_rank, "", ""))
    out.table(("direction", *(f"R@{k}" for k in KS), "median rank", "queries", "gallery"), rows)
    for name, way in ways.items():
        for k, reason in way.undefined.items():
            out.say(f"R@{k}, {name}, is undefined: {reason}")
    out.finish({"model": model, **found.to_json()}, next=out.following())


@audit_app.command(epilog="Example:  mmkd audit trust --sweep")
def trust(
    sweep: Annotated[
        bool, typer.Option("--sweep", help="Show what each threshold from 0 to 1 would admit, and its students.")
    ] = False,
    root: Root = HERE,
    json: Json = False,
    debug: Debug = False,
) -> None:
    """Set what teachers claim beside what they do here: FAIL if one claims too much, INCONCLUSIVE if unverified."""
    from mmkd_core.cli.auditing import show_trust

    raise typer.Exit(show_trust(Output(json, root), sweep))


@audit_app.command(epilog="Example:  mmkd audit balance")
def balance(root: Root = HERE, json: Json = False, debug: Debug = False) -> None:
    """Show samples, trusted pairs and gradient of each domain, and its share of a batch under three samplings."""
    from mmkd_core.cli.progress import watch
    from mmkd_core.integrate.balancing import run_balance
    from mmkd_core.integrate.workspace import Workspace

    out = Output(json, root)
    workspace = Workspace.open(root)
    with workspace.writing():
        rows = run_balance(workspace, watch())
    kinds = list(rows[0].batch) if rows else []
    head = ("domain", "samples", "taught", "trusted pairs", "gradient, %", *(f"batch {kind}, %" for kind in kinds))
    out.table(
        head,
        [
            (r.domain, r.samples, r.taught, r.pairs, points(r.gradient), *(points(r.batch[kind]) for kind in kinds))
            for r in rows
        ],
    )
    out.say(f"sampled now: {workspace.config.distill.balance}")
    out.finish({"rows": rows, "balance": workspace.config.distill.balance}, next=out.following())


@audit_app.command(epilog="Example:  mmkd audit forgetting --candidate 0002 --against 0001")
def forgetting(
    candidate: Annotated[str | None, typer.Option(metavar="ID", help="The newest release if left out.")] = None,
    against: Annotated[str | None, typer.Option(metavar="ID", help="Its parent if left out.")] = None,
    chain: Annotated[
        bool,
        typer.Option("--chain", help="Compare with every earlier release, all families: ACC, BWT, FWT, forgetting."),
    ] = False,
    self_test: Annotated[
        bool, typer.Option("--self-test", help="Audit copies that are alike: how often is the alarm false?")
    ] = False,
    force: Annotated[
        bool, typer.Option("--force", help="Judge by a gate that was changed since; who did so and when is recorded.")
    ] = False,
    because: Because = None,
    root: Root = HERE,
    json: Json = False,
    debug: Debug = False,
) -> None:
    """Ask whether a release lost what its parent knew, by the margins of gate.yaml; on PASS it is put into use."""
    from mmkd_core.cli.auditing import show_audit, show_chain, show_self_test

    if chain and (self_test or against):
        raise typer.BadParameter("--chain compares with every earlier release: leave out --against and --self-test")
    if self_test and force:
        raise typer.BadParameter("--self-test tries the gate as it is: leave out --force")
    check_reason(force, because)
    out = Output(json, root)
    if chain:
        raise typer.Exit(show_chain(out, candidate, force, because))
    if self_test:
        raise typer.Exit(show_self_test(out, candidate, against))
    raise typer.Exit(show_audit(out, candidate, against, force, because))


def _estimate(interval: "Interval | None") -> str:
    return points(interval.estimate if interval else None)


def _interval_cells(interval: "Interval | None") -> tuple[str, str]:
    return ("-", "-") if interval is None else (points(interval.estimate), span(interval.lower, interval.upper))
