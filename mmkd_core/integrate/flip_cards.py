"""The samples that got worse: what both releases and the teachers said, and the training samples that lie nearest.

An audited sample is never trained on. What the next integration replays first are its neighbours of the same domain in
the train split, by the parent's own image features: the parent knew the answer.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from feature_store import FeatureStore
from feature_store.errors import StoreError
from mmkd_core.audit.forgetting import ForgettingAudit
from mmkd_core.data.manifest import Corpus
from mmkd_core.errors import MmkdError
from mmkd_core.evaluate.embeddings import Embeddings
from mmkd_core.evaluate.predictions import DomainPredictions, Predictions, named
from mmkd_core.integrate.evidence import Reference
from mmkd_core.integrate.features import Array, Features, release_spec
from mmkd_core.integrate.releases import Release
from mmkd_core.integrate.student_data import pixels_of
from mmkd_core.integrate.workspace import Workspace, read_json
from mmkd_core.student.batches import Rows
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
    """A card for each negative flip, those of which the parent was surest first."""
    flipped = {domain: found.negative for domain, found in audit.flips.items() if found.negative}
    if not flipped:
        return []
    release, before, embedded = old
    neighbours = _Neighbours(workspace, release, corpus, embedded, _replayed(new[0]))
    trusted = {name: set(corpus.sample_id[found.rows].astype(str)) for name, found in teachers.items()}
    result = []
    for domain, names in flipped.items():
        labels = dict(zip(before[domain].sample_id.astype(str), before[domain].label, strict=True))
        said, says = (_said(part[domain], names) for part in (before, new[1]))
        asked = {
            teacher: _said(found.predictions[domain], names)
            for teacher, found in teachers.items()
            if domain in found.predictions.domains
        }
        for name, near in zip(names, neighbours.of(domain, names), strict=True):
            told = {teacher: answers[name] for teacher, answers in asked.items() if name in answers}
            may = tuple(teacher for teacher in told if name in trusted[teacher])
            result.append(Card(name, domain, named(labels[name]), said[name], says[name], told, may, *near))
    return sorted(result, key=lambda card: (-card.before.sure, card.sample_id))


def replay_first(found: Iterable[Card]) -> list[str]:
    """Ids of training samples that the next integration is to replay before all others."""
    return list(dict.fromkeys(name for card in found for name in card.train))


def _said(part: DomainPredictions, names: Iterable[str]) -> dict[str, Said]:
    place = {str(sample): i for i, sample in enumerate(part.sample_id)}
    said, rows = part.answers(), {name: place[name] for name in names if name in place}
    return {name: Said(said[row], float(part.sure[row])) for name, row in rows.items()}


Near = tuple[tuple[str, ...], str | None, float | None]
"""Nearest training samples, the nearest one that was replayed, and its cosine."""


class _Neighbours:
    """Training samples by how near they lie to samples of the test split, in the parent's image features."""

    def __init__(
        self, workspace: Workspace, release: Release, corpus: Corpus, embedded: Embeddings, replayed: set[str]
    ) -> None:
        self._workspace, self._corpus, self._embedded, self._replayed = workspace, corpus, embedded, replayed
        self._place = {str(sample): i for i, sample in enumerate(embedded.sample_id)}
        self._student = Student.load(release.student)
        self._spec = release_spec(release, self._student.logit_scale, tuple(corpus.domains))

    def of(self, domain: str, names: Sequence[str]) -> list[Near]:
        """For each sample of a domain its neighbours in the domain."""
        rows = self._corpus.where(split="train", domains=[domain])
        if not len(rows):
            return [((), None, None) for _ in names]
        images = unit(self._images(rows))
        queries = unit(self._embedded.images[[self._place[name] for name in names]])
        return [nearest(self._corpus, rows, similar, self._replayed) for similar in queries @ images.T]

    def _images(self, rows: Rows) -> Array:
        """Stored features where there are, else from the parent's weights."""
        try:
            with FeatureStore.open(self._workspace.own_store) as store:
                return Features(self._spec, self._corpus, store).images(rows)
        except (MmkdError, StoreError):  # they were not needed for training, or were collected since
            pixels = pixels_of(self._workspace, self._corpus, student=self._student)[rows]
            embedded: Array = self._student.embed_images(pixels)
            return embedded


def nearest(corpus: Corpus, rows: Rows, similar: Array, replayed: set[str]) -> Near:
    """The nearest of ``rows`` (n,) by their cosines (n,) with one sample."""
    order = np.argsort(-similar, kind="stable")
    names = corpus.sample_id[rows].astype(str)
    shown = next((i for i in order if names[i] in replayed), None)
    first = tuple(names[order[:NEAREST]].tolist())
    return (first, None, None) if shown is None else (first, str(names[shown]), float(similar[shown]))


def _replayed(release: Release) -> set[str]:
    """Sample ids that a release replayed while it was made."""
    facts: Any = read_json(release.file("replay.json"))
    return {str(name) for names in facts.values() for name in names} if isinstance(facts, dict) else set()
