"""`mmkd export`: a student leaves, for open_clip, transformers or ONNX, or as a teacher for others."""

import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mmkd_core.cli.options import HERE, Debug, Json, Root, names
from mmkd_core.cli.output import Output, points, span
from mmkd_core.student.forms import FORMS, Form

if TYPE_CHECKING:
    from collections.abc import Mapping

    from mmkd_core.contract import LicenseInfo, TeacherSpec, TrustClaim
    from mmkd_core.data.manifest import Corpus
    from mmkd_core.integrate.releases import Release as Found
    from mmkd_core.student.model import Student

app = typer.Typer(help="Write a student for other programs, or as a teacher for others.", no_args_is_help=True)

Folder = Annotated[Path, typer.Argument(metavar="DIR", help="Where to write; a new folder.")]
Release = Annotated[str | None, typer.Option(metavar="ID", help="Of a release; the one in use if left out.")]
Trained = Annotated[Path | None, typer.Option(metavar="FOLDER", help="A student of `mmkd pretrain --out`.")]


@dataclass(frozen=True)
class _Source:
    """Which student leaves, and what is known about its training."""

    folder: Path
    name: str
    data: str
    domains: tuple[str, ...]
    license: dict[str, Any] | None = None
    """Of a release: the most restrictive of all that it comes from."""
    licenses: dict[str, Any] | None = None
    """Of each teacher, and of the weights that it started from."""
    predictions: Path | None = None
    """Of a release: on the test split."""
    origin: tuple[str, ...] = ()
    """Data, release and hashes, a line each, for the model card."""
    images: tuple[str, ...] = ()
    """Ids of some of the images that it was trained on."""


def _command(form: Form) -> None:
    """A command that writes a folder for a library; they differ in nothing but the form."""

    def command(
        folder: Folder,
        release: Release = None,
        student: Trained = None,
        root: Root = HERE,
        json: Json = False,
        debug: Debug = False,
    ) -> None:
        _export(folder, form, release, student, root, json)

    app.command(form.name, help=form.says, epilog=f"Example:  mmkd export {form.name} {form.example}")(command)


for _form in FORMS.values():
    _command(_form)


@app.command(epilog="Example:  mmkd export teacher dist my-radio --student runs/radio")
def teacher(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Where to write the package.")],
    name: Annotated[str, typer.Argument(metavar="NAME", help="Of the teacher, such as my-radio.")],
    release: Release = None,
    student: Trained = None,
    domains: Annotated[
        str | None, typer.Option(metavar="A,B", help="Where the teacher is good; where it was trained if left out.")
    ] = None,
    into: Annotated[
        bool, typer.Option("--into", help="DIR is a plugin's module: write only the teacher, beside its others.")
    ] = False,
    root: Root = HERE,
    json: Json = False,
    debug: Debug = False,
) -> None:
    """Write the student as a plugin that others add as a teacher: source package and wheel."""
    source = _source(root, release, student)
    _teacher(Output(json, root), root, source, name, names(domains) or source.domains, folder, into)


def _export(folder: Path, form: Form, release: str | None, student: Path | None, root: Path, json: bool) -> None:
    from mmkd_core.cli.output import plain
    from mmkd_core.student.card import model_card
    from mmkd_core.student.export import export_folder
    from mmkd_core.student.model import Student

    out, source = Output(json, root), _source(root, release, student)
    load, terms, taught = form.load.format(folder), _terms(source), _taught(source)
    summary = source.data or "An image-text student of mmkd"
    results = _results(source.predictions)
    card = model_card(f"Student {source.name}", summary, terms, taught, load, results, form.library, source.origin)
    kept = plain({"student": source.name, "load": load, "license": terms, "licenses": taught})
    parity = export_folder(Student.load(source.folder), folder, form.name, card, kept)
    out.say(f"licence: {terms.weights}")
    out.say(f"loaded in a fresh process: same tokens, embeddings within {parity.difference:.0e}")
    facts = {"student": source.name, "folder": folder, "load": load, "license": terms, "parity": parity}
    out.finish(facts, wrote=[folder], next=f"Load it with {load}")


def _results(predictions: Path | None) -> list[tuple[str, str, int]]:
    """Domain, AUC with its interval, and patients, for the model card."""
    from mmkd_core.evaluate.predictions import Predictions
    from mmkd_core.evaluate.summary import summarise

    if predictions is None:
        return []
    found = summarise(Predictions.load(predictions)).domains.items()
    return [(d, f"{points(e.auc.estimate)} ({span(e.auc.lower, e.auc.upper)})", e.groups) for d, e in found if e.auc]


def _terms(source: _Source) -> "LicenseInfo":
    """What binds the student: what is said of a release, else the most restrictive of ours and of where it began."""
    from mmkd_core.contract import LicenseInfo
    from mmkd_core.plugins.licences import most_restrictive
    from mmkd_core.student.export import OWN_LICENSE

    if source.license:
        return LicenseInfo(**source.license)
    return most_restrictive([OWN_LICENSE, *_taught(source).values()])


def _taught(source: _Source) -> dict[str, "LicenseInfo"]:
    from mmkd_core.contract import LicenseInfo

    return {name: LicenseInfo(**license) for name, license in (source.licenses or {}).items()}


def _teacher(
    out: Output, root: Path, source: _Source, name: str, domains: tuple[str, ...], folder: Path, into: bool
) -> None:
    from mmkd_core.student.export import export_teacher, write_teacher
    from mmkd_core.student.model import Student

    _check(name, domains)
    short = _short(name, folder) if into else ""
    student = Student.load(source.folder)
    facts: dict[str, Any] = {"domains": domains, "trust": _claims(root, student, domains), "training_data": source.data}
    facts |= {"license": _terms(source), "images": source.images}
    if into:
        target = folder / short
        spec = write_teacher(student, target, name, location=f"{folder.name}:{short}", **facts)
        out.finish(_facts(source, spec), wrote=[target], next=f"mmkd teachers info {name}")
        return
    spec, wheel = export_teacher(student, folder, name, _taught(source), **facts)
    written = [folder / f"mmkd-{name}", wheel]
    out.finish(
        {**_facts(source, spec), "wheel": wheel}, wrote=written, next=f"mmkd teachers add {shlex.quote(str(wheel))}"
    )


def _claims(root: Path, student: "Student", domains: tuple[str, ...]) -> dict[str, "TrustClaim"]:
    """Measured on the workspace's validation images; nothing is claimed where there is no workspace."""
    from mmkd_core.integrate.student_data import measured_claims
    from mmkd_core.integrate.workspace import CONFIG, Workspace

    return measured_claims(Workspace.open(root), student, domains) if (root / CONFIG).exists() else {}


def _facts(source: _Source, spec: "TeacherSpec") -> dict[str, Any]:
    return {"student": source.name, "teacher": spec.name, "fingerprint": spec.fingerprint, "domains": spec.domains}


def _source(root: Path, release: str | None, student: Path | None) -> _Source:
    """The student that is meant; a release needs a workspace, a folder does not."""
    from mmkd_core.errors import ReleaseError
    from mmkd_core.integrate import releases
    from mmkd_core.integrate.stage_one import pretrained
    from mmkd_core.integrate.student_data import some_images
    from mmkd_core.integrate.workspace import Workspace

    if student and release:
        raise typer.BadParameter("give --release or --student, not both")
    if student is not None:
        facts = pretrained(student)
        began, said = releases.starts(facts.get("start", {})), facts.get("data", "")
        made = (f"Trained on {said}, in {facts['steps']:,} steps.",) if said else ()
        domains, images = tuple(facts.get("domains", ())), tuple(facts.get("images", ()))
        return _Source(student, student.name, said, domains, licenses=began, origin=made, images=images)
    workspace = Workspace.open(root)
    found = releases.release(workspace, release) if release else releases.current(workspace)
    if found is None:
        raise ReleaseError("there is no release in use", next="Run `mmkd distill`, or name a folder with --student")
    releases.verify(found)
    data = f"release {found.id} of {workspace.config.name}, distilled from {', '.join(found.teachers)}"
    licences = {**found.facts["licenses"], **releases.starts(found.facts.get("start", {}))}
    corpus = workspace.corpus()
    terms, said, origin = found.facts["license"], found.predictions, _origin(found, corpus)
    images = tuple(some_images(corpus, corpus.where("train")))
    return _Source(found.student, found.id, data, tuple(corpus.domains), terms, licences, said, origin, images)


def _origin(found: "Found", corpus: "Corpus") -> tuple[str, ...]:
    """What a release was made of and from, for the model card."""
    train = corpus.where(split="train")
    counts = ", ".join(f"{domain} {len(corpus.where('train', [domain])):,}" for domain in corpus.domains)
    groups, weights = len(set(corpus.group_id[train])), found.facts["files"]["student/open_clip_model.safetensors"]
    return (
        f"Trained on {len(train):,} images and captions of {groups:,} groups (patients, slides, articles): {counts}.",
        f"Fingerprint of the data: `{corpus.fingerprint}`.",
        f"Release {found.id}, recipe {found.facts['recipe']}, {found.facts['steps']:,} steps"
        + (f", from release {found.parent}" if found.parent else "")
        + f"; sha256 of its weights: `{weights}`.",
        *_claims_alone(found.facts.get("claimed", {})),
        "Hashes of all files here: `SHA256SUMS`; how far they are from the release: `mmkd.json`.",
    )


def _claims_alone(claimed: "Mapping[str, Mapping[str, float]]") -> list[str]:
    """What was taught without a measurement, because a person let claims count."""
    named = {t: ", ".join(f"{d} ({points(claim)} %)" for d, claim in found.items()) for t, found in claimed.items()}
    why = "on its authors' claim alone: nothing was measured there"
    return [f"{teacher} taught {domains} {why}." for teacher, domains in named.items()]


def _check(name: str, domains: tuple[str, ...]) -> None:
    import re

    from mmkd_core.contract import NAME_PATTERN
    from mmkd_core.errors import PluginError

    if not re.fullmatch(NAME_PATTERN, name):
        what = f"{name!r} cannot be the name of a teacher"
        raise PluginError(what, next="Use small letters, digits and single hyphens, such as my-radio")
    if not domains:
        raise PluginError("it is not known where the teacher is good", next="Name its domains: --domains xray,ct")


def _short(name: str, package: Path) -> str:
    """``phantom-radio`` in the package ``mmkd_phantom`` lies in its folder ``radio``."""
    from mmkd_core.errors import PluginError

    plugin = package.name.removeprefix("mmkd_").replace("_", "-")
    if not name.startswith(f"{plugin}-"):
        what = f"teacher {name} does not belong into package {package.name}"
        raise PluginError(what, where=str(package), next=f"Call it {plugin}-..., after its plugin")
    return name.removeprefix(f"{plugin}-")
