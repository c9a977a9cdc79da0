"""``mmkd/zero-shot@2``: an image is scored against the sentences of each class of its domain.

The score function is part of the protocol's name, for macro one-vs-rest AUC changes with it: logits are logit_scale x
cosine in float64, probabilities their softmax over the domain's classes, and samples are ranked by the log-odds of a
class, which order them as exact probabilities would; a class is the renormalised mean of its normalised sentences.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from mmkd_core.errors import DataError
from mmkd_core.evaluate.classes import classification
from mmkd_core.evaluate.figures import Measured
from mmkd_core.evaluate.outcomes import Outcomes
from mmkd_core.evaluate.predictions import DomainPredictions, Predictions
from mmkd_core.statistics import GroupBootstrap
from mmkd_core.trust.beliefs import logits, unit

if TYPE_CHECKING:
    from mmkd_core.data.manifest import Corpus

PROTOCOL = "mmkd/zero-shot@2"


def class_embeddings(prompts: Sequence[NDArray[np.floating]]) -> NDArray[np.float32]:
    """One unit vector per class.

    Args:
        prompts: for each class (P, D) text features of its sentences, any length; P may differ.

    Returns:
        (C, D): mean of the normalised sentences, normalised again.
    """
    for index, sentences in enumerate(prompts):
        if sentences.ndim != 2 or not len(sentences):
            raise DataError("a class without sentences", where=f"class {index}", next="Add some to prompts.yaml.")
    return unit(np.stack([unit(sentences).mean(axis=0) for sentences in prompts]))


def zero_shot(
    image_features: NDArray[np.floating],
    class_embeddings: Mapping[str, NDArray[np.floating]],
    logit_scale: float,
    corpus: Corpus,
) -> Predictions:
    """Score every labelled sample of ``corpus`` whose domain has class embeddings.

    Args:
        image_features: (N, D) of exactly the samples of ``corpus`` (take a split of it first), any length.
        class_embeddings: (C, D) by domain, in the order of ``Corpus.classes``.
        logit_scale: of the model, already exponentiated.
        corpus: N samples; those without a label are passed over.

    Raises:
        DataError: features or classes that do not fit the corpus, NaN, or a label without sentences.
    """
    if len(image_features) != len(corpus):
        raise DataError(f"features of {len(image_features)} images for a corpus of {len(corpus)} samples")
    labelled = np.array([label is not None for label in corpus.label], dtype=bool)
    domains = {}
    for domain, texts in class_embeddings.items():
        names = tuple(corpus.classes(domain))
        if len(texts) != len(names):
            what = f"{len(texts)} class embeddings for the {len(names)} classes of {domain}"
            raise DataError(what, next="Embed the sentences of prompts.yaml again.")
        rows = np.flatnonzero((corpus.domain == domain) & labelled)
        if len(rows):
            said = logits(image_features[rows], texts, logit_scale)
            columns = (corpus.sample_id[rows], corpus.group_id[rows], corpus.label[rows])
            domains[domain] = DomainPredictions.build(*columns, said, names)
    return Predictions(domains, PROTOCOL)


def choose(
    image_features: NDArray[np.floating],
    classes: Mapping[str, NDArray[np.floating]],
    logit_scale: float,
    label: NDArray[np.object_],
    group_id: NDArray[np.object_],
    sample_id: NDArray[np.object_],
) -> Outcomes:
    """Score n images of an evaluation set.

    Args:
        image_features: (n, D), any length.
        classes: by class (P, D) features of its sentences.
        logit_scale: of the model, already exponentiated.
        label: (n,) each one of the classes.
    """
    names = list(classes)
    said = logits(image_features, class_embeddings(list(classes.values())), logit_scale)
    truth = np.array([names.index(str(name)) for name in label], np.int64)
    columns = {"sample_id": sample_id, "group_id": group_id, "truth": truth, "logits": said}
    return Outcomes(PROTOCOL, columns, {"classes": names, "logit_scale": logit_scale})


def measure(outcomes: Outcomes, bootstrap: GroupBootstrap) -> list[Measured]:
    """Classification figures of ``choose``."""
    return classification(outcomes["logits"], outcomes["truth"], bootstrap)
