"""What an import says at its end: what came in, what did not, and what a figure on these data may suffer from."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from mmkd_core.data.captions import DOMAINS
from mmkd_core.data.enough import Minimum
from mmkd_core.data.issues import ImportLog, Issue, Remarks, Tally
from mmkd_core.data.manifest import SPLITS, Corpus
from mmkd_core.data.options import Look
from mmkd_core.errors import DataError
from mmkd_core.files import replacing

REPORT = "import.json"
"""Beside the manifest: what the import said."""

_SHOWN = 3
_TOO_SMALL = "validation splits too small for trust to be measured (training patients are asked: `trust.probe: train`)"
_WORDS = re.compile(r"\w+|[^\w\s]+")


@dataclass(frozen=True, kw_only=True)
class ImportReport(Remarks):
    """What an import did.

    Attributes:
        source: name of the file or folder.
        samples: in the corpus.
        images: distinct by pixels.
        groups: patients, slides or articles.
        domains: samples by domain.
        splits: samples by split.
        captions: three as they will be trained on.
    """

    source: str
    samples: int
    images: int
    groups: int
    domains: dict[str, int]
    splits: dict[str, int]
    captions: tuple[str, ...]

    def save(self, folder: Path) -> None:
        """Write it beside the manifest."""
        with replacing(folder / REPORT) as file:
            file.write((json.dumps(asdict(self), indent=2, sort_keys=True) + "\n").encode())

    @classmethod
    def load(cls, folder: Path) -> ImportReport | None:
        """Read it; None of data that were not imported, as the phantom's."""
        if not (folder / REPORT).is_file():
            return None
        try:
            facts = json.loads((folder / REPORT).read_text(encoding="utf-8"))
            issues = {name: tuple(Issue(**{**case, "examples": tuple(case["examples"])}) for case in facts[name])
                      for name in ("left_out", "issues")}  # fmt: skip
            return cls(**{**facts, **issues, "notes": tuple(facts["notes"]), "captions": tuple(facts["captions"])})
        except (OSError, ValueError, KeyError, TypeError) as error:
            what, mend = "the summary of the import cannot be read", "Remove it: nothing but this summary needs it."
            raise DataError(what, where=str(folder / REPORT), next=mend) from error


def report_of(corpus: Corpus, source: Path, log: ImportLog, looks: tuple[Look, ...]) -> ImportReport:
    """Return the report of a corpus that is not written yet."""
    for line in _domain_notes(corpus):
        log.note(line)
    found = log.remarks([issue for look in looks for issue in look(corpus)])
    return ImportReport(
        **vars(found),
        source=source.name,
        samples=len(corpus),
        images=len(set(corpus.image_id)),
        groups=len(set(corpus.group_id)),
        domains=dict(sorted(Counter(corpus.domain).items())),
        splits={split: int((corpus.split == split).sum()) for split in SPLITS},
        captions=_examples(corpus),
    )


def longer_captions(corpus: Corpus, context: int) -> Iterator[Issue]:
    """Issue of captions that a student with that context length cannot read to their end.

    The tokenizer is made later, of these captions: a word or a run of marks is at least one token, and one ends a text.
    """
    tally = Tally()
    what = f"captions longer than the student's context of {context} tokens (by words, so at least these)"
    for i in range(len(corpus)):
        for text in corpus.captions(i):
            if len(text) > context and (words := len(_WORDS.findall(text))) + 1 > context:
                tally.add(what, f"{Path(corpus.image[i]).name}, {words} words")
    return iter(tally.issues)


def small_probe(corpus: Corpus, minimum: Minimum) -> Iterator[Issue]:
    """Issue of what the validation split is too small for: no teacher can be measured there."""
    tally = Tally()
    for domain in corpus.domains:
        rows = corpus.where("val", [domain])
        rows, names = rows[corpus.labelled[rows]], corpus.classes(domain)
        if corpus.multilabel(domain):
            there = corpus.findings(rows, domain).astype(np.int64)
            asked = [(f"{domain}, {name}", there[:, c], [f"not {name}", name]) for c, name in enumerate(names)]
        else:
            truth = np.array([names.index(corpus.label[i]) for i in rows], np.int64)
            asked = [(domain, truth, names)] if names else []
        for name, answers, classes in asked:
            if lacks := minimum.lacks(answers, corpus.group_id[rows], classes):
                tally.add(_TOO_SMALL, f"{name}: {lacks}")
    return iter(tally.issues)


def _examples(corpus: Corpus) -> tuple[str, ...]:
    """Captions of training samples: of different domains, else of different classes, if there are."""
    rows = corpus.where("train").tolist() or list(range(len(corpus)))
    domains: dict[object, int] = {}
    classes: dict[object, int] = {}
    for i in rows:
        domains.setdefault(corpus.domain[i], i)
        classes.setdefault((corpus.domain[i], corpus.named(i)), i)
    chosen = list(dict.fromkeys([*domains.values(), *classes.values(), *rows[:_SHOWN]]))[:_SHOWN]
    return tuple(" | ".join(corpus.captions(i)) for i in chosen)


def _domain_notes(corpus: Corpus) -> Iterator[str]:
    if len(corpus) and not any(corpus.classes(domain) for domain in corpus.domains):
        yield "no image has a label: zero-shot AUC cannot be measured, `mmkd eval retrieval` can"
    for domain in corpus.domains:
        classes = corpus.classes(domain)
        if domain not in DOMAINS:
            yield f"domain '{domain}' is none of {', '.join(DOMAINS)}: teachers that do not declare it are not asked"
        if len(classes) == 1 and not corpus.multilabel(domain):
            yield f"{domain} has a single class, {classes[0]!r}: zero-shot AUC cannot be computed"
        for split in SPLITS:
            here = {label for i in corpus.where(split, [domain]) for label in corpus.named(int(i)) or ()}
            if gone := [label for label in classes if label not in here]:
                yield f"{domain}: {split} has no {', '.join(map(repr, gone))}"
