"""What may be wrong with a corpus, found before it costs a training run.

``check`` reads every image again; the importer uses ``torn`` alone and refuses what would be a hard problem here.
Does not: repair anything.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np

from mmkd_core.data.decode import decode
from mmkd_core.data.issues import EXAMPLES, Issue
from mmkd_core.data.labels import alike
from mmkd_core.data.manifest import SPLITS, Corpus, image_id
from mmkd_core.errors import DataError
from mmkd_core.progress import Progress, Silent


@dataclass(frozen=True)
class CheckReport:
    """Problems make a corpus unfit; warnings say what a result on it cannot show."""

    samples: int
    problems: tuple[Issue, ...]
    warnings: tuple[Issue, ...]

    @property
    def ok(self) -> bool:
        """Whether there are no problems (there may be warnings)."""
        return not self.problems


def torn(keys: Iterable[str], splits: Iterable[str]) -> dict[str, tuple[int, int]]:
    """Return every key that occurs in two splits, with its first row and the first row in another split."""
    first: dict[str, tuple[int, str]] = {}
    found: dict[str, tuple[int, int]] = {}
    for i, (key, split) in enumerate(zip(keys, splits, strict=True)):
        j, known = first.setdefault(key, (i, split))
        if split != known:
            found.setdefault(key, (j, i))
    return found


def check(corpus: Corpus, *, images: bool = True, progress: Progress | None = None) -> CheckReport:
    """Look for everything that would spoil training or evaluation on the corpus.

    Args:
        corpus: what to look at.
        images: decode every image and compare it with its hash; the slow part (about 2,000 small images a second).
        progress: who watches.
    """
    problems = [
        _issue("empty caption", (_row(corpus, i) for i in _silent(corpus))),
        _issue("group in two splits", _torn_rows(corpus, "group", corpus.group_id)),
        _issue("same image in two splits", _torn_rows(corpus, "image", corpus.image_id)),
        _issue("label without prompts", _unprompted(corpus)),
        _issue("labels that differ only by case, white space or Unicode form", _alike(corpus)),
        _issue("classes with the same sentences", _same_sentences(corpus)),
    ]
    if images:
        problems += _images(corpus, progress or Silent())
    warnings = [
        _issue("class missing in a split", _missing(corpus)),
        _issue("domain with a single class", _single(corpus)),
        _issue("image with different labels in two rows", _contradictory(corpus)),
        _issue("same image and caption twice", _doubles(corpus)),
    ]
    return CheckReport(
        len(corpus),
        tuple(issue for issue in problems if issue is not None),
        tuple(issue for issue in warnings if issue is not None),
    )


def _issue(what: str, cases: Iterator[str]) -> Issue | None:
    named = list(cases)
    return Issue(what, len(named), tuple(named[:EXAMPLES])) if named else None


def _row(corpus: Corpus, i: int) -> str:
    return f"row {i}: {corpus.image[i]}"


def _silent(corpus: Corpus) -> Iterator[int]:
    for i, (first, more) in enumerate(zip(corpus.caption, corpus.more_captions, strict=True)):
        if not all(isinstance(text, str) and text.strip() for text in (first, *more)):
            yield i


def _torn_rows(corpus: Corpus, what: str, keys: Iterable[str]) -> Iterator[str]:
    for key, (i, j) in torn(keys, corpus.split).items():
        yield f"{what} {key} in {corpus.split[i]} (row {i}) and {corpus.split[j]} (row {j})"


def _unprompted(corpus: Corpus) -> Iterator[str]:
    pairs = Counter((str(corpus.domain[i]), label) for i in range(len(corpus)) for label in corpus.named(i) or ())
    for (domain, label), count in sorted(pairs.items()):
        if not corpus.prompts.get(domain, {}).get(label):
            yield f"{domain}: {label!r} ({count} samples)"


def _alike(corpus: Corpus) -> Iterator[str]:
    for domain in corpus.domains:
        rows = corpus.where(domains=[domain]).tolist()
        for group in alike({label for i in rows for label in corpus.named(i) or ()}):
            yield f"{domain}: {', '.join(map(ascii, group))}"


def _same_sentences(corpus: Corpus) -> Iterator[str]:
    for domain in corpus.domains:
        first: dict[tuple[str, ...], str] = {}
        for label, texts in corpus.prompts.get(domain, {}).items():
            if (other := first.setdefault(tuple(sorted(texts)), label)) != label:
                yield f"{domain}: {other!r} and {label!r}"


def _contradictory(corpus: Corpus) -> Iterator[str]:
    first: dict[tuple[str, str], int] = {}
    for i in np.flatnonzero(corpus.labelled).tolist():
        j = first.setdefault((corpus.image_id[i], corpus.domain[i]), i)
        if corpus.named(i) != corpus.named(j):
            yield f"row {i} {'|'.join(corpus.named(i) or ())!r}, row {j} {'|'.join(corpus.named(j) or ())!r}"


def _missing(corpus: Corpus) -> Iterator[str]:
    present = {
        (corpus.domain[i], corpus.split[i], label) for i in range(len(corpus)) for label in corpus.named(i) or ()
    }
    for domain in corpus.domains:
        for split in SPLITS:
            for label in corpus.classes(domain):
                if (domain, split, label) not in present:
                    yield f"{domain}: {split} has no {label!r}"


def _single(corpus: Corpus) -> Iterator[str]:
    return (d for d in corpus.domains if len(corpus.classes(d)) == 1 and not corpus.multilabel(d))


def _doubles(corpus: Corpus) -> Iterator[str]:
    first: dict[str, int] = {}
    for i, key in enumerate(corpus.sample_id):
        if (j := first.setdefault(key, i)) != i:
            yield f"row {i} repeats row {j}"


def _images(corpus: Corpus, progress: Progress) -> list[Issue | None]:
    """Decode each file once; a file that several rows name is reported for its first row."""
    unreadable: list[str] = []
    changed: list[str] = []
    seen: dict[tuple[str, str], None] = {}
    with progress.task("check images", len(corpus), "images") as advance:
        for i in range(len(corpus)):
            key = (corpus.image[i], corpus.image_id[i])
            if key not in seen:
                seen[key] = None
                try:
                    if image_id(decode(corpus.path(i))) != corpus.image_id[i]:
                        changed.append(_row(corpus, i))
                except DataError as error:
                    unreadable.append(f"row {i}: {error.what}: {corpus.image[i]}")
            advance(1)
    return [
        _issue("image missing or unreadable", iter(unreadable)),
        _issue("pixels changed since import", iter(changed)),
    ]
