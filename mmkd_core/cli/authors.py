"""`mmkd teachers check` and `mmkd teachers new`: what the author of a teacher needs."""

import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mmkd_core.cli.options import HERE, Debug, Json, Root
from mmkd_core.cli.output import Output, size

if TYPE_CHECKING:
    from mmkd_core.integrate.golden import Compared
    from mmkd_core.plugins.card import Card

app = typer.Typer()

LOCK = "mmkd.lock"  # as in cli.teachers

Name = Annotated[str, typer.Argument(metavar="NAME", help="Name of the teacher.")]


@app.command(epilog="Example:  mmkd teachers check phantom-sono --full")
def check(
    name: Name,
    published: Annotated[
        Path | None,
        typer.Argument(metavar="DIR", help="With --golden: the folder that the paper's authors publish (meta.jsonl)."),
    ] = None,
    full: Annotated[bool, typer.Option("--full", help="Read and hash every file of its weights again.")] = False,
    golden: Annotated[
        bool,
        typer.Option(
            "--golden",
            help="Compare it with the features that the paper's authors published: those in DIR, else those that this "
            "workspace has imported.",
        ),
    ] = False,
    root: Root = HERE,
    json: Json = False,
    debug: Debug = False,
) -> None:
    """Examine a teacher and print its card; exit 0 if all passed, 1 if a check failed, 2 if it cannot be checked."""
    from mmkd_core.plugins import read_lock
    from mmkd_core.plugins.card import check as check_teacher

    if published and not golden:
        raise typer.BadParameter("a folder belongs to --golden", param_hint="DIR")
    out = Output(json, root)
    if golden:
        from mmkd_core.integrate.golden import run_golden

        card, compared = run_golden(name, root, published, full=full)
    else:
        card, compared = check_teacher(name, root / LOCK, full=full), None
    out.table(("field", "value"), _card_lines(card))
    out.say()
    out.table(("check", "result", "reason"), [(c.name, c.status, c.reason) for c in card.checks])
    failed = [c.name for c in card.checks if c.status == "failed"]
    verdict = f"{name} failed {len(failed)} of {len(card.checks)} checks: {', '.join(failed)}"
    out.say(verdict if failed else f"{name} passed every check that applies")
    good = not failed and (compared is None or compared.passed)
    if compared:
        _say_golden(out, name, compared)
    passed = "mmkd extract" if name in read_lock(root / LOCK).teachers else f"mmkd teachers add {name}"
    next_step = passed if good else f"Mend the plugin, then run `mmkd teachers check {name}`"
    further = {"published": {**vars(compared), "passed": compared.passed}} if compared else {}
    out.finish({**card.model_dump(mode="json"), **further, "passed": good}, next=next_step)
    if not good:
        raise typer.Exit(1)


def _say_golden(out: Output, name: str, compared: "Compared") -> None:
    out.say()
    out.table(
        ("pair", "image", "text"),
        [(pair, f"{row['image']:.4f}", f"{row['text']:.4f}") for pair, row in compared.cosines.items()],
    )
    for pair, reason in compared.skipped:
        out.say(f"left out: {pair}: {reason}")
    found = "; ".join(filter(None, (compared.summary(tower) for tower in ("image", "text"))))
    verdict = compared.differs or f"equals it (at least {compared.same:g} is asked)"
    out.say(f"{name} against the published {compared.model}: {verdict}{f' ({found})' if found else ''}")


def _card_lines(card: "Card") -> Iterator[tuple[str, str]]:
    from mmkd_core.plugins.licences import listed
    from mmkd_core.trust.sureness import sureness

    spec = card.spec
    yield "teacher", f"{spec.name}: {spec.title}"
    yield "family", spec.family
    yield "image", f"{spec.image.size} pixels, {spec.image.resize}, {spec.image.interpolation}"
    yield "text", f"{spec.text.context_length} tokens ({spec.text.tokenizer})"
    yield "embedding", f"{spec.embed_dim} dimensions, logit scale {spec.logit_scale:.4g}"
    yield "sure", sureness(spec.logit_scale)
    yield "domains", ", ".join(spec.domains)
    yield "licence", listed(spec.license, spec.license.code)
    yield "weights", "not on disk" if card.weights_bytes is None else size(card.weights_bytes)
    if card.seconds_per_image is not None and card.seconds_per_text is not None:
        threads = f"{card.threads} thread{'s' if card.threads > 1 else ''}"
        yield (
            "speed here",
            f"{card.seconds_per_image:.2g} s per image, {card.seconds_per_text:.2g} s per text ({threads})",
        )
    yield "fingerprint", card.fingerprint


@app.command(epilog="Example:  mmkd teachers new my-clip --from weights/")
def new(
    name: Name,
    folder: Annotated[Path | None, typer.Argument(metavar="DIR", help="Where to write; mmkd-NAME if left out.")] = None,
    family: Annotated[
        str | None, typer.Option(help="Of the model: open_clip (if left out) or transformers; --from says it itself.")
    ] = None,
    weights: Annotated[
        Path | None,
        typer.Option("--from", metavar="DIR", help="Fill the spec in from a checkpoint's folder."),
    ] = None,
    license: Annotated[str, typer.Option(help="Of the package's code: Apache-2.0 or MIT.")] = "Apache-2.0",
    root: Root = HERE,
    json: Json = False,
    debug: Debug = False,
) -> None:
    """Write a plugin package that passes its own tests, for a checkpoint or with tiny weights; show what to fill in."""
    from mmkd_core.testing.scaffold import new_plugin

    out = Output(json)  # the package belongs to no workspace
    target = new_plugin(name, folder, family=family, license=license, weights=weights)
    module = next((target / "src").glob("*/__init__.py"))
    marked = [
        (n, line.strip()) for n, line in enumerate(module.read_text("utf-8").splitlines(), 1) if "# CHANGE" in line
    ]
    out.say(f"to fill in, in {module}:")
    for number, line in marked:
        out.say(f"  line {number}: {line}")
    facts = {"teacher": name, "folder": target, "module": module, "lines": [number for number, _ in marked]}
    out.finish(facts, wrote=[target], next=f"cd {shlex.quote(str(target))} && pytest")
