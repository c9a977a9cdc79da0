"""The outcome of a trust rule, and its file: a numpy archive of the mask with the reasons as JSON inside. No pickle."""

from __future__ import annotations

import json
import zipfile
from dataclasses import asdict, dataclass
from hashlib import blake2b
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mmkd_core.errors import TrustError
from mmkd_core.files import replacing
from mmkd_core.statistics import Interval

VERSION = 2


@dataclass(frozen=True)
class DomainTrust:
    """What a teacher may teach in one domain, and why."""

    n: int
    """Labelled probe images."""
    accuracy: float | None
    """Zero-shot, on the probe images."""
    lower: float | None
    """One-sided 95 % Wilson lower bound of ``accuracy``."""
    claimed: float | None
    verified: bool
    """Whether there were enough probe images to measure it."""
    trusted: bool
    """Teaches every train sample of the domain."""
    admitted: int
    """Train samples that it teaches."""
    of: int
    """Train samples of the domain."""
    reason: str
    auc: Interval | None = None
    """Macro one-vs-rest AUC on the probe images, 95 %, resampled by group."""
    gain: Interval | None = None
    """AUC above the student's; ``lower`` is a one-sided 95 % bound. Only under ``rule: gain``."""
    status: str = "not measured"
    """``measured``, ``not better than chance`` or ``not measured``."""
    balanced: float | None = None
    """Mean over the classes of the share that is right, on the probe images."""
    patients: int = 0
    """Groups that the probe images come from."""
    classes: int = 0
    """Classes with enough probe images."""
    probe: str = "val"
    """Split that the probe images come from."""
    temperature: float = 1.0
    """By which its logits were divided before it counted as sure."""
    sure_of: tuple[str, ...] = ()
    """Where it is not trusted with the domain: classes of which it teaches what it is sure of and right about."""
    on_claim: bool = False
    """Trusted with the domain because of its authors' claim alone."""

    @classmethod
    def from_json(cls, facts: dict[str, Any]) -> DomainTrust:
        """Read what ``dataclasses.asdict`` wrote."""
        intervals = {name: Interval(**facts[name]) if facts[name] else None for name in ("auc", "gain")}
        return cls(**{**facts, **intervals, "sure_of": tuple(facts["sure_of"])})


@dataclass(frozen=True, eq=False)
class TeacherTrust:
    """What one teacher may teach in one corpus."""

    teacher: str
    mask: NDArray[np.bool_]
    """(N,) over the samples of the corpus, in its order; True only on train samples."""
    domains: dict[str, DomainTrust]
    config: dict[str, Any]
    """The settings: rule, threshold and all others."""
    corpus: str
    """Fingerprint of the corpus whose order ``mask`` follows."""
    sentence: str = ""
    """What the rule does under these settings, for people."""
    inputs: str = ""
    """Identity of what it was decided from: corpus, teacher, settings."""

    def to_json(self) -> dict[str, Any]:
        """All but the mask, as plain JSON."""
        domains = {domain: asdict(trust) for domain, trust in self.domains.items()}
        return {
            "teacher": self.teacher,
            "config": self.config,
            "corpus": self.corpus,
            "sentence": self.sentence,
            "inputs": self.inputs,
            "domains": domains,
        }

    @property
    def digest(self) -> str:
        """32 hex digits over all of it, the mask sample by sample."""
        text = json.dumps(self.to_json(), sort_keys=True)
        return blake2b(text.encode() + np.packbits(self.mask).tobytes(), digest_size=16).hexdigest()

    def save(self, path: Path) -> None:
        """Write everything to one file: the same trust makes the same bytes."""
        text = json.dumps({"version": VERSION, "n": len(self.mask), **self.to_json()}, sort_keys=False)
        with replacing(Path(path)) as file:
            np.savez(file, mask=np.packbits(self.mask), facts=np.frombuffer(text.encode(), dtype=np.uint8))

    @classmethod
    def load(cls, path: Path) -> TeacherTrust:
        """Read what ``save`` wrote.

        Raises:
            TrustError: no such file, damaged, or of another version.
        """
        again = "Run `mmkd audit trust` to decide again."
        try:
            with np.load(path, allow_pickle=False) as archive:
                facts = json.loads(archive["facts"].tobytes())
                mask = np.unpackbits(archive["mask"], count=facts["n"]).astype(bool)
        except FileNotFoundError as error:
            raise TrustError("no trust results", where=str(path), next=again) from error
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
            raise TrustError("the trust results cannot be read", where=str(path), next=again) from error
        if facts.get("version") != VERSION:
            what = f"the trust results are of version {facts.get('version')}, this mmkd reads {VERSION}"
            raise TrustError(what, where=str(path), next=again)
        domains = {domain: DomainTrust.from_json(entry) for domain, entry in facts["domains"].items()}
        columns = (facts[name] for name in ("config", "corpus", "sentence", "inputs"))
        return cls(facts["teacher"], mask, domains, *columns)
