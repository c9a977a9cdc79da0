"""The teachers that the authors of MMKD-CLIP list per sample (``available_clips``), as ``rule: published`` reads them.

``mmkd store import mmkd-clip`` writes the list. It names image and caption by their ids, so it fits any corpus that
holds the same pairs, in whatever order.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from mmkd_core.errors import TrustError

if TYPE_CHECKING:
    from mmkd_core.data.manifest import Corpus

NAMES = {
    "BMCA": "bmc-clip",
    "BiomedCLIP": "biomed-clip",
    "UniMedCLIP": "unimed-clip",
    "QuiltNet": "quilt-net",
    "GenMedClip": "genmed-clip",
    "PLIP": "plip",
    "PUBMEDCLIP": "pubmed-clip",
    "PMCCLIP": "pmc-clip",
    "MedCLIP": "med-clip",
}
"""What the authors call the paper's nine teachers, and what the registry does; MedCLIP is not in their demo."""
_OURS = {name.lower(): ours for name, ours in NAMES.items()}
_HOW = "Run `mmkd store import mmkd-clip DIR`, or choose another rule under trust in mmkd.yaml"


@dataclass(frozen=True)
class PublishedTrust:
    """Teachers by the ids of an image and its caption; a teacher has the registry's name where it has one."""

    teachers: Mapping[tuple[str, str], frozenset[str]]

    @classmethod
    def load(cls, path: Path) -> PublishedTrust:
        """Read the list. Of a pair that comes twice, the teachers of both count.

        Raises:
            TrustError: there is none, or it cannot be read.
        """
        found: dict[tuple[str, str], frozenset[str]] = {}
        try:
            for pair in json.loads(path.read_text(encoding="utf-8"))["pairs"]:
                key = str(pair["image_id"]), str(pair["text_id"])
                names = frozenset(_OURS.get(str(name).lower(), str(name)) for name in pair["teachers"])
                found[key] = found.get(key, frozenset()) | names
        except FileNotFoundError as error:
            raise TrustError("there is no published list of trusted teachers", where=str(path), next=_HOW) from error
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise TrustError("the list of trusted teachers cannot be read", where=str(path), next=_HOW) from error
        return cls(found)

    def mask(self, teacher: str, corpus: Corpus) -> NDArray[np.bool_]:
        """(N,): True on the train samples for which the list names the teacher.

        Raises:
            TrustError: no train sample is in the list, whoever teaches it.
        """
        train = corpus.where(split="train")
        pairs = zip(corpus.image_id[train].tolist(), corpus.text_id[train].tolist(), strict=True)
        named = [self.teachers.get(pair) for pair in pairs]
        if not any(names is not None for names in named):
            what = f"none of the {len(train)} training samples is in the published list of {len(self.teachers)} pairs"
            raise TrustError(what, next="Its images and captions must be those of the corpus, unchanged")
        mask = np.zeros(len(corpus), dtype=bool)
        mask[train] = [names is not None and teacher in names for names in named]
        return mask
