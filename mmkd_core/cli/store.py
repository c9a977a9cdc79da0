"""`mmkd store`: the cached features of teachers."""

from typing import TYPE_CHECKING

import typer

from mmkd_core.cli.options import HERE, Debug, Json, Root
from mmkd_core.cli.output import Output, size

if TYPE_CHECKING:
    from feature_store import FeatureStore
    from mmkd_core.integrate.workspace import Workspace

app = typer.Typer(help="Look into the store of features.", no_args_is_help=True)


@app.command(epilog="Example:  mmkd store info")
def info(root: Root = HERE, json: Json = False, debug: Debug = False) -> None:
    """Show whose features are stored, how many, in which precision and in how many bytes."""
    from mmkd_core.integrate.workspace import Workspace

    out = Output(json, root)
    with _opened(Workspace.open(root)) as store:
        found = store.info()
    out.table(
        ("teacher", "tower", "rows", "dim", "precision", "size", "as float32"),
        [
            (t.facts.get("teacher", t.table), t.tower, t.rows, t.dim, t.dtype, size(t.bytes), size(t.bytes_raw))
            for t in found.tables
        ],
    )
    out.say(f"{found.rows:,} rows, {size(found.bytes)}; the file has {size(found.file_bytes)}")
    out.finish(vars(found), next="mmkd store verify")


@app.command(epilog="Example:  mmkd store verify")
def verify(root: Root = HERE, json: Json = False, debug: Debug = False) -> None:
    """Read all features again and compare them with their checksums; exit code 1 if something is damaged."""
    from mmkd_core.integrate.workspace import Workspace

    out = Output(json, root)
    workspace = Workspace.open(root)
    with _opened(workspace) as store:
        damages = store.verify()
        rows = store.info().rows
    for damage in damages:
        out.say(f"damaged: {damage}")
    following = "mmkd store info"
    if damages:
        following = f"Remove {workspace.store} and run `mmkd extract`: features can be made again"
    else:
        out.say(f"sound: {rows:,} rows")
    out.finish({"sound": not damages, "rows": rows, "damages": damages}, next=following)
    if damages:
        raise typer.Exit(1)


def _opened(workspace: "Workspace") -> "FeatureStore":
    from feature_store import FeatureStore
    from mmkd_core.errors import WorkspaceError

    if not workspace.store.exists():
        raise WorkspaceError("no features were extracted yet", where=str(workspace.store), next="Run `mmkd extract`")
    return FeatureStore.open(workspace.store)
