"""`mmkd teachers`: which there are, which are in use. Listing imports neither torch nor numpy."""

import shlex
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mmkd_core.cli.options import HERE, Accept, Debug, Interpreter, Json, Root, Weights, Yes
from mmkd_core.cli.output import CONFIG, Output, on_terminal, points, size

if TYPE_CHECKING:
    from mmkd_core.contract import LicenseInfo
    from mmkd_core.integrate.workspace import Workspace
    from mmkd_core.plugins import TeacherInfo
    from mmkd_core.plugins.consent import Agree, Offer
    from mmkd_core.plugins.registry import RegistryLicense

app = typer.Typer(help="Find, add, pack and remove teachers.", no_args_is_help=True)

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
    free = [row.name for status in ("available", "registry") for row in rows if row.status == status]
    out.finish({"teachers": rows}, next=_further(out, free, any(row.status == "locked" for row in rows)))


def _further(out: Output, free: list[str], in_use: bool) -> str:
    """What the workspace lacks; where that is a teacher, one that can be had."""
    if free and not in_use and (out.root / CONFIG).is_file():
        return f"mmkd teachers add {free[0]}"
    following = out.following()
    if following != "mmkd teachers list":
        return following
    return f"mmkd teachers add {free[0]}" if free else ""


@app.command(epilog="Example:  mmkd teachers search histopathology")
def search(
    words: Annotated[
        list[str] | None,
        typer.Argument(metavar="WORDS", help="All must occur in name, summary or domains; none shows all."),
    ] = None,
    root: Root = HERE,
    json: Json = False,
    debug: Debug = False,
) -> None:
    """Search the registry; needs no network."""
    from mmkd_core.plugins import load_registry, read_lock

    out = Output(json, root)
    found, locked = load_registry().search(words or []), read_lock(root / LOCK).teachers
    out.table(
        ("teacher", "in use", "summary", "domains", "licence"),
        [
            (n, "yes" if n in locked else "", e.summary, ", ".join(e.domains), e.license.weights)
            for n, e in found.items()
        ],
    )
    if not found:
        out.say(f"no teacher of the registry has {' and '.join(words or [])} in its name, summary or domains")
    first = next((name for name in found if name not in locked), "")
    out.finish({"teachers": found}, next=f"mmkd teachers add {first}" if first else "mmkd teachers list")


@app.command(epilog="Example:  mmkd teachers add phantom-sono")
def add(
    target: Annotated[
        str,
        typer.Argument(
            help="A teacher, a plugin, a folder, a wheel, a pack, git+URL@COMMIT, or mmkd-NAME of an index."
        ),
    ],
    yes: Yes = False,
    accept_license: Accept = False,
    weights: Weights = None,
    python: Interpreter = None,
    root: Root = HERE,
    json: Json = False,
    debug: Debug = False,
) -> None:
    """Install a teacher if need be, verify its weights, try it, and put it into use."""
    from mmkd_core.cli.progress import watch
    from mmkd_core.integrate.workspace import Workspace
    from mmkd_core.plugins.lifecycle import Choices
    from mmkd_core.plugins.lifecycle import add as add_teacher

    out = Output(json, root)
    workspace = Workspace.open(root)
    choices = Choices(weights, python, accept_license, asking(out, yes))
    with workspace.writing():
        locked = add_teacher(target, workspace.lock_file, choices=choices, progress=watch())
    out.say(f"in use: {', '.join(teacher.name for teacher in locked)}")
    out.finish({"added": locked}, wrote=[workspace.lock_file], next=out.following())


@app.command(epilog="Example:  mmkd teachers remove phantom-sono")
def remove(
    name: Name,
    uninstall: Annotated[bool, typer.Option("--uninstall", help="Remove its package as well.")] = False,
    unlearn: Annotated[
        bool, typer.Option("--unlearn", help="Make a student that never learnt from it, and put that into use.")
    ] = False,
    root: Root = HERE,
    json: Json = False,
    debug: Debug = False,
) -> None:
    """Take a teacher out of use; its features stay, and its package unless --uninstall."""
    from mmkd_core.integrate.workspace import Workspace
    from mmkd_core.plugins.removal import remove as remove_teacher

    workspace = Workspace.open(root)
    if unlearn:
        if uninstall:
            raise typer.BadParameter("--unlearn and --uninstall are two steps: unlearn first")
        _unlearn(workspace, name, Output(json, root))
        return
    with workspace.writing():
        removed = remove_teacher(name, workspace.lock_file, uninstall=uninstall)
    out = Output(json, root)
    out.say(f"not in use any more: {removed.name}")
    out.finish({"removed": removed}, wrote=[workspace.lock_file], next=out.following())


def _unlearn(workspace: "Workspace", name: str, out: Output) -> None:
    from mmkd_core.cli.progress import watch
    from mmkd_core.evaluate.predictions import Predictions
    from mmkd_core.integrate.unlearning import run_unlearn

    with workspace.writing():
        done = run_unlearn(workspace, name, watch())
    out.say(f"not in use any more: {name}")
    out.say(f"releases that learnt from it: {', '.join(done.holding) or 'none'}")
    facts: dict[str, Any] = {"teacher": name, "holding": done.holding, "from": done.start}
    if done.before and done.release and done.start:
        before, after = (Predictions.load(found.predictions).auc() for found in (done.before, done.release))
        out.table(
            ("domain", done.before.id, done.release.id),
            [(domain, points(auc), points(after.get(domain))) for domain, auc in before.items()],
        )
        out.say(f"release {done.release.id}, made again from {done.start}, is in use")
        facts |= {"auc": {"before": before, "after": after}}
    out.say("their folders and exports stay until you remove them; its features go with `mmkd store gc`")
    written = [workspace.lock_file, *([done.release.folder] if done.release and done.start else [])]
    out.finish({**facts, "in_use": done.release.id if done.release else None}, wrote=written, next=out.following())


@app.command(epilog="Example:  mmkd teachers sync")
def sync(
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be installed, and stop.")] = False,
    root: Root = HERE,
    json: Json = False,
    debug: Debug = False,
) -> None:
    """Install what mmkd.lock says and this environment lacks, and verify all weights; the lock stays as it is."""
    from mmkd_core.cli.progress import watch
    from mmkd_core.integrate.workspace import Workspace
    from mmkd_core.plugins.sync import plan
    from mmkd_core.plugins.sync import sync as sync_teachers

    out = Output(json, root)
    workspace = Workspace.open(root)
    steps = plan(workspace.lock_file)
    for step in steps:
        source = f" from {step.source}" if step.source else ""
        here = f" (installed is {step.found})" if step.found else ""
        out.say(f"{step.what} {step.name} {step.wanted}{source}{here}, for {', '.join(step.teachers)}")
    if not steps:
        out.say("nothing is missing")
    if dry_run:
        out.finish({"steps": steps, "installed": []}, next="mmkd teachers sync" if steps else out.following())
        return
    with workspace.writing():
        done = sync_teachers(workspace.lock_file, watch())
    out.finish({"steps": steps, "installed": done}, next=out.following())


@app.command(epilog="Example:  mmkd teachers pack my-clip -o my-clip.mmkd")
def pack(
    name: Name,
    file: Annotated[Path | None, typer.Option("-o", "--out", metavar="FILE", help="NAME.mmkd if left out.")] = None,
    no_dependencies: Annotated[
        bool, typer.Option("--no-dependencies", help="Leave out what the package needs beyond mmkd.")
    ] = False,
    root: Root = HERE,
    json: Json = False,
    debug: Debug = False,
) -> None:
    """Write a teacher with its package, dependencies and weights into one file, for where there is no network."""
    from mmkd_core.integrate.workspace import Workspace
    from mmkd_core.plugins import PluginHost
    from mmkd_core.plugins.packs import SUFFIX
    from mmkd_core.plugins.packs import pack as pack_teacher

    out = Output(json, root)
    workspace = Workspace.open(root)
    target = file or Path(f"{name}{SUFFIX}")
    manifest = pack_teacher(name, workspace.root, target, PluginHost.discover(), dependencies=not no_dependencies)
    out.table(("file", "size"), [(inside, size(member.size)) for inside, member in manifest.members.items()])
    for requirement in manifest.lacking:
        out.say(f"left out: {requirement}")
    terms = manifest.teachers[0].license
    out.say(f"licence of the weights: {terms.weights}; see that it lets you pass them on")
    out.finish(
        {"pack": target, "manifest": manifest}, wrote=[target], next=f"mmkd teachers add {shlex.quote(str(target))}"
    )


def asking(out: Output, yes: bool) -> "Agree":
    """How an offer is put to the user: shows an offer; asks if somebody is there to answer."""

    def agree(offer: "Offer") -> bool | None:
        for field, value in offer.facts:
            out.say(f"{field}: {value}")
        if yes or not offer.needs:
            return True
        for need in offer.needs:
            out.say(f"this {need}")
        if not (on_terminal(sys.stdin) and on_terminal(sys.stderr)):
            return None
        return typer.confirm("Go on?", default=False, err=True)

    return agree


@app.command(epilog="Example:  mmkd teachers info phantom-sono")
def info(name: Name, root: Root = HERE, json: Json = False, debug: Debug = False) -> None:
    """Show all that is known about one teacher: model, domains, claims, licence, origin and lock."""
    from mmkd_core.plugins import PluginHost, load_registry, read_lock
    from mmkd_core.plugins import info as about

    out = Output(json, root)
    known = about(name, read_lock(root / LOCK), PluginHost.discover(), load_registry())
    out.table(("field", "value"), _lines(known))
    facts = {**vars(known), "fingerprint": _fingerprint(known)}
    out.finish(facts, next=out.following() if known.locked else f"mmkd teachers add {name}")


def _fingerprint(known: "TeacherInfo") -> str | None:
    """Under which its features are stored; None before the weights are pinned."""
    if known.locked:
        return known.locked.fingerprint
    return known.spec.fingerprint if known.spec and known.spec.pinned else None


def _conditions(terms: "LicenseInfo | RegistryLicense") -> Iterator[tuple[str, str]]:
    if terms.gated:
        yield "gated", "an account that accepted the terms is needed"
    if terms.url:
        yield "terms", terms.url


def _lines(known: "TeacherInfo") -> Iterator[tuple[str, str]]:
    from mmkd_core.plugins.licences import listed
    from mmkd_core.trust.sureness import sureness

    spec = known.spec
    if spec:
        yield "title", spec.title
        yield "summary", spec.summary
        yield "family", spec.family
        yield "domains", ", ".join(spec.domains)
        yield "image", f"{spec.image.size} pixels, {spec.image.resize}, {spec.image.interpolation}"
        yield "text", f"{spec.text.context_length} tokens ({spec.text.tokenizer})"
        scale = (known.locked.logit_scale if known.locked else None) or spec.logit_scale
        yield "embedding", f"{spec.embed_dim} dimensions, logit scale {scale:.1f}"
        yield "sure", sureness(scale)
        for domain, claim in spec.trust.items():
            yield f"claim {domain}", f"{100 * claim.score:.1f} {claim.metric} on {claim.dataset} (n={claim.n})"
        yield "licence", listed(spec.license, spec.license.code)
        yield from _conditions(spec.license)
        if spec.isolation:
            yield "runtime", f"isolated, with {', '.join(spec.isolation.requires) or 'nothing installed'}"
        yield "weights", "; ".join(f"{source.kind} {source.location}" for source in spec.weights)
        yield "training data", spec.provenance.training_data or "-"
        yield from ((what, said) for what in ("paper", "homepage") if (said := getattr(spec.provenance, what)))
        yield "fingerprint", _fingerprint(known) or "known when it is added: some of its files have no sha256 yet"
    elif known.entry:
        yield "summary", known.entry.summary
        yield "domains", ", ".join(known.entry.domains)
        yield "licence", listed(known.entry.license)
        yield from _conditions(known.entry.license)
        if known.entry.download:
            yield "download", size(known.entry.download)
        yield "package", f"{known.entry.package} (not installed; {known.entry.source.kind} source)"
        yield "status", f"{known.entry.status}, maintained by {', '.join(known.entry.maintainers)}"
    if known.plugin:
        yield "plugin", f"{known.plugin.provider}: {known.plugin.status} {known.plugin.error}".strip()
    locked = known.locked
    yield from (
        ("withdrawn", f"{version}: {why}") for version, why in (known.entry.yanked if known.entry else {}).items()
    )
    yield "in use", f"yes, locked with {locked.package} {locked.version} ({locked.source})" if locked else "no"
