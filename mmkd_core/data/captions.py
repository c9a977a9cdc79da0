"""Labels become sentences: prompts for zero-shot, clean captions for specialists, captions as people write them.

The three kinds exist because public image-text pairs are poor labels: in the captions that ``people_caption`` imitates,
half name only the kind of image, 35 % the finding, 15 % a wrong one. A corpus of clean captions would let a student
learn the task from text alone, and no teacher would be needed.

Every draw comes from ``caption_rng(seed, image_id, kind)``: the caption of an image depends neither on its row nor on
the other images.
"""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import blake2b

import numpy as np

KIND_ONLY, NAMED = 0.50, 0.35
"""Shares of people's captions that name the kind of image only, and the finding; the rest name a wrong finding."""

DOMAINS = (
    "xray",
    "ct",
    "mri",
    "ultrasound",
    "pathology",
    "dermatology",
    "fundus",
    "oct",
    "endoscopy",
    "microscopy",
)

# Names of the image itself, with their article. They say nothing about organ or view: the domain does not know them.
_KINDS: dict[str, tuple[str, ...]] = {
    "xray": ("a plain radiograph", "an X-ray image", "a radiograph", "an X-ray film"),
    "ct": ("a CT scan", "a computed tomography slice", "a CT image", "a slice from a CT examination"),
    "mri": ("an MRI scan", "a magnetic resonance image", "an MR slice", "a slice from an MRI examination"),
    "ultrasound": ("an ultrasound image", "a sonogram", "a B-mode ultrasound scan", "a sonographic image"),
    "pathology": ("a histopathology image", "a histology slide", "an H&E-stained section", "a pathology micrograph"),
    "dermatology": ("a dermatoscopic photograph", "a dermoscopy image", "a skin photograph", "a dermatoscope picture"),
    "fundus": ("a fundus photograph", "a retinal photograph", "a colour fundus image", "a picture of the fundus"),
    "oct": ("an OCT scan", "an optical coherence tomography image", "an OCT B-scan", "a cross-sectional OCT image"),
    "endoscopy": ("an endoscopic image", "an endoscopy frame", "a picture from an endoscopy", "an endoscopic view"),
    "microscopy": ("a microscopy image", "a micrograph", "a light microscope picture", "a microscope image"),
}

_PROMPTS = (
    "{kind} showing {finding}",
    "{kind} of {finding}",
    "{kind} with {finding}",
    "{finding} in {kind}",
    "{kind}, finding: {label}",
)
_NAMED = (
    "{kind} showing {finding}",
    "{kind} with {finding}",
    "{kind}, {label}",
    "{finding} seen in {kind}",
    "{kind} that demonstrates {finding}",
    "{label}, {kind}",
    "{kind} in a case of {label}",
)
_BARE = (
    "{kind}",
    "{kind} from the clinic",
    "an example of {kind}",
    "{kind} of a patient",
    "figure: {kind}",
    "{kind} taken for further assessment",
    "{kind}, the arrow marks the region of interest",
    "{kind} at first presentation",
)

# Labels that do not stand alone in a sentence.
_READABLE = {
    "normal": "a normal appearance",
    "benign": "a benign lesion",
    "malignant": "a malignant lesion",
    "pituitary": "a pituitary tumor",
    "negative": "no abnormality",
    "positive": "an abnormality",
}
_COUNTABLE = ("cell", "platelet", "lesion", "tumor", "tumour", "nevus", "phil", "blast", "cyte", "polyp", "nodule")


def caption_rng(seed: int, image_id: str, kind: str = "") -> np.random.Generator:
    """Return the generator of one image: a function of its arguments and of nothing else."""
    digest = blake2b(f"{seed}\n{image_id}\n{kind}".encode(), digest_size=16).digest()
    return np.random.default_rng(int.from_bytes(digest, "big"))


def kinds(domain: str) -> tuple[str, ...]:
    """Return names for an image of ``domain``, with article; for an unknown domain they are made from its name."""
    if domain in _KINDS:
        return _KINDS[domain]
    name = domain.replace("-", " ").replace("_", " ").strip()
    return (_article(f"{name} image"), _article(f"medical image ({name})"), _article(f"{name} picture"))


def finding(label: str) -> str:
    """Return the label as it reads inside a sentence: ``melanoma``, ``a red blood cell``, ``a benign lesion``."""
    plain = label.strip()
    if plain.lower() in _READABLE:
        return _READABLE[plain.lower()]
    if plain.lower().endswith(_COUNTABLE) and not plain.lower().startswith(("no ", "a ", "an ", "the ")):
        return _article(plain)
    return plain


def prompts(domain: str, label: str) -> tuple[str, ...]:
    """Return five sentences that name the class, for a zero-shot classifier that averages their embeddings."""
    names = kinds(domain)
    return tuple(_fill(form, names[i % len(names)], label) for i, form in enumerate(_PROMPTS))


def absent_prompts(domain: str, label: str) -> tuple[str, ...]:
    """Return three sentences that say that the finding is not there."""
    names = kinds(domain)
    forms = ("{kind} without {label}", "{kind} with no {label}", "no {label} in {kind}")
    return tuple(_fill(form, names[i % len(names)], label) for i, form in enumerate(forms))


def clean_caption(domain: str, label: str, rng: np.random.Generator) -> str:
    """Return a caption that surely names the label, in one of many wordings."""
    return _fill(_pick(_NAMED, rng), _pick(kinds(domain), rng), label)


def people_caption(domain: str, label: str, all_labels: Sequence[str], rng: np.random.Generator) -> str:
    """Return a caption as people write them: 50 % the kind of image only, 35 % the finding, 15 % a wrong finding.

    Args:
        domain: imaging modality.
        label: the true class.
        all_labels: the classes of the domain, from which a wrong one is drawn. Where there is no other, the caption
            names the kind of image only.
        rng: see ``caption_rng``.
    """
    share, kind = rng.random(), _pick(kinds(domain), rng)
    if KIND_ONLY <= share < KIND_ONLY + NAMED:
        return _fill(_pick(_NAMED, rng), kind, label)
    others = [other for other in all_labels if other != label]
    if share < KIND_ONLY or not others:
        return _fill(_pick(_BARE, rng), kind, label)
    return _fill(_pick(_NAMED, rng), kind, _pick(others, rng))


def _fill(form: str, kind: str, label: str) -> str:
    return form.format(kind=kind, finding=finding(label), label=label.strip())


def _pick(choices: Sequence[str], rng: np.random.Generator) -> str:
    return choices[int(rng.integers(len(choices)))]


def _article(noun: str) -> str:
    return f"{'an' if noun[:1].lower() in 'aeio' else 'a'} {noun}"
