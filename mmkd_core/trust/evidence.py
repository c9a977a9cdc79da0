"""What a teacher knows about a corpus, measured once: its answers on probe images, and on each train sample.

Does not: decide anything. Every rule and every threshold reads the same evidence.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from mmkd_core.errors import TrustError
from mmkd_core.trust.beliefs import Features, logits, unit
from mmkd_core.trust.captions import Captions, CaptionTest, tested
from mmkd_core.trust.measured import Measured, Probe, Status, certain, measured, together
from mmkd_core.trust.rules import TrustConfig

if TYPE_CHECKING:
    from mmkd_core.data.manifest import Corpus

Rows = NDArray[np.int64]


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
    """(C, D) by domain, in the order of ``Corpus.classes``: renormalised means of normalised prompt embeddings. Of
    multi-label domains (2, C, D): of what says that a finding is there, and of what says that it is not."""
    seen: tuple[str, ...] = ()
    """Ids of some of the images that it was made from, where that is known."""


@dataclass(frozen=True, eq=False)
class Answers:
    """Answers about the labelled train samples of a domain.

    Attributes:
        place: (k,) places of the samples in ``DomainEvidence.train``.
        truth: (k,) class of each.
        sure: (k,) posterior of that class.
        right: (k,) True where it is the first choice.
    """

    place: Rows
    truth: Rows
    sure: NDArray[np.float64]
    right: NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class DomainEvidence:
    """One teacher on one domain.

    Attributes:
        train: (m,) rows of the corpus that it might teach.
        probe: labelled images that it was measured on; none where it has no class embeddings.
        found: what they say of it.
        answers: about the labelled train samples.
        captions: about the captions of the train samples for which nothing else can speak: those without a label, or
            all where nothing is measured.
        parts: of a multi-label domain, the same for each finding, there or not there; ``found`` is then of all.
    """

    train: Rows
    probe: Probe
    found: Measured
    answers: Answers
    captions: Captions
    parts: tuple[DomainEvidence, ...] = ()


@dataclass(frozen=True)
class Evidence:
    """One teacher on every domain of a corpus that has train samples."""

    view: TeacherView
    domains: dict[str, DomainEvidence] = field(default_factory=dict)


def measure(view: TeacherView, corpus: Corpus, config: TrustConfig | None = None) -> Evidence:
    """Measure ``view`` on the probe and the train samples of every domain; the test split is not looked at.

    Args:
        view: features of exactly the samples of ``corpus``, in its order.
        corpus: N samples.
        config: which images are the probe, how many it needs, and the seed.

    Raises:
        TrustError: features that are not finite or do not fit the corpus, or a label without a class.
    """
    _check(view, corpus)
    config = config or TrustConfig()
    domains = sorted({str(domain) for domain in corpus.domain[corpus.split == "train"]})
    return Evidence(view, {domain: _measure_domain(view, corpus, domain, config) for domain in domains})


def made_from(view: TeacherView, corpus: Corpus) -> bool:
    """Return True where training images of the corpus are among those that the teacher is known to come from."""
    return not set(view.seen).isdisjoint(corpus.image_id[corpus.split == "train"])


def probes_of(view: TeacherView, corpus: Corpus, domain: str, split: str) -> list[Probe]:
    """Answers of a teacher on the labelled samples of a split; of a multi-label domain one probe for each finding."""
    names, rows = corpus.classes(domain), np.flatnonzero((corpus.split == split) & (corpus.domain == domain))
    if domain not in view.classes:
        return [_silent(split, tuple(names))]
    if not corpus.multilabel(domain):
        truth = _truth(view, corpus, domain)
        rows = rows[truth[rows] >= 0]
        said = logits(view.image[rows], view.classes[domain], view.logit_scale)
        return [Probe(split, rows, said, truth[rows], corpus.group_id[rows], tuple(names))]
    rows = rows[corpus.labelled[rows]]
    image, (there, absent) = view.image[rows], view.classes[domain]
    found = corpus.findings(rows, domain).astype(np.int64)
    pairs = [np.stack([absent[c], there[c]]) for c in range(len(names))]
    return [
        Probe(
            split,
            rows,
            logits(image, pair, view.logit_scale),
            found[:, c],
            corpus.group_id[rows],
            (f"no {name}", name),
            finding=name,
        )
        for c, (name, pair) in enumerate(zip(names, pairs, strict=True))
    ]


def _silent(split: str, names: tuple[str, ...]) -> Probe:
    """Of a teacher that was not asked about the classes of a domain."""
    empty = np.zeros(0, dtype=np.int64)
    return Probe(split, empty, np.zeros((0, len(names))), empty, np.zeros(0, dtype=object), names)


def _measure_domain(view: TeacherView, corpus: Corpus, domain: str, config: TrustConfig) -> DomainEvidence:
    train = np.flatnonzero((corpus.domain == domain) & (corpus.split == "train"))
    known, probes = (probes_of(view, corpus, domain, split) for split in ("train", "val"))
    found = [measured(probe, config.minimum, config.seed, config.calibrate) for probe in probes]
    if config.probe == "train" and all(part.status is Status.UNKNOWN for part in found):
        again = [measured(probe, config.minimum, config.seed, config.calibrate) for probe in known]
        if any(part.status is not Status.UNKNOWN for part in again):
            if made_from(view, corpus):
                found = [replace(part, why=f"{part.why}, and it was made from the training images") for part in found]
            else:
                probes, found = known, again
    asked = np.ones(len(train), dtype=bool)
    if any(part.status is not Status.UNKNOWN for part in found):
        asked[np.searchsorted(train, known[0].rows)] = False
    captions = _captions(view, corpus, train, asked, config)
    parts = [
        DomainEvidence(train, probe, part, _answers(train, own, part.temperature), captions)
        for probe, part, own in zip(probes, found, known, strict=True)
    ]
    if not corpus.multilabel(domain):
        return parts[0]
    return replace(parts[0], found=together(probes, found, config.seed), parts=tuple(parts))


def _answers(train: Rows, known: Probe, temperature: float) -> Answers:
    sure = certain(known.logits, temperature)[np.arange(len(known)), known.truth]
    return Answers(np.searchsorted(train, known.rows), known.truth, sure, known.right)


def _captions(
    view: TeacherView, corpus: Corpus, train: Rows, asked: NDArray[np.bool_], config: TrustConfig
) -> Captions:
    """The caption test among texts of the domain's train samples; equal captions are one text."""
    _, first, inverse = np.unique(corpus.text_id[train].astype(str), return_index=True, return_inverse=True)
    rows = train[asked]
    test = CaptionTest(
        image=view.image[rows],
        caption=view.caption[rows],
        pool=unit(view.caption[train[first]]),
        own=inverse[asked],
        sample=[str(name) for name in corpus.sample_id[rows]],
        group=corpus.group_id[rows],
        logit_scale=view.logit_scale,
    )
    return tested(test, np.flatnonzero(asked), config)


def _truth(view: TeacherView, corpus: Corpus, domain: str) -> Rows:
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
