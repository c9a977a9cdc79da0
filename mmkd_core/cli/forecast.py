"""`mmkd teachers forecast`: what a teacher would bring, disturb and cost."""

from typing import TYPE_CHECKING, Annotated

import typer

from mmkd_core.cli.options import HERE, Debug, Json, Root
from mmkd_core.cli.output import Output, points, size

if TYPE_CHECKING:
    from mmkd_core.integrate.forecasting import Forecast

app = typer.Typer()


@app.command(epilog="Example:  mmkd teachers forecast phantom-sono")
def forecast(
    name: Annotated[str, typer.Argument(metavar="NAME", help="Name of a teacher in use that is not integrated yet.")],
    root: Root = HERE,
    json: Json = False,
    debug: Debug = False,
) -> None:
    """Say before any training what a teacher would bring, might disturb and costs; it is asked for a sample only."""
    from mmkd_core.cli.progress import watch
    from mmkd_core.integrate.forecasting import run_forecast
    from mmkd_core.integrate.workspace import Workspace

    out = Output(json, root)
    workspace = Workspace.open(root)
    with workspace.writing():
        found = run_forecast(workspace, name, watch())
    _show(out, found)
    rows = {f"{teacher}/{domain}": entry for (teacher, domain), entry in found.interference.items()}
    right = {d: {"n": n, "right": mine, "only": only} for d, (n, mine, only) in found.right.items()}
    facts = {**vars(found), "right": right, "interference": rows}
    out.finish(facts, next=f"mmkd integrate {name}")


def _show(out: Output, found: "Forecast") -> None:
    from mmkd_core.cli.progress import duration

    if found.novelty:
        known = ", ".join(found.known)
        out.say(f"{points(found.novelty.share)} % of its features are not explained by those of {known}")
    groups = found.novelty.groups if found.novelty else {}
    out.table(
        ("domain", "new within it, %", "images", "right", "only it is right"),
        [(d, points(groups.get(d)), n, mine, only) for d, (n, mine, only) in found.right.items()],
    )
    if found.interference:
        out.say()
        out.table(
            ("earlier teacher", "domain", "disagreement, %", "first-order rise of its loss", "samples"),
            [
                (teacher, domain, points(entry.disagreement), f"{entry.rise:+.3f}", entry.n)
                for (teacher, domain), entry in found.interference.items()
            ],
        )
    share = found.extraction
    asking = "unknown" if share.seconds is None else duration(share.seconds)
    out.say(f"\nto extract: {share.images:,} images, {share.texts:,} texts, {size(share.bytes)}, about {asking}")
    if found.training_s is not None:
        out.say(f"to distil: about {duration(found.training_s)}, at the pace of the release in use")
