"""`mmkd eval` and `mmkd audit`: figures with intervals, and verdicts with exit codes."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mmkd_core.cli.options import HERE, Debug, Json, Root
from mmkd_core.cli.output import Output, points, span

if TYPE_CHECKING:
    from mmkd_core.audit.trust import TrustRow
    from mmkd_core.contract import TeacherSpec
    from mmkd_core.integrate.workspace import Workspace
    from mmkd_core.statistics import Interval

eval_app = typer.Typer(help="Evaluate teachers, releases and the stage-1 student.", no_args_is_help=True)
audit_app = typer.Typer(help="Ask for a verdict: 0 PASS, 1 FAIL, 2 INCONCLUSIVE.", no_args_is_help=True)

Model = Annotated[str, typer.Argument(metavar="MODEL", help="A teacher, a release (0001), current, or stage-1.")]

CHECKED = {"holds": 0, "no claim": 0, "overclaimed": 1, "unverified": 2, "not comparable": 2}
VERDICTS = ("PASS", "FAIL", "INCONCLUSIVE")


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
    rows = [(domain, *_interval_cells(e.auc), e.n, e.groups, e.status) for domain, e in found.domains.items()]
    if found.mean:
        rows.append(("mean", *_interval_cells(found.mean), found.mean.n, found.mean.groups, ""))
    out.table(("domain", "AUC", "95 % interval", "samples", "patients", "status"), rows)
    out.finish({"model": model, **found.to_json()}, wrote=[path], next=f"mmkd eval retrieval {model}")


@eval_app.command(epilog="Example:  mmkd eval retrieval current")
def retrieval(model: Model, root: Root = HERE, json: Json = False, debug: Debug = False) -> None:
    """Find the captions of images and the images of captions on the test split."""
    from mmkd_core.cli.progress import watch
    from mmkd_core.integrate.measuring import retrieval_of
    from mmkd_core.integrate.workspace import Workspace

    out = Output(json, root)
    found = retrieval_of(Workspace.open(root), model, watch())
    ways = {"image to text": found.image_to_text, "text to image": found.text_to_image}
    ks = list(found.image_to_text.recall)
    out.table(
        ("direction", *(f"R@{k}" for k in ks), "median rank", "queries", "gallery"),
        [
            (name, *(points(way.recall[k]) for k in ks), f"{way.median_rank:g}", way.queries, way.gallery)
            for name, way in ways.items()
        ],
    )
    out.finish({"model": model, **found.to_json()}, next="mmkd report")


@audit_app.command(epilog="Example:  mmkd audit trust --sweep")
def trust(
    sweep: Annotated[bool, typer.Option("--sweep", help="Show what other thresholds would admit.")] = False,
    root: Root = HERE,
    json: Json = False,
    debug: Debug = False,
) -> None:
    """Set what teachers claim beside what they do here: FAIL if one claims too much, INCONCLUSIVE if unverified."""
    from mmkd_core.audit.trust import trust_table
    from mmkd_core.cli.progress import watch
    from mmkd_core.integrate.features import locked_specs
    from mmkd_core.integrate.teaching import run_trust
    from mmkd_core.integrate.workspace import Workspace
    from mmkd_core.plugins import PluginHost

    out = Output(json, root)
    workspace = Workspace.open(root)
    with workspace.writing():
        decided = run_trust(workspace, watch())
    specs = locked_specs(workspace, PluginHost.discover())
    rows = trust_table(decided.values(), {name: spec.trust for name, spec in specs.items()})
    out.table(
        ("teacher", "domain", "claimed", "measured", "95 % interval", "finding", "teaches", "why"),
        [_trust_cells(row) for row in rows],
    )
    code = _trust_code(rows)
    facts: dict[str, Any] = {"verdict": VERDICTS[code], "exit_code": code, "rows": rows}
    if sweep:
        facts["sweep"] = _sweep(workspace, specs)
        out.say("\nshare of the training samples that each threshold admits, in %")
        out.table(
            ("threshold", *specs),
            [(t, *(points(entry["share"]) for entry in by.values())) for t, by in facts["sweep"].items()],
        )
    out.say(f"verdict: {VERDICTS[code]}")
    out.finish(facts, wrote=[workspace.trust], next="mmkd distill")
    raise typer.Exit(code)


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
    out.finish({"rows": rows, "balance": workspace.config.distill.balance}, next="mmkd study balance")


@audit_app.command(epilog="Example:  mmkd audit forgetting --candidate 0002 --against 0001")
def forgetting(
    candidate: Annotated[str | None, typer.Option(metavar="ID", help="The newest release if left out.")] = None,
    against: Annotated[str | None, typer.Option(metavar="ID", help="Its parent if left out.")] = None,
    chain: Annotated[
        bool, typer.Option("--chain", help="Compare with every earlier release: ACC, BWT, FWT, forgetting.")
    ] = False,
    self_test: Annotated[
        bool, typer.Option("--self-test", help="Audit copies that are alike: how often is the alarm false?")
    ] = False,
    root: Root = HERE,
    json: Json = False,
    debug: Debug = False,
) -> None:
    """Ask whether a release lost what its parent knew, by the margins of gate.yaml; on PASS it is put into use."""
    from mmkd_core.cli.auditing import show_audit, show_chain, show_self_test

    if chain and (self_test or against):
        raise typer.BadParameter("--chain compares with every earlier release: leave out --against and --self-test")
    show = show_chain if chain else show_self_test if self_test else show_audit
    raise typer.Exit(show(Output(json, root), candidate, against))


def _interval_cells(interval: "Interval | None") -> tuple[str, str]:
    return ("-", "-") if interval is None else (points(interval.estimate), span(interval.lower, interval.upper))


def _trust_cells(row: "TrustRow") -> tuple[object, ...]:
    measured = points(row.measured), span(row.lower, row.upper), row.finding
    return row.teacher, row.domain, points(row.claimed), *measured, f"{row.admitted} of {row.of}", row.reason


def _trust_code(rows: "list[TrustRow]") -> int:
    """1 if a claim is refuted, else 2 if one could not be checked, else 0."""
    codes = {CHECKED[row.finding] for row in rows}
    return 1 if 1 in codes else max(codes, default=0)


def _sweep(workspace: "Workspace", specs: "Mapping[str, TeacherSpec]") -> dict[float, dict[str, dict[str, Any]]]:
    """By threshold and teacher: samples admitted, and domains that are taught whole."""
    from mmkd_core.audit.trust import sweep
    from mmkd_core.integrate.features import Features, open_store
    from mmkd_core.trust import measure

    corpus, config = workspace.corpus(), workspace.config.trust
    result: dict[float, dict[str, dict[str, Any]]] = {}
    with open_store(workspace) as store:
        for name, spec in specs.items():
            evidence = measure(Features(spec, corpus, store).view(), corpus, config.seed)
            for threshold, found in sweep(evidence, corpus, config).items():
                of = sum(domain.of for domain in found.domains.values())
                admitted = int(found.mask.sum())
                whole = [name for name, domain in found.domains.items() if domain.trusted]
                entry = {"admitted": admitted, "of": of, "share": admitted / of if of else None, "domains": whole}
                result.setdefault(threshold, {})[name] = entry
    return result
