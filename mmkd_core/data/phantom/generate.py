"""From a seed to a corpus on disk: patients, their images, captions, manifest and prompts.

Every image comes from its own random stream, keyed by seed, domain, patient and image, so neither the number of
workers nor the order nor an interruption changes a pixel. Patients of the three splits have numbers of their own, so a
larger train split leaves val and test as they are.
"""

from __future__ import annotations

import io
import json
import multiprocessing
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from mmkd_core.data.manifest import MANIFEST, Corpus, image_id
from mmkd_core.data.phantom.canvas import Truth
from mmkd_core.data.phantom.captions import clean_caption, poor_caption, prompts
from mmkd_core.data.phantom.catalogue import DOMAINS, FINDINGS, PAINTERS, check_finding
from mmkd_core.errors import DataError
from mmkd_core.files import replacing
from mmkd_core.progress import Progress, Silent

VERSION = 1
"""Of the drawing: raised whenever the same configuration gives other pixels or words."""

STAMP = "phantom.json"
_FIRST_PATIENT = {"train": 0, "val": 10_000_000, "test": 20_000_000}
_SAME_FINDING = 0.88
_PATIENTS_PER_JOB = 24


POOR_CAPTIONS = {"plain_captions": 0.5, "wrong_captions": 0.15}
"""Shares that imitate public image-text pairs: from captions alone a student then learns little."""


class PhantomConfig(BaseModel):
    """What to generate. Sizes are images per domain; the last patient of a split has only as many as are missing."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    seed: int = Field(default=0, ge=0, lt=2**32, description="another seed gives other patients")
    domains: tuple[str, ...] = Field(default=DOMAINS, description="in any order; the order changes no image")
    train: int = Field(default=800, ge=0, description="training images per domain")
    val: int = Field(default=100, ge=0, description="validation images per domain")
    test: int = Field(default=200, ge=0, description="test images per domain")
    plain_captions: float = Field(default=0, ge=0, le=1, description="share of captions that name no finding")
    wrong_captions: float = Field(default=0, ge=0, le=1, description="share of captions that name a wrong finding")

    @field_validator("domains")
    @classmethod
    def _known(cls, domains: tuple[str, ...]) -> tuple[str, ...]:
        for domain in domains:
            check_finding(domain)
        if not domains or len(set(domains)) < len(domains):
            raise ValueError("domains must be given, each once")
        return domains

    @model_validator(mode="after")
    def _shares(self) -> PhantomConfig:
        if self.plain_captions + self.wrong_captions > 1:
            raise ValueError("plain_captions + wrong_captions must be at most 1")
        return self

    @property
    def spoilt(self) -> str:
        """What is wrong with the captions on purpose, as a sentence; empty if nothing is."""
        if not self.plain_captions and not self.wrong_captions:
            return ""
        silent, false = (f"{100 * share:.0f} %" for share in (self.plain_captions, self.wrong_captions))
        return f"The captions are poor on purpose: {silent} say only what kind of image it is, {false} are false."


@dataclass(frozen=True)
class Sample:
    """One image with everything that is known about it."""

    name: str
    """Path of the image below the corpus folder."""
    domain: str
    split: str
    group_id: str
    label: str
    caption: str
    clean_caption: str
    truth: Truth
    """What was drawn (places, sizes, numbers): the ground truth of later questions."""
    image: NDArray[np.uint8]


@dataclass(frozen=True)
class _Visit:
    """One patient of one domain: what they have and how many of their images are wanted."""

    domain: str
    split: str
    number: int
    finding: str
    images: int


def samples(config: PhantomConfig) -> Iterator[Sample]:
    """Draw the whole corpus in order, without touching the disk."""
    for visit in _visits(config):
        yield from _patient_samples(config, visit)


def generate(root: Path, config: PhantomConfig, workers: int = 1, progress: Progress | None = None) -> Corpus:
    """Write images, ``prompts.yaml`` and ``manifest.parquet`` below ``root``; a finished folder is only loaded.

    Args:
        root: folder of the corpus; images lie in ``images/<domain>/``.
        config: what to generate.
        workers: processes. They change nothing but the time.
        progress: who is told how far it is.

    Raises:
        DataError: if ``root`` holds another corpus.
    """
    root, watch = Path(root), progress or Silent()
    stamp: dict[str, Any] = {"version": VERSION, "config": config.model_dump(mode="json")}
    if _check_folder(root, stamp):
        return Corpus.load(root)
    _write_json(root / STAMP, stamp | {"complete": False})
    visits = list(_visits(config))
    jobs = [visits[at : at + _PATIENTS_PER_JOB] for at in range(0, len(visits), _PATIENTS_PER_JOB)]
    rows: list[dict[str, str]] = []
    with watch.task("phantom images", sum(visit.images for visit in visits), "images") as advance:
        for part in _run(partial(_write, root, config), jobs, workers):
            rows += part
            advance(len(part), part[-1]["domain"])
    corpus = Corpus.build(root, rows, {domain: prompts(domain) for domain in config.domains}).save(root)
    _write_json(root / STAMP, stamp | {"complete": True})
    return corpus


def drawn_with(root: Path) -> PhantomConfig:
    """The configuration of a finished corpus in ``root``.

    Raises:
        DataError: ``generate`` wrote none there.
    """
    found: Any = {}
    with suppress(OSError, ValueError):
        found = json.loads((root / STAMP).read_text(encoding="utf-8"))
    if not isinstance(found, dict) or not found.get("complete"):
        raise DataError("The folder holds no phantom images", where=str(root), next="Run `mmkd data phantom`")
    return PhantomConfig.model_validate(found["config"])


def _check_folder(root: Path, stamp: dict[str, Any]) -> bool:
    """Whether ``root`` holds exactly this corpus, complete; refuse a folder that holds another one."""
    found: dict[str, Any] = {}
    with suppress(OSError, ValueError):
        found = json.loads((root / STAMP).read_text(encoding="utf-8"))
    same = isinstance(found, dict) and {key: found.get(key) for key in stamp} == stamp
    if not same and ((root / MANIFEST).exists() or (root / STAMP).exists()):
        raise DataError(
            "The folder already holds another corpus", where=str(root), next="Choose another folder, or remove this one"
        )
    return same and found.get("complete") is True and (root / MANIFEST).is_file()


def _visits(config: PhantomConfig) -> Iterator[_Visit]:
    """Patients of every domain and split, with their finding and number of images.

    Findings come in shuffled rounds, so that each is met equally often even in a small split.
    """
    for domain in config.domains:
        key, findings = DOMAINS.index(domain), FINDINGS[domain]
        for split, first in _FIRST_PATIENT.items():
            missing, number = getattr(config, split), first
            order: list[int] = []
            while missing > 0:
                rng = np.random.default_rng([config.seed, key, number, 0, 1])
                order = order or rng.permutation(len(findings)).tolist()
                finding, images = findings[order.pop()], min(int(rng.integers(1, 5)), missing)
                yield _Visit(domain, split, number, finding, images)
                missing, number = missing - images, number + 1


def _patient_samples(config: PhantomConfig, visit: _Visit) -> Iterator[Sample]:
    """The images of one patient: one anatomy, mostly one finding."""
    domain, findings, painter = visit.domain, FINDINGS[visit.domain], PAINTERS[visit.domain]
    key = [config.seed, DOMAINS.index(domain), visit.number]
    patient = painter.patient(np.random.default_rng(key))
    group = f"{domain}-s{config.seed}-p{visit.number:08d}"
    for index in range(1, visit.images + 1):  # from 1: numpy takes [a, b, c] and [a, b, c, 0] for the same seed
        rng = np.random.default_rng([*key, index])
        finding = visit.finding if rng.random() < _SAME_FINDING else findings[rng.integers(len(findings))]
        image, truth = painter.draw(finding, patient, rng)
        words = np.random.default_rng([*key, index, 1])  # own stream: other shares of captions leave the images alone
        clean = clean_caption(domain, finding, truth, words)
        caption = poor_caption(domain, finding, clean, config.plain_captions, config.wrong_captions, words)
        name = f"images/{domain}/{group}-{index}.png"
        yield Sample(name, domain, visit.split, group, finding, caption, clean, truth | {"patient": patient}, image)


def _run(write: Any, jobs: list[list[_Visit]], workers: int) -> Iterator[list[dict[str, str]]]:
    if workers <= 1 or len(jobs) <= 1:
        yield from map(write, jobs)
        return
    # spawn: a fork of a process that already runs torch's threads may hang
    with ProcessPoolExecutor(min(workers, len(jobs)), multiprocessing.get_context("spawn")) as pool:
        yield from pool.map(write, jobs)


def _write(root: Path, config: PhantomConfig, visits: list[_Visit]) -> list[dict[str, str]]:
    """Draw and write the images of some patients; one manifest row each."""
    from PIL import Image

    rows = []
    for visit in visits:
        for sample in _patient_samples(config, visit):
            image = Image.fromarray(sample.image)
            _write_png(root / sample.name, image)
            rows.append(
                {
                    "image": sample.name,
                    "image_id": image_id(image),
                    "caption": sample.caption,
                    "domain": sample.domain,
                    "label": sample.label,
                    "group_id": sample.group_id,
                    "split": sample.split,
                }
            )
    return rows


def _write_png(path: Path, image: Any) -> None:
    """Write a PNG under a temporary name, then rename it. Without fsync: the manifest is the mark of completion."""
    buffer = io.BytesIO()
    image.save(buffer, "PNG", compress_level=1)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        temporary.write_bytes(buffer.getvalue())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def _write_json(path: Path, content: dict[str, Any]) -> None:
    with replacing(path) as file:
        file.write((json.dumps(content, indent=2) + "\n").encode())
