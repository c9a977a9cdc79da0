"""What a release said about the test split, gathered for an audit: predictions, retrieval, fidelity to its teachers.

A release keeps its predictions and its embeddings; both are checked before they are compared.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch

from feature_store import FeatureStore
from feature_store.errors import StoreError
from mmkd_core.audit.evidence import Evidence, Gap, Key, SampleValues
from mmkd_core.audit.metrics import of_family
from mmkd_core.audit.pairing import AuditError
from mmkd_core.contract import TeacherSpec
from mmkd_core.data.manifest import Corpus
from mmkd_core.distill.heads import TeacherHead, load_heads
from mmkd_core.errors import MmkdError
from mmkd_core.evaluate.embeddings import Embeddings
from mmkd_core.evaluate.fidelity import agreement, cosines, trusted_with
from mmkd_core.evaluate.predictions import Predictions
from mmkd_core.evaluate.retrieval import Direction, retrieval
from mmkd_core.evaluate.zero_shot import zero_shot
from mmkd_core.integrate.features import Array, Features, whole_store
from mmkd_core.integrate.releases import Release
from mmkd_core.integrate.workspace import Workspace
from mmkd_core.plugins import PluginHost, load_registry, locked_spec, read_lock
from mmkd_core.student.batches import Rows
from mmkd_core.trust import TeacherTrust


@dataclass(frozen=True)
class Reference:
    """What one teacher says about the samples of the test split that it is trusted with."""

    name: str
    predictions: Predictions
    """On the whole test split."""
    rows: Rows
    """(n,) rows of the corpus with which it is trusted."""
    images: Array
    """(n, D) its raw features of them."""


@dataclass(frozen=True)
class References:
    """All teachers that two releases learnt from, and why some of them cannot be asked."""

    teachers: dict[str, Reference] = field(default_factory=dict)
    missing: dict[str, Gap] = field(default_factory=dict)

    def of(self, names: Collection[str]) -> References:
        """Some of them."""
        asked = {name: found for name, found in self.teachers.items() if name in names}
        return References(asked, {name: gap for name, gap in self.missing.items() if name in names})


def references(workspace: Workspace, known: Sequence[Release], corpus: Corpus) -> References:
    """Teachers of some releases (the oldest first) that are in use and whose features are stored."""
    found, names = References(), list(dict.fromkeys(name for release in known for name in release.teachers))
    lock, host, registry = read_lock(workspace.lock_file), PluginHost.discover(), load_registry()
    try:
        with whole_store(workspace) as store:
            for name in names:
                if name not in lock.teachers:
                    found.missing[name] = Gap(f"{name} is not in use any more", f"Run `mmkd teachers add {name}`")
                    continue
                try:  # one that is broken must not silence the others
                    spec = locked_spec(lock, host.teacher(name, registry))
                    found.teachers[name] = _reference(known, corpus, spec, store)
                except (MmkdError, StoreError) as error:
                    found.missing[name] = _gap(error)
    except (MmkdError, StoreError) as error:
        found.missing.update(dict.fromkeys(names, _gap(error)))
    return found


def _gap(error: MmkdError | StoreError) -> Gap:
    return Gap(f"{error.what} ({error.where})" if error.where else error.what, error.next or "Run `mmkd doctor`")


def _reference(known: Sequence[Release], corpus: Corpus, spec: TeacherSpec, store: FeatureStore) -> Reference:
    features, rows = Features(spec, corpus, store), corpus.where(split="test")
    predictions = zero_shot(features.images(rows), features.classes(), spec.logit_scale, corpus.take(rows))
    trust = TeacherTrust.load(next(r for r in known if spec.name in r.teachers).file(f"trust/{spec.name}.npz"))
    names: set[str] = set()
    for domain, part in predictions.domains.items():
        decided = trust.domains.get(domain)
        if decided is not None:
            own = trusted_with(part, decided, float(trust.config["threshold"]))
            names |= {str(sample) for sample in part.sample_id[own]}
    trusted = np.array([row for row in rows if str(corpus.sample_id[row]) in names], dtype=np.int64)
    return Reference(spec.name, predictions, trusted, features.images(trusted))


def evidence_of(release: Release, embedded: Embeddings, corpus: Corpus, asked: References) -> Evidence:
    """Everything that an audit compares of one release.

    Args:
        asked: the teachers that it is measured by, and those that it should be and cannot.

    Raises:
        AuditError: the release was measured on samples that the corpus does not have any more.
    """
    predictions = Predictions.load(release.predictions)
    row = {str(sample): i for i, sample in enumerate(corpus.sample_id)}
    if lost := [str(sample) for sample in embedded.sample_id if str(sample) not in row]:
        what = f"release {release.id} was measured on sample {lost[0]}, which the corpus does not have any more"
        raise AuditError(f"{what} ({len(lost)} such samples)", next="Restore the data that it was measured on")
    place = {str(sample): i for i, sample in enumerate(embedded.sample_id)}
    predicted = [str(sample) for part in predictions.domains.values() for sample in part.sample_id]
    if lost := [sample for sample in predicted if sample not in place]:
        what = f"the embeddings of release {release.id} lack sample {lost[0]}, of which it has a prediction"
        raise AuditError(f"{what} ({len(lost)} such samples)", next="Restore the data that it was measured on")
    part = corpus.take([row[str(sample)] for sample in embedded.sample_id])
    outcomes, undefined = _retrieval(embedded, part)
    heads = load_heads(release.heads)
    for name, gap in asked.missing.items():
        undefined |= {Key("fidelity", metric.name, name): gap for metric in of_family("fidelity")}
    for teacher in asked.teachers.values():
        head = heads.get(teacher.name)
        found = dict(_fidelity(teacher, predictions, embedded, place, head, corpus))
        why = Gap(_untold(teacher, head is None, release.id))
        keys = [Key("fidelity", metric.name, teacher.name) for metric in of_family("fidelity")]
        undefined |= {key: why for key in keys if key not in found}
        outcomes |= found
    return Evidence(predictions, outcomes, undefined)


def _untold(teacher: Reference, headless: bool, release: str) -> str:
    """Why a release cannot be measured by a teacher that can be asked."""
    if headless and len(teacher.rows):
        return f"release {release} has no head of {teacher.name}"
    return f"{teacher.name} is trusted with no sample of the test split"


def evidence_before(
    said: Predictions, like: Predictions, corpus: Corpus, teachers: Mapping[str, Reference]
) -> Evidence:
    """Of the student before any teacher, which has no heads: its predictions, and where it agrees with teachers.

    Args:
        said: its predictions.
        like: those of a release; samples that the corpus got after it are left out.
    """
    kept = {
        d: part.take(np.isin(part.sample_id, like[d].sample_id))
        for d, part in said.domains.items()
        if d in like.domains
    }
    predictions = Predictions(kept, said.protocol)
    outcomes: dict[Key, SampleValues] = {}
    for teacher in teachers.values():
        outcomes |= dict(_agreement(teacher, predictions, corpus))
    return Evidence(predictions, outcomes)


def _retrieval(embedded: Embeddings, part: Corpus) -> tuple[dict[Key, SampleValues], dict[Key, Gap]]:
    """Found or not by key, and why other keys say nothing.

    Each sample asks once with its image and once with each of its captions; what k of them share counts 1 / k in each.
    """
    everybody, owners = np.arange(len(part)), part.owners
    found = retrieval(*embedded.pairs, part.image_id[owners], part.text_ids)
    values: dict[Key, SampleValues] = {}
    undefined: dict[Key, Gap] = {}
    ways = (
        ("image to text", found.image_to_text, part.image_id, everybody),
        ("text to image", found.text_to_image, part.text_ids, owners),
    )
    for way, direction, ids, of in ways:
        ranks, weight = _by_sample(direction, ids)
        columns = (part.sample_id[of], part.group_id[of], part.domain[of])
        for k in direction.recall:
            note = f"gallery of {direction.gallery:,}, by chance {100 * direction.chance.recall(k):.1f}"
            values[Key("retrieval", f"R@{k}", way)] = SampleValues(*columns, ranks <= k, weight, note)
        undefined |= {Key("retrieval", f"R@{k}", way): Gap(why) for k, why in direction.undefined.items()}
    return values, undefined


def _by_sample(direction: Direction, ids: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    place = np.searchsorted(direction.ids.astype(str), ids.astype(str))
    return direction.ranks[place], 1 / np.bincount(place, minlength=len(direction.ids))[place]


def _fidelity(
    teacher: Reference,
    predictions: Predictions,
    embedded: Embeddings,
    place: Mapping[str, int],
    head: TeacherHead | None,
    corpus: Corpus,
) -> Iterator[tuple[Key, SampleValues]]:
    names = corpus.sample_id[teacher.rows].astype(str)
    known = np.array([name in place for name in names], dtype=bool)
    rows, names = teacher.rows[known], names[known]
    if not len(rows):
        return
    if head is not None:
        with torch.inference_mode():
            said = head(torch.from_numpy(embedded.images[[place[name] for name in names]]), "image")
            meant = head.normalisers["image"].forward(torch.from_numpy(teacher.images[known]))
        values = cosines(said.numpy(), meant.numpy())
        yield Key("fidelity", "cosine", teacher.name), _outcomes(corpus, rows, values)
    yield from _agreement(teacher, predictions, corpus)


def _agreement(teacher: Reference, predictions: Predictions, corpus: Corpus) -> Iterator[tuple[Key, SampleValues]]:
    """Whether both choose the same class, where both were asked and the teacher is trusted."""
    agrees: dict[str, bool] = {}
    for domain, part in predictions.domains.items():
        if domain in teacher.predictions.domains:
            agrees |= agreement(part, teacher.predictions[domain])
    rows = np.array([row for row in teacher.rows if str(corpus.sample_id[row]) in agrees], dtype=np.int64)
    if len(rows):
        values = np.array([agrees[str(name)] for name in corpus.sample_id[rows]], dtype=bool)
        yield Key("fidelity", "agreement", teacher.name), _outcomes(corpus, rows, values)


def _outcomes(corpus: Corpus, rows: Rows, values: np.ndarray) -> SampleValues:
    columns = (corpus.sample_id[rows], corpus.group_id[rows], corpus.domain[rows])
    return SampleValues(*columns, values, np.ones(len(rows)))
