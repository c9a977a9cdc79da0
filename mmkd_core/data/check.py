"""What may be wrong with a corpus, found before it costs a training run.

``check`` reads every image again; the importer uses ``torn`` alone and refuses what would be a hard problem here.
Does not: repair anything.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from mmkd_core.data.decode import decode
from mmkd_core.data.manifest import SPLITS, Corpus, image_id
from mmkd_core.errors import DataError
from mmkd_core.progress import Progress, Silent

EXAMPLES = 5
"""How many cases of one kind a report names; it counts all."""


@dataclass(frozen=True)
class Issue:
    """One kind of problem: how often it occurs and the first cases."""

    what: str
    count: int
    examples: tuple[str, ...]

    def __str__(self) -> str:
        more = f", and {self.count - len(self.examples)} more" if self.count > len(self.examples) else ""
        return f"{self.what}: {self.count} ({'; '.join(self.examples)}{more})"


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
        _issue("empty caption", (_row(corpus, i) for i, text in enumerate(corpus.caption) if not _has_text(text))),
        _issue("group in two splits", _torn_rows(corpus, "group", corpus.group_id)),
        _issue("same image in two splits", _torn_rows(corpus, "image", corpus.image_id)),
        _issue("label without prompts", _unprompted(corpus)),
    ]
    if images:
        problems += _images(corpus, progress or Silent())
    warnings = [
        _issue("class missing in a split", _missing(corpus)),
        _issue("domain with a single class", _single(corpus)),
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


def _has_text(text: object) -> bool:
    return isinstance(text, str) and bool(text.strip())


def _torn_rows(corpus: Corpus, what: str, keys: Iterable[str]) -> Iterator[str]:
    for key, (i, j) in torn(keys, corpus.split).items():
        yield f"{what} {key} in {corpus.split[i]} (row {i}) and {corpus.split[j]} (row {j})"


def _unprompted(corpus: Corpus) -> Iterator[str]:
    pairs = Counter((d, k) for d, k in zip(corpus.domain, corpus.label, strict=True) if k is not None)
    for (domain, label), count in sorted(pairs.items()):
        if not corpus.prompts.get(domain, {}).get(label):
            yield f"{domain}: {label!r} ({count} samples)"


def _missing(corpus: Corpus) -> Iterator[str]:
    present = set(zip(corpus.domain, corpus.split, corpus.label, strict=True))
    for domain in corpus.domains:
        for split in SPLITS:
            for label in corpus.classes(domain):
                if (domain, split, label) not in present:
                    yield f"{domain}: {split} has no {label!r}"


def _single(corpus: Corpus) -> Iterator[str]:
    return (domain for domain in corpus.domains if len(corpus.classes(domain)) == 1)


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
