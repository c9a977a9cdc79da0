"""Checks of what a teacher declares: spec, claims, files, and golden values against what it answers."""

from __future__ import annotations

import math
from typing import Any

from mmkd_core.contract import TeacherSpec
from mmkd_core.contract.golden import pixels_of
from mmkd_core.errors import PluginError
from mmkd_core.files import forget_hashes
from mmkd_core.plugins import weights
from mmkd_core.plugins.conformance.subject import FailedError, SkippedError, Subject, Tower
from mmkd_core.plugins.record import describe

_SCALE = 1e-2
"""Relative difference up to which two logit scales are one."""


def spec_is_valid(subject: Subject) -> None:
    """The spec obeys its own rules and holds no placeholder."""
    facts = subject.spec.model_dump(mode="json")
    try:
        again = TeacherSpec.model_validate(facts)  # model_copy and model_construct do not validate
    except ValueError as error:
        raise FailedError(describe(error)) from error
    if again.fingerprint != subject.spec.fingerprint:
        raise FailedError("written as JSON and read back it has another fingerprint")
    for source in subject.spec.weights:
        if source.revision and set(source.revision) == {"0"}:
            raise FailedError(f"revision {source.revision} of {source.location} is a placeholder")
        for name, digest in source.files.items():
            if digest and set(digest) == {"0"}:
                raise FailedError(f"the sha256 of {name} is a placeholder")


def trust_is_well_formed(subject: Subject) -> None:
    """Every claim is a fraction of a metric on a data set, with its size and its source."""
    if not subject.spec.trust:
        raise SkippedError("no trust is claimed")
    for domain, claim in subject.spec.trust.items():
        if domain not in subject.spec.domains:
            raise FailedError(f"trust is claimed for {domain}, which domains does not list")
        if not (0 <= claim.score <= 1 and claim.n >= 1):
            raise FailedError(f"the claim for {domain} must be a fraction of at least one sample")
        for field in ("metric", "dataset", "source"):
            text = getattr(claim, field).strip()
            if not text or text.upper().startswith(("TODO", "CHANGE", "...")):
                raise FailedError(f"the claim for {domain} does not say its {field}")


def every_file_is_hashed_again(subject: Subject) -> None:
    """Every declared file is on disk and has the declared sha256, read afresh."""
    forget_hashes()
    try:
        weights.resolve(subject.spec)
    except Exception as error:
        raise FailedError(describe(error)) from error


def configuration_agrees(subject: Subject) -> None:
    """The spec declares what the checkpoint's own configuration says."""
    from mmkd_core.plugins.loaders import stated

    try:
        folders = weights.resolve(subject.spec)
    except PluginError as error:
        raise SkippedError("its files are not those that it declares") from error
    facts = stated.stated(subject.spec, folders)
    if not facts:
        raise SkippedError("its checkpoint comes without a configuration that is understood here")
    if found := list(stated.differences(subject.spec, facts)):
        raise FailedError("; ".join(found))


def learnt_scale_agrees(subject: Subject) -> None:
    """The spec declares the logit scale that the weights learnt; a locked teacher's is the learnt one."""
    learnt = getattr(subject.teacher, "logit_scale", None)
    if learnt is None:
        raise SkippedError("the teacher tells none; the spec's is used")
    declared = subject.spec.logit_scale
    if not (math.isfinite(learnt) and learnt > 0):
        raise SkippedError("the model's own is no number that a scale can be")
    if not math.isclose(learnt, declared, rel_tol=_SCALE):
        raise FailedError(f"logit scale: the spec declares {declared:.4g}, the weights say {learnt:.4g}")


def golden_tokens(subject: Subject) -> None:
    """The prompt becomes the declared token ids."""
    golden = _golden(subject, "tokens")
    found = tuple(subject.answer("tokens")[0, : len(golden)].tolist())
    if found != golden:
        at = next(i for i, wanted in enumerate(golden) if i >= len(found) or found[i] != wanted)
        raise FailedError(f"token {at}: {golden[at]} is declared, tokenize gives {(*found, None)[at]}")


def golden_pixels(subject: Subject) -> None:
    """The synthetic image becomes the declared pixels."""
    golden = _golden(subject, "pixels")
    found = pixels_of(subject.answer("pixels")[0])
    _compare("pixels", found, golden, 1e-4)  # exact on one machine; Pillow may round differently on another


def golden_image_values(subject: Subject) -> None:
    """The synthetic image's embedding begins with the declared values."""
    _compare_embedding(subject, "image")


def golden_text_values(subject: Subject) -> None:
    """The prompt's embedding begins with the declared values."""
    _compare_embedding(subject, "text")


def _compare_embedding(subject: Subject, tower: Tower) -> None:
    declared = _golden(subject, tower)
    tolerance = subject.spec.golden.tolerance if subject.spec.golden else 0
    _compare(f"{tower} values", tuple(subject.answer(tower)[0].tolist()), declared, tolerance)


def _golden(subject: Subject, part: str) -> tuple[Any, ...]:
    golden = subject.spec.golden
    values: tuple[Any, ...] | None = getattr(golden, part) if golden else None
    if values is None:
        raise SkippedError(f"the spec declares no golden {part}; `mmkd teachers check NAME --json` measures them")
    return values


def _compare(what: str, found: tuple[float, ...], golden: tuple[float, ...], tolerance: float) -> None:
    if len(golden) > len(found):
        raise FailedError(f"{len(golden)} are declared, there are {len(found)}")
    worst = max(abs(a - b) for a, b in zip(found, golden, strict=False)) / (max(map(abs, golden)) or 1.0)
    if not worst <= tolerance:
        raise FailedError(
            f"{what} are off by {worst:.2g} of the largest, {tolerance:.2g} is allowed; weights or preprocessing differ"
        )
