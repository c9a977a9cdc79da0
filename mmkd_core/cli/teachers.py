"""`mmkd teachers`: which there are, which are in use. Listing imports neither torch nor numpy."""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated

import typer

from mmkd_core.cli.options import HERE, Debug, Json, Root
from mmkd_core.cli.output import Output

if TYPE_CHECKING:
    from mmkd_core.plugins import TeacherInfo

app = typer.Typer(help="List, add and remove teachers.", no_args_is_help=True)

LOCK = "mmkd.lock"  # as in integrate.workspace, which costs half a second to import

Name = Annotated[str, typer.Argument(metavar="NAME", help="Name of the teacher.")]


@app.command("list", epilog="Example:  mmkd teachers list --json")
def list_(root: Root = HERE, json: Json = False, debug: Debug = False) -> None:
    """Show all teachers: locked (in use), available (installed), in the registry, and broken ones with the reason."""
    from mmkd_core.plugins import PluginHost, listing, load_registry, read_lock

    out = Output(json, root)
    rows = listing(read_lock(root / LOCK), PluginHost.discover(), load_registry())
    out.table(
        ("teacher", "status", "package", "domains", "licence"),
        [(r.name, r.status, f"{r.package} {r.version}".strip(), ", ".join(r.domains), r.licence) for r in rows],
    )
    for row in rows:
        if row.error:
            out.say(f"{row.status}: {row.name}: {row.error}")
    free = [row.name for row in rows if row.status in ("available", "registry")]
    out.finish({"teachers": rows}, next=f"mmkd teachers add {free[0]}" if free else "mmkd extract")


@app.command(epilog="Example:  mmkd teachers add phantom-sono")
def add(
    target: Annotated[str, typer.Argument(help="A teacher, a plugin, a wheel file or a folder with pyproject.toml.")],
    accept_license: Annotated[
        bool, typer.Option("--accept-license", help="Agree to weights that must not be used commercially.")
    ] = False,
    root: Root = HERE,
    json: Json = False,
    debug: Debug = False,
) -> None:
    """Install a teacher if need be, verify its weights, try it, and put it into use."""
    from mmkd_core.cli.progress import watch
    from mmkd_core.integrate.workspace import Workspace
    from mmkd_core.plugins.lifecycle import add as add_teacher

    out = Output(json, root)
    workspace = Workspace.open(root)
    with workspace.writing():
        locked = add_teacher(target, workspace.lock_file, accept_license=accept_license, progress=watch())
    out.say(f"in use: {', '.join(teacher.name for teacher in locked)}")
    out.finish({"added": locked}, wrote=[workspace.lock_file], next="mmkd extract")


@app.command(epilog="Example:  mmkd teachers remove phantom-sono")
def remove(name: Name, root: Root = HERE, json: Json = False, debug: Debug = False) -> None:
    """Take a teacher out of use; its package and its features stay."""
    from mmkd_core.integrate.workspace import Workspace
    from mmkd_core.plugins.lifecycle import remove as remove_teacher

    workspace = Workspace.open(root)
    with workspace.writing():
        removed = remove_teacher(name, workspace.lock_file)
    Output(json, root).finish({"removed": removed}, wrote=[workspace.lock_file], next="mmkd teachers list")


@app.command(epilog="Example:  mmkd teachers info phantom-sono")
def info(name: Name, root: Root = HERE, json: Json = False, debug: Debug = False) -> None:
    """Show all that is known about one teacher: model, domains, claims, licence, origin and lock."""
    from mmkd_core.plugins import PluginHost, load_registry, read_lock
    from mmkd_core.plugins import info as about

    out = Output(json, root)
    known = about(name, read_lock(root / LOCK), PluginHost.discover(), load_registry())
    out.table(("field", "value"), _lines(known))
    facts = {**vars(known), "fingerprint": known.spec.fingerprint if known.spec else None}
    out.finish(facts, next="mmkd extract" if known.locked else f"mmkd teachers add {name}")


def _lines(known: "TeacherInfo") -> Iterator[tuple[str, str]]:
    spec = known.spec
    if spec:
        yield "title", spec.title
        yield "summary", spec.summary
        yield "family", spec.family
        yield "domains", ", ".join(spec.domains)
        yield "image", f"{spec.image.size} pixels, {spec.image.resize}, {spec.image.interpolation}"
        yield "text", f"{spec.text.context_length} tokens ({spec.text.tokenizer})"
        yield "embedding", f"{spec.embed_dim} dimensions, logit scale {spec.logit_scale:.1f}"
        for domain, claim in spec.trust.items():
            yield f"claim {domain}", f"{100 * claim.score:.1f} {claim.metric} on {claim.dataset} (n={claim.n})"
        use = "commercial use allowed" if spec.license.commercial_use else "no commercial use"
        yield "licence", f"weights {spec.license.weights}, code {spec.license.code}, {use}"
        yield "weights", "; ".join(f"{source.kind} {source.location}" for source in spec.weights)
        yield "training data", spec.provenance.training_data or "-"
        yield "fingerprint", spec.fingerprint
    elif known.entry:
        yield "summary", known.entry.summary
        yield "domains", ", ".join(known.entry.domains)
        yield "package", f"{known.entry.package} (not installed)"
    if known.plugin:
        yield "plugin", f"{known.plugin.provider}: {known.plugin.status} {known.plugin.error}".strip()
    locked = known.locked
    yield "in use", f"yes, locked with {locked.package} {locked.version} ({locked.source})" if locked else "no"
