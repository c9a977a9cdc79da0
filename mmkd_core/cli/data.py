"""`mmkd data`: where the images come from, and whether they are fit."""

import shlex
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mmkd_core.cli.options import HERE, Debug, Json, Root, names
from mmkd_core.cli.output import Output

if TYPE_CHECKING:
    from mmkd_core.data.issues import Remarks
    from mmkd_core.data.manifest import Corpus
    from mmkd_core.data.report import ImportReport
    from mmkd_core.integrate.workspace import Workspace

LabelsFrom = Annotated[
    str | None,
    typer.Option(metavar="A,B", help="Columns of 1 and 0 that are findings, or names of the places of such lists."),
]
MergeLabels = Annotated[
    bool, typer.Option("--merge-labels", help="Labels that differ only by case, white space or Unicode form are one.")
]
Strict = Annotated[bool, typer.Option("--strict", help="Refuse what the summary would remark upon; write nothing.")]

app = typer.Typer(help="Make, import and check the images and captions.", no_args_is_help=True)


@app.command(epilog="Example:  mmkd data phantom --train 600 --seed 3")
def phantom(
    seed: Annotated[
        int | None, typer.Option(min=0, max=2**32 - 1, help="Other patients; the workspace's seed if left out.")
    ] = None,
    train: Annotated[int | None, typer.Option(min=0, help="Training images per domain  [default: 600]")] = None,
    val: Annotated[int | None, typer.Option(min=0, help="Probe images per domain  [default: 100]")] = None,
    test: Annotated[int | None, typer.Option(min=0, help="Test images per domain  [default: 200]")] = None,
    domains: Annotated[str | None, typer.Option(metavar="A,B", help="Only these domains; all if left out.")] = None,
    poor_captions: Annotated[
        bool, typer.Option("--poor-captions", help="Half of the captions say nothing of the finding, 15 % are false.")
    ] = False,
    workers: Annotated[int, typer.Option(min=1, help="Processes that draw; they change no image.")] = 1,
    root: Root = HERE,
    json: Json = False,
    debug: Debug = False,
) -> None:
    """Draw synthetic medical images of eight domains, with findings, captions and patients."""
    from mmkd_core.cli.progress import watch
    from mmkd_core.data.phantom.generate import POOR_CAPTIONS, PhantomConfig, generate
    from mmkd_core.integrate.workspace import Workspace

    workspace = Workspace.open(root)
    sizes = {"train": train, "val": val, "test": test}
    given: dict[str, Any] = {name: number for name, number in sizes.items() if number is not None}
    if domains:
        given["domains"] = names(domains)
    if poor_captions:
        given |= POOR_CAPTIONS
    config = PhantomConfig(seed=workspace.config.seed if seed is None else seed, **given)
    with workspace.writing():
        corpus = generate(_folder(workspace), config, workers=workers, progress=watch())
    out = Output(json, root)
    if config.spoilt:
        out.say(f"note: {config.spoilt}")
    _answer(out, corpus, {"config": config})


@app.command("phantom-sets", epilog="Example:  mmkd data phantom-sets --out evals")
def phantom_sets(
    out: Annotated[Path, typer.Option(metavar="DIR", help="Folder of the sets.")] = Path("evals"),
    root: Root = HERE,
    json: Json = False,
    debug: Debug = False,
) -> None:
    """Write evaluation sets of the phantom images with their truth: findings, questions, follow-up of patients."""
    from mmkd_core.data.phantom.tasks import phantom_sets as write
    from mmkd_core.integrate.workspace import Workspace

    answer, workspace = Output(json, root), Workspace.open(root)
    sets = write(workspace.root / out, _folder(workspace))
    rows = [(found.task.name, len(found), ", ".join(found.task.tasks)) for found in sets]
    answer.table(("set", "rows", "tasks"), rows)
    folders = [found.folder for found in sets]
    answer.finish({"sets": [found.task for found in sets]}, wrote=folders, next=_evaluate(folders[0]))


@app.command("import-set", epilog="Example:  mmkd data import-set hf:owner/name --revision main --domain pathology")
def import_set(
    source: Annotated[
        str,
        typer.Argument(help="hf:OWNER/NAME, a folder with parquet files, a MedMNIST .npz, a CLIP_benchmark folder."),
    ],
    domain: Annotated[str | None, typer.Option(metavar="NAME", help="Modality; MedMNIST's own if left out.")] = None,
    name: Annotated[str | None, typer.Option(help="Of the set; the source's if left out.")] = None,
    revision: Annotated[
        str | None, typer.Option(metavar="REV", help="Of a data set of the hub; its commit is recorded.")
    ] = None,
    config: Annotated[str | None, typer.Option(metavar="NAME", help="Which configuration of a data set.")] = None,
    columns: Annotated[
        str | None, typer.Option(metavar="A=B,C=D", help="Its columns B, D for ours, as label=dx,group_id=patient.")
    ] = None,
    keep_once: Annotated[
        bool, typer.Option("--keep-once", help="Of copies in two splits keep that of test, else of val.")
    ] = False,
    labels_from: LabelsFrom = None,
    merge_labels: MergeLabels = False,
    strict: Strict = False,
    out: Annotated[Path, typer.Option(metavar="DIR", help="Folder of the sets.")] = Path("evals"),
    root: Root = HERE,
    json: Json = False,
    debug: Debug = False,
) -> None:
    """Make an evaluation set of a data set of the Hugging Face hub, a MedMNIST file or a CLIP_benchmark folder."""
    from mmkd_core.cli.progress import watch
    from mmkd_core.data.options import Reading
    from mmkd_core.integrate.importing_sets import import_set as run
    from mmkd_core.integrate.workspace import Workspace

    answer, workspace = Output(json, root), Workspace.open(root)
    how = Reading(
        _pairs(columns), config, revision, keep_once=keep_once, labels_from=names(labels_from),
        merge_labels=merge_labels, strict=strict,
    )  # fmt: skip
    found, remarks = run(source, workspace.root / out, name, domain, how, watch())
    _remarks(answer, remarks)
    rows = [(split, len(found.where(split))) for split in ("train", "val", "test")]
    answer.table(("split", "rows"), rows)
    answer.say(f"{found.task.name} has the tasks {', '.join(found.task.tasks)}")
    if (found["group_id"] == found["image"]).all():
        answer.say("note: no patients are named: every image is its own group, so intervals may be too narrow")
    answer.finish({"set": found.task, "report": remarks}, wrote=[found.folder], next=_evaluate(found.folder))


def _evaluate(folder: Path) -> str:
    return f"mmkd eval set {shlex.quote(str(folder))} current"


def _pairs(text: str | None) -> dict[str, str]:
    """``label=dx,group_id=patient`` as a mapping."""
    from mmkd_core.errors import DataError

    pairs = [part.partition("=") for part in text.split(",")] if text else []
    if any(not (ours and theirs) for ours, _, theirs in pairs):
        raise DataError(f"--columns must be pairs, not {text!r}", next="Write --columns image=img,label=diagnosis.")
    return {ours.strip(): theirs.strip() for ours, _, theirs in pairs}


@app.command("import", epilog="Example:  mmkd data import images/manifest.csv")
def import_(
    path: Annotated[
        Path,
        typer.Argument(
            help="Folder of images with a .txt beside each; or a manifest (csv, jsonl, parquet), shards or MedMNIST."
        ),
    ],
    domain: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="Kind of all images, such as xray, where no column or folder says it."),
    ] = None,
    labels_from: LabelsFrom = None,
    merge_labels: MergeLabels = False,
    caption_lines: Annotated[
        bool, typer.Option("--caption-lines", help="Every line of a .txt is a caption of its own.")
    ] = False,
    max_bad: Annotated[int, typer.Option(min=0, help="Unreadable images that may be left out.")] = 0,
    strict: Strict = False,
    root: Root = HERE,
    json: Json = False,
    debug: Debug = False,
) -> None:
    """Bring in real images: hash them, assign splits by patient, and turn labels into captions."""
    from mmkd_core.cli.progress import watch
    from mmkd_core.data.importers import ImportOptions
    from mmkd_core.integrate.importing import import_corpus
    from mmkd_core.integrate.workspace import Workspace

    out = Output(json, root)
    options = ImportOptions(
        domain=domain, labels_from=names(labels_from), caption_lines=caption_lines,
        merge_labels=merge_labels, strict=strict, max_bad=max_bad, progress=watch(),
    )  # fmt: skip
    workspace = Workspace.open(root)
    with workspace.writing():
        corpus, report = import_corpus(workspace, path, options)
    show_report(out, report)
    _answer(out, corpus, {"report": report})


def show_report(out: Output, report: "ImportReport") -> None:
    """What an import leaves a person to know, and captions as a student will read them."""
    _remarks(out, report)
    out.say("captions as they will be trained on:")
    for caption in report.captions:
        out.say(f"  {caption}")


def _remarks(out: Output, found: "Remarks") -> None:
    from mmkd_core.data.issues import absent_lines

    out.say(f"rows read: {found.rows:,}")
    for issue in found.left_out:
        out.say(f"left out: {issue}")
    for line in absent_lines(found.absent):
        out.say(f"taken as absent: {line}")
    for issue in found.issues:
        out.say(f"look at: {issue}")
    for line in found.notes:
        out.say(f"note: {line}")


@app.command(epilog="Example:  mmkd data check")
def check(root: Root = HERE, json: Json = False, debug: Debug = False) -> None:
    """Read every image again and look for what would spoil training; exit code 1 if there is anything."""
    from mmkd_core.cli.progress import watch
    from mmkd_core.data.check import check as look
    from mmkd_core.integrate.workspace import Workspace

    out = Output(json, root)
    found = look(Workspace.open(root).corpus(whole=True), progress=watch())
    for kind, issues in (("problem", found.problems), ("warning", found.warnings)):
        for issue in issues:
            out.say(f"{kind}: {issue}")
    if found.ok:
        out.say(f"{found.samples:,} samples are fit for use")
    following = out.following() if found.ok else "Mend the images or the manifest, and import them again"
    out.finish({**vars(found), "ok": found.ok}, next=following)
    if not found.ok:
        raise typer.Exit(1)


def _folder(workspace: "Workspace") -> Path:
    return workspace.root / workspace.config.data


def _answer(out: Output, corpus: "Corpus", facts: dict[str, Any]) -> None:
    splits = ("train", "val", "test")
    counts = Counter(zip(corpus.domain, corpus.split, strict=True))
    rows = [(domain, *(counts[domain, split] for split in splits)) for domain in corpus.domains]
    out.table(("domain", *splits), rows)
    domains = {domain: dict(zip(splits, numbers, strict=True)) for domain, *numbers in rows}
    whole = {"samples": len(corpus), "domains": domains, "fingerprint": corpus.fingerprint, **facts}
    out.finish(whole, wrote=[corpus.root], next=out.following())
