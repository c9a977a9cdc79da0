"""`mmkd quickstart`: the whole way, and what came of it in one screen."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mmkd_core.cli.options import TRUST, Debug, Json, Recipe, Rule
from mmkd_core.cli.output import Output, points

if TYPE_CHECKING:
    from mmkd_core.report.view import View

app = typer.Typer()

FOLDER = Path("mmkd-quickstart")


@app.command(epilog="Example:  mmkd quickstart --smoke")
def quickstart(
    folder: Annotated[Path | None, typer.Argument(metavar="DIR", help="Workspace  [default: mmkd-quickstart]")] = None,
    smoke: Annotated[bool, typer.Option("--smoke", help="The smallest run of every step, under a minute.")] = False,
    seed: Annotated[int, typer.Option(min=0, max=2**32 - 1, help="Another seed, another run.")] = 0,
    trust: Annotated[Rule, TRUST] = Rule("90"),
    recipe: Annotated[Recipe, typer.Option(help="Scheme of distillation.")] = Recipe.MMKD,
    data: Annotated[
        Path | None, typer.Option(metavar="PATH", help="Real images: a manifest or a folder; phantom if left out.")
    ] = None,
    root: Annotated[
        Path | None, typer.Option("-w", "--workspace", metavar="DIR", help="The same as the argument.")
    ] = None,
    json: Json = False,
    debug: Debug = False,
) -> None:
    """Do everything once: data, teachers, features, trust, student, a new teacher, an audit and a report."""
    from mmkd_core.cli.data import show_report
    from mmkd_core.cli.progress import watch
    from mmkd_core.data.report import ImportReport
    from mmkd_core.errors import DataError, TrustError
    from mmkd_core.integrate.profiles import profile
    from mmkd_core.integrate.quickstart import quickstart as run
    from mmkd_core.trust import RULES

    if data is not None and not data.exists():  # before a workspace is made for it
        raise DataError("no such file or folder", where=str(data), next="Give a manifest or a folder to --data")
    target = folder or root or FOLDER
    name = {} if data is None else {"name": _name(data)}
    if RULES[trust.value].needs_list:
        raise TrustError(
            "quickstart makes a new workspace, and that has no published list of trusted teachers",
            next="Use the single commands: `mmkd init --trust published`, then `mmkd store import mmkd-clip DIR`",
        )
    config, phantom = profile(smoke, data is not None, seed, trust.value, recipe.value, **name)
    summary = run(target, config, phantom, data, watch(), _command(smoke, seed, trust.value, recipe, data))
    out = Output(json, target)
    if report := ImportReport.load(target / config.data):
        show_report(out, report)
    if phantom and phantom.spoilt:
        out.say(f"note: {phantom.spoilt}")
    if not json:
        _show(out, summary)
    out.finish(summary, wrote=[target / "report.html", target / "summary.json"], next=out.following())


def _command(smoke: bool, seed: int, trust: str, recipe: Recipe, data: Path | None) -> str:
    """The same run again, without the folder that it wrote to."""
    parts = ["mmkd quickstart", "--smoke" if smoke else "", f"--seed {seed}"]
    parts += [f"--trust {trust}" if trust != "90" else ""]
    parts += [f"--recipe {recipe.value}" if recipe is not Recipe.MMKD else "", f"--data {data}" if data else ""]
    return " ".join(part for part in parts if part)


def _name(data: Path) -> str:
    """A name for the student and its teachers, after the data."""
    path = data.resolve()
    stem = (
        path.stem if path.is_file() and path.stem != "manifest" else path.parent.name if path.is_file() else path.name
    )
    return re.sub(r"[^a-z0-9]+", "-", stem.lower())[:24].strip("-") or "real"


def _show(out: Output, summary: dict[str, Any]) -> None:
    from mmkd_core.report.view import View

    view = View(summary)
    out.say()
    out.say("zero-shot AUC on the test split, in points")
    rows = [(n, points(f["mean_auc"]), *(points(f["auc"].get(d)) for d in view.domains)) for n, f in view.models]
    out.table(("model", "mean", *view.domains), rows)
    out.say()
    for sentence in view.trust_sentences:
        out.say(sentence)
    out.table(("teacher", "teaches all of", "elsewhere"), list(_admitted(view)))
    out.say()
    out.say(view.headline)
    out.say(view.lead)
    if view.verdict:
        out.say(f"verdict: {view.verdict}")


def _admitted(view: "View") -> Iterator[tuple[str, str, str]]:
    """Per teacher: domains that it teaches whole with the accuracy there, and what it adds elsewhere."""
    for teacher, cells in view.trust.items():
        whole = [
            domain if cell["accuracy"] is None else f"{domain} ({points(cell['accuracy'])} % right)"
            for domain, cell in cells.items()
            if cell["trusted"]
        ]
        others = [cell for cell in cells.values() if not cell["trusted"]]
        some, of = sum(cell["admitted"] for cell in others), sum(cell["of"] for cell in others)
        yield teacher, ", ".join(whole) or "nothing", f"{some:,} of {of:,} samples"
