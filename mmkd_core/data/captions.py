"""Labels become sentences: captions of images that have none of their own, and prompts for zero-shot.

A caption names every label of its image and no other, in one of many wordings, which the image's id chooses: it depends
neither on the row of the image nor on the other images. That an image has none of the labels says only that these are
absent: its caption is the kind of image.

Does not: imitate the captions that people write badly; that is the phantom's.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from functools import lru_cache
from hashlib import blake2b

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
_BARE = ("{kind}", "an example of {kind}", "this is {kind}", "figure: {kind}")

# Labels that do not stand alone in a sentence. The label itself stays in it, and nothing is added to its meaning.
_READABLE = {
    "normal": "a normal appearance",
    "benign": "a benign finding",
    "malignant": "a malignant finding",
    "negative": "a negative finding",
    "positive": "a positive finding",
}
_PARTICLES = {"a", "an", "in", "of", "is"}
"""Words of every sentence, which name nothing even where a class is called so (breast density A)."""
_COUNTABLE = ("cell", "platelet", "lesion", "tumor", "tumour", "nevus", "phil", "blast", "cyte", "polyp", "nodule")


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


def label_caption(domain: str, labels: Sequence[str], classes: Sequence[str], image_id: str) -> str:
    """Return a caption that names all ``labels`` and no other of the domain's ``classes``; the kind of image if none.

    Args:
        domain: imaging modality.
        labels: what is known of the image: its class, or its findings.
        classes: all that the images of the domain may have.
        image_id: chooses the wording.
    """
    frames = _frames(domain, bool(labels), tuple(classes))
    chosen = int.from_bytes(blake2b(image_id.encode(), digest_size=8).digest(), "big") % len(frames)
    form, kind = frames[chosen]
    return _fill(form, kind, *labels)


@lru_cache(maxsize=256)
def _frames(domain: str, named: bool, classes: tuple[str, ...]) -> tuple[tuple[str, str], ...]:
    """Return forms with kinds of image whose own words name none of the classes ("tumor" in a domain "brain tumor")."""
    names = {label.strip().casefold() for label in classes} - _PARTICLES
    words = "|".join(map(re.escape, sorted(names)))
    spoken = re.compile(rf"(?<!\w)(?:{words})(?!\w)") if words else None
    last = ("{label}", "") if named else ("{kind}", "a medical image")
    frames = [(form, kind) for form in (_NAMED if named else _BARE) for kind in kinds(domain)]
    quiet = [pair for pair in frames if not spoken or not spoken.search(_fill(*pair, "").casefold())]
    return tuple(quiet or [last])


def _fill(form: str, kind: str, *labels: str) -> str:
    return form.format(kind=kind, finding=_joined(map(finding, labels)), label=_joined(map(str.strip, labels)))


def _joined(names: Iterable[str]) -> str:
    """Return ``a, b and c``."""
    *first, last = list(names) or [""]
    return f"{', '.join(first)} and {last}" if first else last


def _article(noun: str) -> str:
    return f"{'an' if noun[:1].lower() in 'aeio' else 'a'} {noun}"
