"""What a teacher knows about a corpus, measured once: right on the probe split, sure and right on each train sample.

Does not: decide anything. Every rule and every threshold reads the same evidence.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from mmkd_core.errors import TrustError
from mmkd_core.trust.beliefs import Features, own_caption, posterior, unit

if TYPE_CHECKING:
    from mmkd_core.data.manifest import Corpus


@dataclass(frozen=True)
class TeacherView:
    """All that trust needs of a teacher: its features of a corpus of N samples, raw or normalised."""

    name: str
    domains: tuple[str, ...]
    """Domains that it declares."""
    claims: Mapping[str, float]
    """Declared zero-shot accuracy by domain, 0..1."""
    logit_scale: float
    """Already exponentiated."""
    image: Features
    """(N, D), of every sample."""
    caption: Features
    """(N, D), of every sample's caption."""
    classes: Mapping[str, Features]
    """(C, D) by domain, in the order of ``Corpus.classes``: renormalised means of normalised prompt embeddings."""


@dataclass(frozen=True)
class DomainEvidence:
    """One teacher on one domain."""

    train: NDArray[np.int64]
    """(m,) rows of the corpus that it might teach."""
    sure: Features
    """(m,) posterior of the own label, or of the own caption where a sample has no label."""
    right: NDArray[np.bool_]
    """(m,) whether that is its first choice."""
    probe: NDArray[np.int64]
    """(n,) labelled rows of the probe split; none if the teacher has no class embeddings for the domain."""
    scores: Features
    """(n, C) posterior over the classes."""
    truth: NDArray[np.int64]
    """(n,) class of each probe image."""


@dataclass(frozen=True)
class Evidence:
    """One teacher on every domain of a corpus that has train samples."""

    view: TeacherView
    domains: dict[str, DomainEvidence]


def measure(view: TeacherView, corpus: Corpus, seed: int = 0) -> Evidence:
    """Measure ``view`` on the train and the probe (val) samples of every domain; the test split is not looked at.

    Args:
        view: features of exactly the samples of ``corpus``, in its order.
        corpus: N samples.
        seed: of the captions that each unlabelled sample is given to choose from.

    Raises:
        TrustError: features that are not finite or do not fit the corpus, or a label without a class.
    """
    _check(view, corpus)
    domains = sorted({str(domain) for domain in corpus.domain[corpus.split == "train"]})
    return Evidence(view, {domain: _measure_domain(view, corpus, domain, seed) for domain in domains})


def _measure_domain(view: TeacherView, corpus: Corpus, domain: str, seed: int) -> DomainEvidence:
    here = corpus.domain == domain
    train = np.flatnonzero(here & (corpus.split == "train"))
    classes = view.classes.get(domain)
    truth = _truth(view, corpus, domain) if classes is not None else np.full(len(corpus), -1)
    sure, right = np.zeros(len(train), dtype=np.float32), np.zeros(len(train), dtype=bool)

    labelled = truth[train] >= 0
    if classes is not None and labelled.any():
        rows = train[labelled]
        chances = posterior(view.image[rows], classes, view.logit_scale)
        sure[labelled] = chances[np.arange(len(rows)), truth[rows]]
        right[labelled] = chances.argmax(axis=1) == truth[rows]
    if not labelled.all():
        sure[~labelled], right[~labelled] = _by_caption(view, corpus, train, ~labelled, seed)

    probe = np.flatnonzero(here & (corpus.split == "val") & (truth >= 0))
    scores = np.zeros((0, 0), dtype=np.float32)
    if classes is not None:
        scores = posterior(view.image[probe], classes, view.logit_scale)
    return DomainEvidence(train, sure, right, probe, scores, truth[probe])


def _by_caption(
    view: TeacherView, corpus: Corpus, train: NDArray[np.int64], asked: NDArray[np.bool_], seed: int
) -> tuple[Features, NDArray[np.bool_]]:
    """Posterior of the own caption among texts of the domain's train samples; equal captions are one text."""
    _, first, inverse = np.unique(corpus.text_id[train].astype(str), return_index=True, return_inverse=True)
    rows = train[asked]
    pool = unit(view.caption[train[first]])
    names = [str(sample) for sample in corpus.sample_id[rows]]
    return own_caption(view.image[rows], view.caption[rows], pool, inverse[asked], names, view.logit_scale, seed)


def _truth(view: TeacherView, corpus: Corpus, domain: str) -> NDArray[np.int64]:
    """(N,) class index of the labelled samples of a domain, -1 elsewhere."""
    order = {label: index for index, label in enumerate(corpus.classes(domain))}
    if len(view.classes[domain]) != len(order):
        what = f"{view.name} has {len(view.classes[domain])} class embeddings for the {len(order)} classes of {domain}"
        raise TrustError(what, where="prompts.yaml", next="Run `mmkd extract` again.")
    truth = np.full(len(corpus), -1, dtype=np.int64)
    for row in np.flatnonzero(corpus.domain == domain):
        label = corpus.label[row]
        if label is not None and label not in order:
            what = f"the label {label!r} has no sentences among the prompts of {domain}"
            raise TrustError(what, where=f"sample {corpus.sample_id[row]}", next="Add it to prompts.yaml.")
        truth[row] = -1 if label is None else order[label]
    return truth


def _check(view: TeacherView, corpus: Corpus) -> None:
    for tower, features in (("image", view.image), ("caption", view.caption)):
        if len(features) != len(corpus):
            what = f"{view.name} has {tower} features of {len(features)} samples and the corpus has {len(corpus)}"
            raise TrustError(what, next="Run `mmkd extract` again.")
        bad = ~np.isfinite(features).all(axis=1)
        if bad.any():
            where = f"sample {corpus.sample_id[int(bad.argmax())]}"
            what = f"{view.name} has {tower} features with NaN or infinity"
            raise TrustError(what, where=where, next="Run `mmkd store verify`, then `mmkd extract`.")
