"""``mmkd/zero-shot@2``: an image is scored against the sentences of each class of its domain.

The score function is part of the protocol's name, for macro one-vs-rest AUC changes with it: logits are logit_scale x
cosine in float64, probabilities their softmax over the domain's classes, and samples are ranked by the log-odds of a
class, which order them as exact probabilities would; a class is the renormalised mean of its normalised sentences.
In a multi-label domain each class is a finding; its logit is that of what says that it is there, minus that of what
says that it is not (the way of CheXzero, Tiu et al. 2022).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from mmkd_core.data.captions import absent_prompts
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


def sentences(corpus: Corpus, domain: str) -> list[list[tuple[str, ...]]]:
    """Sentences of each class of a domain; in a multi-label domain also those that say that each is not there."""
    there = corpus.prompts.get(domain, {})
    if not corpus.multilabel(domain):
        return [list(there.values())]
    return [list(there.values()), [absent_prompts(domain, label) for label in there]]


def class_texts(corpus: Corpus) -> list[str]:
    """Every distinct sentence of ``sentences`` in all domains that have prompts."""
    kinds = (kind for domain in corpus.prompts for kind in sentences(corpus, domain))
    return list(dict.fromkeys(text for kind in kinds for texts in kind for text in texts))


def embedded_classes(
    corpus: Corpus, embed: Callable[[tuple[str, ...]], NDArray[np.floating]]
) -> dict[str, NDArray[np.float32]]:
    """Class embeddings by domain, in the order of ``Corpus.classes``: what ``zero_shot`` needs.

    Args:
        embed: text features (P, D) of P sentences.
    """
    found = {}
    for domain in corpus.domains:
        if corpus.prompts.get(domain):
            kinds = [class_embeddings([embed(texts) for texts in kind]) for kind in sentences(corpus, domain)]
            found[domain] = kinds[0] if len(kinds) == 1 else np.stack(kinds)
    return found


def finding_logits(
    images: NDArray[np.floating], there: NDArray[np.floating], absent: NDArray[np.floating], logit_scale: float
) -> NDArray[np.float64]:
    """(n, C) log-odds that each finding is there.

    Args:
        images: (n, D), any length.
        there: (C, D) embeddings of what says that it is.
        absent: (C, D) of what says that it is not.
        logit_scale: already exponentiated.
    """
    return logits(images, there, logit_scale) - logits(images, absent, logit_scale)


def zero_shot(
    image_features: NDArray[np.floating],
    class_embeddings: Mapping[str, NDArray[np.floating]],
    logit_scale: float,
    corpus: Corpus,
) -> Predictions:
    """Score every labelled sample of ``corpus`` whose domain has class embeddings.

    Args:
        image_features: (N, D) of exactly the samples of ``corpus`` (take a split of it first), any length.
        class_embeddings: (C, D) by domain, in the order of ``Corpus.classes``; in multi-label domains (2, C, D), of
            what says that each is there, and that it is not.
        logit_scale: of the model, already exponentiated.
        corpus: N samples; those without a label are passed over.

    Raises:
        DataError: features or classes that do not fit the corpus, NaN, or a label without sentences.
    """
    if len(image_features) != len(corpus):
        raise DataError(f"features of {len(image_features)} images for a corpus of {len(corpus)} samples")
    domains = {}
    for domain, texts in class_embeddings.items():
        names = tuple(corpus.classes(domain))
        if texts.shape[-2] != len(names):
            what = f"{texts.shape[-2]} class embeddings for the {len(names)} classes of {domain}"
            raise DataError(what, next="Embed the sentences of prompts.yaml again.")
        rows = np.flatnonzero((corpus.domain == domain) & corpus.labelled)
        if len(rows):
            images = image_features[rows]
            if texts.ndim == 3:
                label, said = corpus.labels, finding_logits(images, texts[0], texts[1], logit_scale)
            else:
                label, said = corpus.label, logits(images, texts, logit_scale)
            columns = (corpus.sample_id[rows], corpus.group_id[rows], label[rows])
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
