"""The samples that got worse: what both releases and the teachers said, and the training samples that lie nearest.

An audited sample is never trained on. What the next integration replays first are its neighbours of the same domain in
the train split, by the parent's own image features: the parent knew the answer.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from feature_store import FeatureStore
from feature_store.errors import StoreError
from mmkd_core.audit.forgetting import ForgettingAudit
from mmkd_core.data.manifest import Corpus
from mmkd_core.distill.sources import Rows
from mmkd_core.errors import MmkdError
from mmkd_core.evaluate.embeddings import Embeddings
from mmkd_core.evaluate.predictions import DomainPredictions, Predictions
from mmkd_core.integrate.evidence import Reference
from mmkd_core.integrate.features import Array, Features, release_spec
from mmkd_core.integrate.releases import Release
from mmkd_core.integrate.student_data import pixels_of
from mmkd_core.integrate.workspace import Workspace, read_json
from mmkd_core.student.model import Student
from mmkd_core.trust import unit

NEAREST = 3
"""Training samples that are replayed first for each flip."""


@dataclass(frozen=True)
class Said:
    """The first choice of a model and how sure it is."""

    choice: str
    sure: float


@dataclass(frozen=True)
class Card:
    """One sample that the parent got right and the candidate gets wrong."""

    sample_id: str
    domain: str
    label: str
    before: Said
    after: Said
    teachers: dict[str, Said] = field(default_factory=dict)
    trusted: tuple[str, ...] = ()
    """Teachers among them that may teach samples like this one."""
    train: tuple[str, ...] = ()
    """Ids of the nearest training samples of the domain, nearest first."""
    replayed: str | None = None
    """Id of the nearest one that the candidate replayed."""
    cosine: float | None = None
    """Of that one."""


def cards(
    workspace: Workspace,
    audit: ForgettingAudit,
    corpus: Corpus,
    new: tuple[Release, Predictions],
    old: tuple[Release, Predictions, Embeddings],
    teachers: Mapping[str, Reference],
) -> list[Card]:
    """A card for each negative flip, by domain, those of which the parent was surest first."""
    flipped = {domain: found.negative for domain, found in audit.flips.items() if found.negative}
    if not flipped:
        return []
    row = {str(sample): i for i, sample in enumerate(corpus.sample_id)}
    release, before, embedded = old
    place = {str(sample): i for i, sample in enumerate(embedded.sample_id)}
    replayed = _replayed(new[0])
    trusted = {name: set(corpus.sample_id[found.rows].astype(str)) for name, found in teachers.items()}
    result = []
    for domain, names in flipped.items():
        rows = corpus.where(split="train", domains=[domain])
        known = [name for name in names if name in place and name in row]
        similar = _similar(workspace, release, corpus, rows, unit(embedded.images[[place[n] for n in known]]))
        told = {model: _said(part[domain], names) for model, part in (("old", before), ("new", new[1]))}
        asked = {
            teacher: _said(found.predictions[domain], names)
            for teacher, found in teachers.items()
            if domain in found.predictions.domains
        }
        found = [
            Card(
                name,
                domain,
                str(before[domain].label[np.flatnonzero(before[domain].sample_id.astype(str) == name)[0]]),
                told["old"][name],
                told["new"][name],
                {teacher: answers[name] for teacher, answers in asked.items() if name in answers},
                tuple(teacher for teacher in asked if name in trusted[teacher]),
                *_nearest(corpus, rows, similar[known.index(name)] if name in known else None, replayed),
            )
            for name in names
        ]
        result += sorted(found, key=lambda card: (-card.before.sure, card.sample_id))
    return result


def replay_first(found: Iterable[Card]) -> list[str]:
    """Ids of training samples that the next integration is to replay before all others."""
    return list(dict.fromkeys(name for card in found for name in card.train))


def _said(part: DomainPredictions, names: Iterable[str]) -> dict[str, Said]:
    place = {str(sample): i for i, sample in enumerate(part.sample_id)}
    answers = {}
    for name in names:
        if name in place:
            scores = part.scores[place[name]]
            answers[name] = Said(part.classes[int(scores.argmax())], float(scores.max()))
    return answers


def _nearest(
    corpus: Corpus, rows: Rows, similar: Array | None, replayed: set[str]
) -> tuple[tuple[str, ...], str | None, float | None]:
    if similar is None or not len(rows):
        return (), None, None
    order = np.argsort(-similar, kind="stable")
    names = corpus.sample_id[rows].astype(str)
    shown = next((i for i in order if names[i] in replayed), None)
    nearest = tuple(names[order[:NEAREST]].tolist())
    return (nearest, None, None) if shown is None else (nearest, str(names[shown]), float(similar[shown]))


def _similar(workspace: Workspace, release: Release, corpus: Corpus, rows: Rows, queries: Array) -> Array:
    """(q, n) cosines of queries with the images at ``rows``, by the release's features: stored ones where there are."""
    student = Student.load(release.student)
    try:
        spec = release_spec(release, student.logit_scale, tuple(corpus.domains))
        with FeatureStore.open(workspace.own_store) as store:
            images = Features(spec, corpus, store).images(rows)
    except (MmkdError, StoreError):  # its features were not needed for training, or were collected since
        images = student.embed_images(pixels_of(workspace, corpus)[rows])
    similar: Array = queries @ unit(images).T
    return similar


def _replayed(release: Release) -> set[str]:
    """Sample ids that a release replayed while it was made."""
    facts: Any = read_json(release.folder / "replay.json")
    return {str(name) for names in facts.values() for name in names} if isinstance(facts, dict) else set()
