"""`mmkd integrate` and `mmkd repair`: a teacher from its name to a student in use."""

from typing import TYPE_CHECKING, Annotated, Any

import typer

from mmkd_core.cli.options import HERE, Accept, Debug, Interpreter, Json, Root, Weights, Yes
from mmkd_core.cli.output import Output, points
from mmkd_core.cli.teachers import asking

if TYPE_CHECKING:
    from mmkd_core.audit.forgetting import ForgettingAudit
    from mmkd_core.integrate.repairing import Repair

app = typer.Typer()

NOTHING = "nothing to compare with"


@app.command(epilog="Example:  mmkd integrate phantom-sono")
def integrate(
    target: Annotated[str, typer.Argument(metavar="NAME", help="A teacher, or what `mmkd teachers add` takes.")],
    yes: Yes = False,
    accept_license: Accept = False,
    weights: Weights = None,
    python: Interpreter = None,
    root: Root = HERE,
    json: Json = False,
    debug: Debug = False,
) -> None:
    """Add, extract, trust, distil, audit and, if need be, repair a teacher; run again after a kill, it goes on."""
    from mmkd_core.cli.progress import alone_or_led
    from mmkd_core.integrate.audits import audit_file
    from mmkd_core.integrate.teaching import earn_trust
    from mmkd_core.integrate.transaction import run_integrate
    from mmkd_core.integrate.workspace import Workspace
    from mmkd_core.plugins.lifecycle import Choices
    from mmkd_core.student import parallel

    out = Output(json, root)
    parallel.start()
    workspace = Workspace.open(root)
    choices = Choices(weights, python, accept_license, asking(out, yes))
    with alone_or_led(workspace) as progress:
        done = run_integrate(workspace, target, choices, progress)
    parallel.only_leader()
    out.table(("step", "what came of it"), list(done.steps.items()))
    if done.audit:
        _say_worst(out, done.audit)
    if done.repair:
        _say_repair(out, done.repair)
    verdict = done.verdict.value if done.verdict else None
    out.say(f"verdict: {verdict or f'none, {NOTHING}'}")
    out.say(f"in use: release {done.release.id}" if done.release else "in use: no release yet")
    written = audit_file(workspace, done.candidate.id, str(done.candidate.parent)) if done.candidate else None
    facts: dict[str, Any] = {
        "teachers": done.teachers,
        "steps": done.steps,
        "seconds": done.seconds,
        "verdict": verdict,
        "why": None if verdict else NOTHING,
        "audit": written,
        "candidate": done.candidate.id if done.candidate else None,
        "in_use": done.release.id if done.release else None,
        "repair": _facts(done.repair) if done.repair else None,
        "trust": done.trust,
    }
    if done.nowhere:
        out.say(f"nothing was distilled: {', '.join(done.teachers)} may teach nothing")
        for row in done.trust:
            out.say(f"  {row['domain']}: {row['reason']}")
        way = earn_trust((row["status"], row["claimed"]) for row in done.trust)
        out.finish({**facts, "why": "trusted nowhere"}, next=way)
        raise typer.Exit(2)
    out.finish(facts, wrote=[done.release.folder] if done.release else [], next=out.following())
    raise typer.Exit(done.verdict.exit_code if done.verdict else 0)


@app.command(epilog="Example:  mmkd repair 0003")
def repair(
    candidate: Annotated[
        str | None, typer.Argument(metavar="ID", help="The newest candidate of the release in use if left out.")
    ] = None,
    root: Root = HERE,
    json: Json = False,
    debug: Debug = False,
) -> None:
    """Mend a candidate that forgot: part of the way back, then more replay of what it forgot, else keep the parent."""
    from mmkd_core.cli.progress import alone_or_led
    from mmkd_core.integrate.repairing import run_repair
    from mmkd_core.integrate.workspace import Workspace
    from mmkd_core.student import parallel

    out = Output(json, root)
    parallel.start()
    workspace = Workspace.open(root)
    with alone_or_led(workspace) as progress:
        done = run_repair(workspace, candidate, progress)
    parallel.only_leader()
    _say_repair(out, done)
    out.say(f"in use: release {done.release.id}")
    out.finish(_facts(done), wrote=[done.release.folder] if done.passed else [], next=out.following())
    raise typer.Exit(0 if done.passed else 1)


def _say_worst(out: Output, audit: "ForgettingAudit") -> None:
    from mmkd_core.integrate.interpolating import worst

    if not audit.family("zero-shot", "auc"):  # no labels
        return
    row = worst(audit)
    out.say(f"lowest change: {row.part}, {points(row.delta, sign=True)} points of AUC")


def _say_repair(out: Output, done: "Repair") -> None:
    from mmkd_core.integrate.repairing import HOW

    for attempt in done.attempts:
        out.say(f"repair by {attempt.how}: {attempt.why}")
    out.say(HOW[done.how])


def _facts(done: "Repair") -> dict[str, Any]:
    attempts = [
        {
            "how": attempt.how,
            "release": attempt.release.id if attempt.release else None,
            "verdict": attempt.verdict.value if attempt.verdict else None,
            "why": attempt.why,
        }
        for attempt in done.attempts
    ]
    return {"how": done.how, "in_use": done.release.id, "attempts": attempts}
