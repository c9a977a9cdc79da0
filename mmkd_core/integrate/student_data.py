"""The student's side of a workspace: pixels of the corpus, the stage-1 student, and predictions of any student."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from mmkd_core.contract import TrustClaim
from mmkd_core.data.captions import label_caption
from mmkd_core.data.images import load_pixels
from mmkd_core.data.manifest import Corpus
from mmkd_core.errors import DataError
from mmkd_core.evaluate.embeddings import Embeddings
from mmkd_core.evaluate.predictions import Predictions
from mmkd_core.evaluate.zero_shot import class_texts, embedded_classes, zero_shot
from mmkd_core.integrate import releases
from mmkd_core.integrate.stage_one import DONE, finished, note_stage_one, run_of, stage_one_facts
from mmkd_core.integrate.workspace import Workspace, identity
from mmkd_core.progress import Progress, Silent
from mmkd_core.student import parallel
from mmkd_core.student.batches import Rows
from mmkd_core.student.captions import ONE_EACH, Captions
from mmkd_core.student.checkpoint import forget_checkpoint
from mmkd_core.student.config import PretrainConfig, StartConfig
from mmkd_core.student.model import Student
from mmkd_core.student.pretrain import pretrain
from mmkd_core.student.start import digests, licences, load_start, tokenizer_beside
from mmkd_core.trust import logits

_TEXTS = {"own": "their captions", "labels": "captions made from labels"}
Array = np.ndarray[Any, np.dtype[np.float32]]
Pixels = np.ndarray[Any, np.dtype[np.uint8]]


def pixels_of(
    workspace: Workspace, corpus: Corpus, progress: Progress | None = None, student: Student | None = None
) -> Pixels:
    """All images of the corpus at the student's size, uint8 (N, S, S, 3), as a memory map.

    Args:
        student: the one that will see them; by default one that is made as mmkd.yaml says.
    """
    config = workspace.config.student
    size, resize = (student.pixels, student.preprocess["resize_mode"]) if student else (config.pixels, config.resize)
    return load_pixels(corpus, None, size, resize, workspace.state / "pixels", progress)


def started_from(workspace: Workspace) -> dict[str, dict[str, Any]]:
    """By tower, path, sha256 and licence of the weights that the stage-1 student started from; empty if from none."""
    start = stage_one_facts(workspace)["start"]
    return _with_licences(start, workspace.config.student.start, workspace.root)


def _with_licences(found: Mapping[str, Any], start: StartConfig, root: Path) -> dict[str, dict[str, Any]]:
    """As they are known now: a licence may be looked up after the training."""
    known = {tower: license.model_dump(mode="json") for tower, license in licences(start, root).items()}
    return {tower: {**facts, **({"license": known[tower]} if tower in known else {})} for tower, facts in found.items()}


def shape_of(student: Student) -> dict[str, Any]:
    """What a release says of its student's input and output."""
    return {
        "size": student.pixels,
        "resize": student.preprocess["resize_mode"],
        "mean": student.preprocess["mean"],
        "std": student.preprocess["std"],
        "context_length": student.context_length,
        "embed_dim": student.embed_dim,
    }


def run_pretrain(
    workspace: Workspace, config: PretrainConfig, out: Path | None = None, progress: Progress | None = None
) -> tuple[Path, dict[str, Any]]:
    """Stage 1 on the workspace's corpus.

    Args:
        out: folder of the student; by default the workspace's own stage 1. A finished run of the same inputs is kept.

    Returns:
        The folder, and the facts of the run (steps, seconds, pairs, whether anything was trained).
    """
    corpus = workspace.corpus()
    unknown = sorted(set(config.domains) - set(corpus.domains))
    if unknown:
        raise DataError(f"no samples of {', '.join(unknown)}", next=f"The corpus has {', '.join(corpus.domains)}")
    rows = corpus.where(split="train", domains=config.domains or None)
    captions, whose = training_captions(corpus, rows, config.captions)
    seed = workspace.config.seed
    shape, root = workspace.config.student, workspace.root
    _require_whole_start(workspace)
    started = digests(shape.start, root)
    shaped = shape.model_dump(exclude={"start": {"license"}})
    key = identity(corpus.fingerprint, shaped, config.model_dump(), seed, started)
    run = run_of(out) if out else workspace.runs / "pretrain"
    folder = out or run / "student"
    with parallel.leader_first():
        done = finished(workspace, corpus, run, folder, key, progress or Silent())
        pixels = pixels_of(workspace, corpus, progress)
    if done:
        return folder, {**done, "trained": False}
    published = root / shape.text.files if shape.text.files else tokenizer_beside(shape.start, root)
    here = np.isin(corpus.owners[: len(captions)], rows)
    words = [text for text, ours in zip(captions, here, strict=True) if ours]
    student = Student.build(shape, [*words, *class_texts(corpus)], seed, published)
    load_start(student, shape.start, root)
    if parallel.leads():
        (run / DONE).unlink(missing_ok=True)
    start = time.monotonic()
    pretrain(
        student,
        pixels,
        captions,
        corpus.domain,
        rows,
        config,
        run,
        seed=seed,
        identity=key,
        whose=whose,
        progress=progress,
        trackers=workspace.config.log,
    )
    parallel.only_leader()
    student.save(folder)
    facts = {
        "identity": key,
        "steps": config.steps,
        "pairs": len(rows),
        "domains": list(config.domains) or corpus.domains,
        "start": _with_licences(started, shape.start, root),
        "data": f"{len(rows)} images of {workspace.config.name} (train split, {_TEXTS[config.captions]})",
        "images": some_images(corpus, rows),
    }
    seconds = round(time.monotonic() - start, 1)
    note_stage_one(workspace, corpus, config, run, folder, {**facts, "seconds": seconds})
    forget_checkpoint(run)
    return folder, {**facts, "seconds": time.monotonic() - start, "trained": True}


def _require_whole_start(workspace: Workspace) -> None:
    """Refuse to start from the student of a release that is damaged."""
    start = workspace.config.student.start
    for path in {(workspace.root / given).resolve() for given in (start.image, start.text) if given}:
        folder = path if path.is_dir() else path.parent
        if folder.name == "student" and folder.parent.parent == workspace.releases.resolve():
            assert releases.release(workspace, folder.parent.name).student


def training_captions(corpus: Corpus, rows: np.ndarray[Any, Any], kind: str) -> tuple[list[str], Captions]:
    """All captions of the samples, or a sentence made from the labels of each, and which are whose.

    Sentences of samples outside ``rows`` are left empty.

    Raises:
        DataError: captions of labels are asked for and a sample in ``rows`` has none.
    """
    if kind == "own":
        return corpus.texts, Captions.of(corpus)
    lacking = rows[~corpus.labelled[rows]]
    if len(lacking):
        what = f"{len(lacking)} training samples have no label, the first is {corpus.image[lacking[0]]}"
        raise DataError(what, next="Use --captions own, or give the samples labels and import them again")
    classes = {domain: corpus.classes(domain) for domain in corpus.domains}
    texts = [""] * len(corpus)
    for i in rows:
        domain = str(corpus.domain[i])
        texts[i] = label_caption(domain, corpus.named(i) or (), classes[domain], str(corpus.image_id[i]))
    return texts, ONE_EACH


def some_images(corpus: Corpus, rows: Rows) -> list[str]:
    """The first eight ids of the images of some samples, by which a teacher that is made from them can be told."""
    return sorted({str(name) for name in corpus.image_id[rows]})[:8]


def student_classes(student: Student, corpus: Corpus) -> dict[str, np.ndarray[Any, Any]]:
    """Class embeddings by domain, as ``zero_shot`` needs them."""
    return embedded_classes(corpus, student.embed_texts)


def embed(student: Student, corpus: Corpus, pixels: Pixels, split: str = "test") -> Embeddings:
    """What a student makes of the images and captions of one split."""
    rows = corpus.where(split=split)
    part = corpus.take(rows)
    distinct = list(dict.fromkeys(part.texts))
    place = {text: i for i, text in enumerate(distinct)}
    texts = student.embed_texts(distinct)[[place[text] for text in part.texts]]
    first, further = np.split(texts, [len(rows)])
    return Embeddings(
        corpus.sample_id[rows], embed_images(student, corpus, pixels, rows), first, further, part.owners[len(rows) :]
    )


def embed_images(student: Student, corpus: Corpus, pixels: Pixels, rows: Rows) -> Array:
    """Embeddings (n, D) of the images of some samples; each different image is looked at once, so that copies of it get
    the very same.
    """
    _, first, place = np.unique(corpus.image_id[rows].astype(str), return_index=True, return_inverse=True)
    embedded: Array = student.embed_images(pixels[rows[first]])[place]
    return embedded


def predict(
    student: Student, corpus: Corpus, pixels: Pixels, split: str = "test", embedded: Embeddings | None = None
) -> Predictions:
    """Zero-shot predictions of a student on one split; ``embedded`` is what ``embed`` gave for it, if it is at hand."""
    rows = corpus.where(split=split)
    images = embedded.images if embedded else embed_images(student, corpus, pixels, rows)
    return zero_shot(images, student_classes(student, corpus), student.logit_scale, corpus.take(rows))


def measured_claims(workspace: Workspace, student: Student, domains: tuple[str, ...]) -> dict[str, TrustClaim]:
    """What an exported teacher may claim: its zero-shot accuracy on the validation images of each of its domains.

    Nothing is claimed where these are too few to be a measurement.
    """
    corpus, minimum = workspace.corpus(), workspace.config.trust.minimum
    predictions = predict(student, corpus, pixels_of(workspace, corpus), split="val")
    claims = {}
    for domain in domains:
        part = predictions.domains.get(domain)
        if part is not None and not all(minimum.lacks(*asked) for asked in part.questions):
            right = float(part.hits.mean())
            claims[domain] = TrustClaim(
                score=round(right, 4),
                metric="zero-shot accuracy",
                dataset=f"{workspace.config.name}, validation split of {domain}",
                n=len(part),
                source="measured by mmkd export",
            )
    return claims


def probe_scores(student: Student, corpus: Corpus, pixels: Pixels) -> dict[str, np.ndarray[Any, Any]]:
    """Logits (v, C) by domain on the probe split (val), as the rule by gain wants them."""
    scores = {}
    for domain, classes in student_classes(student, corpus).items():
        rows = corpus.where(split="val", domains=[domain])
        if len(rows) and classes.ndim == 2:
            scores[domain] = logits(embed_images(student, corpus, pixels, rows), classes, student.logit_scale)
    return scores
