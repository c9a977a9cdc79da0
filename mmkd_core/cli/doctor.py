"""`mmkd doctor`: what stands in the way, and how to mend it."""

import typer

from mmkd_core.cli.options import HERE, Debug, Json, Root
from mmkd_core.cli.output import Output

app = typer.Typer()


@app.command(epilog="Example:  mmkd doctor")
def doctor(root: Root = HERE, json: Json = False, debug: Debug = False) -> None:
    """Look at environment, disk, plugins, lock, store and releases; exit code 1 if something needs mending."""
    from mmkd_core.integrate.doctoring import diagnose

    out = Output(json, root)
    checks = diagnose(root)
    fixes = [out.hinted(check.fix) for check in checks]
    rows = [(c.name, c.state, c.found, fix) for c, fix in zip(checks, fixes, strict=True)]
    out.table(("what", "state", "found", "fix"), rows)
    problems = sum(check.state == "problem" for check in checks)
    first = next((fix for c, fix in zip(checks, fixes, strict=True) if c.state == "problem" and fix), "")
    if not problems:
        first = out.following()
    out.finish({"checks": checks, "problems": problems}, next=first)
    raise typer.Exit(1 if problems else 0)
