"""`mmkd store`: the cached features of teachers, looked into, kept sound and handed on."""

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mmkd_core.cli.options import HERE, Debug, Json, Root
from mmkd_core.cli.output import Output, size

if TYPE_CHECKING:
    from feature_store import FeatureStore
    from feature_store.transfer import Transfer
    from mmkd_core.integrate.workspace import Workspace

app = typer.Typer(help="Look into the store of features, keep it sound, hand it on.", no_args_is_help=True)

Folder = Annotated[Path | None, typer.Argument(metavar="[DIR]", help="A store or generation; else the workspace's.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Say what would be done, in bytes, and change nothing.")]


@app.command(epilog="Example:  mmkd store info")
def info(folder: Folder = None, root: Root = HERE, json: Json = False, debug: Debug = False) -> None:
    """Show whose features are stored, how many, in which precision and in how many bytes."""
    out = Output(json, root)
    with _opened(_folder(folder, root)) as store:
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
def verify(
    folder: Folder = None,
    checksum: Annotated[str, typer.Option("--root", help="Root checksum that `mmkd store seal` printed.")] = "",
    root: Root = HERE,
    json: Json = False,
    debug: Debug = False,
) -> None:
    """Read all features again and compare them with their checksums; exit code 1 if something is damaged."""
    out, path = Output(json, root), _folder(folder, root)
    with _opened(path) as store:
        damages = store.verify(checksum)
        rows = 0 if damages else store.info().rows
        following = out.following() if not damages else "mmkd store repair"
        if damages and (path / "manifest.json").exists():
            following = "Restore the generation from another copy"
    for damage in damages:
        out.say(f"damaged: {damage}")
    if not damages:
        out.say(f"sound: {rows:,} rows")
    out.finish({"sound": not damages, "rows": rows, "damages": damages}, next=following)
    if damages:
        raise typer.Exit(1)


@app.command(epilog="Example:  mmkd store repair")
def repair(
    drop_only: Annotated[bool, typer.Option("--drop-only", help="Do not extract again what was damaged.")] = False,
    root: Root = HERE,
    json: Json = False,
    debug: Debug = False,
) -> None:
    """Drop exactly what is damaged and ask the teachers for it again; everything else stays as it is."""
    from mmkd_core.cli.progress import watch
    from mmkd_core.integrate.storekeeping import run_repair

    out, workspace = Output(json, root), _workspace(root)
    with workspace.writing():
        done = run_repair(workspace, not drop_only, watch())
    for one in done.repairs:
        more = f" and {one.unknown} whose numbers are lost" if one.unknown else ""
        out.say(f"dropped {', '.join(one.parts)} of table {one.table}, {one.tower}: {len(one.rows)} rows{more}")
    if not done.repairs:
        out.say("nothing was damaged")
    again = done.extraction
    if again is not None:
        out.say(f"extracted again: {sum(again.images.values())} images, {sum(again.texts.values())} texts")
    facts: dict[str, Any] = {"repairs": done.repairs, "images": {}, "texts": {}}
    if again is not None:
        facts |= {"images": again.images, "texts": again.texts}
    out.finish(facts, next="mmkd extract" if done.repairs and drop_only else "mmkd store verify")
    if again is not None:
        again.require()


@app.command(epilog="Example:  mmkd store doctor")
def doctor(root: Root = HERE, json: Json = False, debug: Debug = False) -> None:
    """Look for features that are intact and yet odd; exit code 1 if some are useless."""
    from mmkd_core.integrate.storekeeping import run_doctor

    out = Output(json, root)
    findings = run_doctor(_workspace(root))
    for finding in findings:
        out.say(f"{finding.severity}: {finding.what} ({finding.where}). {finding.next}")
    if not findings:
        out.say("nothing odd")
    out.finish({"findings": findings}, next=out.following())
    if any(finding.severity == "error" for finding in findings):
        raise typer.Exit(1)


@app.command(epilog="Example:  mmkd store seal")
def seal(
    folder: Annotated[Path | None, typer.Argument(metavar="[DIR]", help="New folder of the generation.")] = None,
    root: Root = HERE,
    json: Json = False,
    debug: Debug = False,
) -> None:
    """Write the features as they are now to a folder that never changes, with a manifest and one checksum."""
    from feature_store.keeping import seal as seal_store

    out, workspace = Output(json, root), _workspace(root)
    home = workspace.state / "generations"
    with workspace.writing(), _opened(workspace.store, "w") as store:
        taken = [int(path.name) for path in home.glob("[0-9]*") if path.name.isdigit()]
        target = folder or home / f"{max(taken, default=0) + 1:04}"
        manifest = seal_store(store, target)
    out.say(f"generation {manifest['number']}, root {manifest['root']}")
    facts = {name: manifest[name] for name in ("number", "root", "parent", "uuid")}
    check = f"mmkd store verify {shlex.quote(str(target))} --root {manifest['root']}"
    out.finish(facts, wrote=[target], next=f"Note the root; `{check}` checks a copy")


@app.command(epilog="Example:  mmkd store gc --dry-run")
def gc(dry_run: DryRun = False, root: Root = HERE, json: Json = False, debug: Debug = False) -> None:
    """Drop features that neither mmkd.lock nor any release refers to, and versions of rows that were replaced."""
    from mmkd_core.integrate.storekeeping import run_gc

    out, workspace = Output(json, root), _workspace(root)
    with workspace.writing():
        found = run_gc(workspace, dry_run)
    for table, tower, rows, count in found.tables:
        out.say(f"unreachable: table {table}, {tower}: {rows:,} rows, {size(count)}")
    for table, tower, rows, count in found.replaced:
        out.say(f"replaced: table {table}, {tower}: {rows:,} rows, {size(count)}")
    out.say(f"{'would free' if dry_run else 'freed'} {found.bytes:,} bytes inside the file")
    out.finish({**vars(found), "dry_run": dry_run}, next="mmkd store gc" if dry_run else "mmkd store compact")


@app.command(epilog="Example:  mmkd store compact --dry-run")
def compact(dry_run: DryRun = False, root: Root = HERE, json: Json = False, debug: Debug = False) -> None:
    """Rewrite the file without its free pages; the new one takes its place in one step. Needs room for both."""
    from feature_store.keeping import compact as compact_store

    out, workspace = Output(json, root), _workspace(root)
    with workspace.writing(), _opened(workspace.store, "r" if dry_run else "w") as store:
        before, after = compact_store(store, dry_run=dry_run)
    out.say(f"{before:,} bytes {'would become' if dry_run else 'became'} {after:,}")
    following = "mmkd store compact" if dry_run else "mmkd store verify"
    out.finish({"before": before, "after": after, "dry_run": dry_run}, next=following)


@app.command(epilog="Example:  mmkd store export features-out --format parquet")
def export(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="New folder.")],
    kind: Annotated[str, typer.Option("--format", help="safetensors or parquet.")] = "safetensors",
    root: Root = HERE,
    json: Json = False,
    debug: Debug = False,
) -> None:
    """Write ids, features and facts to files that other programs read."""
    from feature_store.transfer import export as export_store

    out = Output(json, root)
    with _opened(_workspace(root).store) as store:
        contents = export_store(store, folder, kind)  # type: ignore[arg-type]
    rows = sum(entry["rows"] for entry in contents["tables"])
    out.say(f"{rows:,} rows of {len(contents['tables'])} tables")
    out.finish(
        {"rows": rows, "tables": contents["tables"]},
        wrote=[folder],
        next=f"mmkd store import {shlex.quote(str(folder))}",
    )


@app.command("import", epilog="Example:  mmkd store import mmkd-clip MMKDCLIP_DATA")
def import_(
    source: Annotated[str, typer.Argument(metavar="[mmkd-clip] DIR", help="Folder of an export, or of the paper.")],
    folder: Annotated[Path | None, typer.Argument(hidden=True)] = None,
    root: Root = HERE,
    json: Json = False,
    debug: Debug = False,
) -> None:
    """Put exported features, or those that the paper's authors publish, into the store; exit code 1 on conflicts."""
    from feature_store import FeatureStore
    from feature_store.transfer import import_folder

    out, workspace = Output(json, root), _workspace(root)
    if folder is not None:
        _published(out, workspace, source, folder)
        return
    with workspace.writing(), FeatureStore.open(workspace.store, "w") as store:
        done = import_folder(store, Path(source))
    _transferred(out, workspace, done)


@app.command(epilog="Example:  mmkd store merge ../other/.mmkd/features")
def merge(
    folders: Annotated[list[Path], typer.Argument(metavar="DIR...", help="Stores or generations to take from.")],
    root: Root = HERE,
    json: Json = False,
    debug: Debug = False,
) -> None:
    """Put features of stores made elsewhere into this one, matched by image and text; exit code 1 on conflicts."""
    from feature_store import FeatureStore
    from feature_store.transfer import Transfer
    from feature_store.transfer import merge as merge_store

    out, workspace = Output(json, root), _workspace(root)
    whole = Transfer()
    with workspace.writing(), FeatureStore.open(workspace.store, "w") as store:
        for folder in folders:
            with FeatureStore.open(folder) as other:
                whole.add(merge_store(store, other))
    _transferred(out, workspace, whole)


def _published(out: Output, workspace: "Workspace", source: str, folder: Path) -> None:
    from mmkd_core.cli.progress import watch
    from mmkd_core.errors import DataError
    from mmkd_core.integrate.storekeeping import run_import_published

    if source != "mmkd-clip":
        raise DataError(f"there is no layout {source!r}", next="Use `mmkd store import mmkd-clip DIR`, or a DIR alone")
    with workspace.writing():
        done, path = run_import_published(workspace, folder, watch())
    for name, reason in done.skipped:
        out.say(f"skipped {name}: {reason}")
    out.table(("table", "new features"), sorted(done.features.items()))
    out.say(f"{done.pairs:,} pairs, {len(done.skipped):,} skipped")
    facts = {"pairs": done.pairs, "skipped": done.skipped, "features": done.features}
    out.finish(facts, wrote=[workspace.store, path], next=out.following())


def _transferred(out: Output, workspace: "Workspace", done: "Transfer") -> None:
    for table, tower, name in done.examples:
        out.say(f"conflict: table {table}, {tower}, id {name}: other features are there, and stay")
    for table, name in done.facts:
        out.say(f"conflict: table {table}: the fact {name!r} says something else here, and stays")
    out.say(f"{done.added:,} rows added, {done.same:,} the same, {done.conflicts:,} in conflict")
    out.finish(vars(done), wrote=[workspace.store] if done.added else [], next="mmkd store verify")
    if done.conflicts:
        raise typer.Exit(1)


def _workspace(root: Path) -> "Workspace":
    from mmkd_core.integrate.workspace import Workspace

    return Workspace.open(root)


def _folder(folder: Path | None, root: Path) -> Path:
    return folder if folder is not None else _workspace(root).store


def _opened(path: Path, mode: str = "r") -> "FeatureStore":
    from feature_store import FeatureStore
    from mmkd_core.errors import WorkspaceError

    if not path.exists():
        raise WorkspaceError("no features were extracted yet", where=str(path), next="Run `mmkd extract`")
    return FeatureStore.open(path, mode)  # type: ignore[arg-type]
