"""`mmkd push`: an exported student goes to the Hugging Face hub."""

import shlex
from pathlib import Path
from typing import Annotated

import typer

from mmkd_core.cli.options import HERE, Debug, Json, Root
from mmkd_core.cli.output import Output, size

app = typer.Typer()


@app.command(epilog="Example:  mmkd push student me/my-student --dry-run")
def push(
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="A folder of `mmkd export`.")],
    repo: Annotated[str, typer.Argument(metavar="REPO", help="Name on the hub, such as me/my-student.")],
    public: Annotated[bool, typer.Option("--public", help="For everybody to see; private if left out.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Check and show, send nothing.")] = False,
    accept: Annotated[
        bool, typer.Option("--accept-license", help="Go on where a licence is unknown or forbids derivatives.")
    ] = False,
    root: Root = HERE,
    json: Json = False,
    debug: Debug = False,
) -> None:
    """Send an exported student to the Hugging Face hub, after its files and its licence were checked."""
    from mmkd_core.plugins.licences import named
    from mmkd_core.student.push import planned
    from mmkd_core.student.push import push as send

    out = Output(json, root)
    upload = planned(folder, repo, public=public, accepted=accept)
    out.table(("file", "size"), [(name, size(count)) for name, count in upload.files.items()])
    out.say(f"model card: {upload.title}")
    out.say(f"licence: {named(upload.license)}")
    out.say(f"repository: {upload.repo}, {'private' if upload.private else 'public'}")
    facts = {"upload": upload, "sent": not dry_run}
    if dry_run:
        out.finish(facts, next=f"mmkd push {shlex.quote(str(folder))} {repo}{' --public' if public else ''}")
        return
    address = send(folder, upload)
    out.finish({**facts, "commit": address}, next=f"Load it with {upload.load}")
