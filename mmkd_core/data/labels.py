"""Labels as people write them become classes: several in one cell, lists, columns of 0 and 1, spellings that differ.

    pneumonia|effusion      Edema; Cardiomegaly      ["mass", "nodule"]      columns Mass, Nodule with 1 and 0

A domain in which an image has several findings, or a list says that it has none, is multi-label. What can be read in
two ways is refused. Does not: know what a label means ("No Finding" is a class like another, unless findings stand
beside it).
"""

from __future__ import annotations

import json
import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches

from mmkd_core.data.cells import ABSENT, encodable, text_cell
from mmkd_core.data.issues import ImportLog
from mmkd_core.errors import DataError

_SEPARATORS = ("|", ";")
_OTHERS = re.compile(r"\s*(?:,|/|\+|&|\band\b)\s*")
_QUOTED = r"""(?:'[^'\\]*'|"[^"\\]*")"""
_LIST = re.compile(rf"[\[({{]\s*{_QUOTED}(?:\s*,\s*{_QUOTED})*\s*,?\s*[\])}}]")  # as Python prints lists, tuples, sets
_LISTS = 'Write several labels as a|b, or as a list: ["a", "b"].'
_NOTHING = ("no finding", "no findings", "normal", "none", "healthy", "negative", "no abnormality", "unremarkable")
_YES, _NO = ("1", "1.0", "true", "yes"), ("0", "0.0", "false", "no")
_WHOLE = re.compile(r"^(-?\d+)\.0+$")
_EMPTY = re.compile(r"-?\d+(\.\d+)?|(class|label|category)[ _-]?\d+|true|false|yes|no|y|n|t|f")

Given = str | tuple[str, ...] | None
"""What a cell says: a text that may hold several labels, a list of labels, or nothing."""


@dataclass(frozen=True)
class LabelColumns:
    """Columns that labels come from.

    Attributes:
        names: of ``--labels-from``: columns of 0 and 1, or the names of the places in lists of 0 and 1.
        present: the table has columns of these names.
    """

    names: tuple[str, ...] = ()
    present: bool = False

    @classmethod
    def among(cls, names: Sequence[str], columns: Sequence[str], where: str) -> LabelColumns:
        """Look for the columns of ``--labels-from``.

        Raises:
            DataError: some are missing, or a name stands twice.
        """
        missing = [name for name in names if name not in columns]
        listed = {"label", "labels"} & set(columns)
        if len(set(names)) < len(names) or (missing and (len(missing) < len(names) or not listed)):
            near = get_close_matches(missing[0], columns, n=1) if missing else []
            what = f"--labels-from: {missing[0]!r} is no column" if missing else "--labels-from repeats a name"
            hint = f"Is it {near[0]!r}?" if near else f"The table has {', '.join(columns)}."
            raise DataError(what, where=where, next=hint)
        return cls(tuple(names), bool(names) and not missing)

    def read(self, values: Mapping[str, object], place: str, log: ImportLog) -> Given:
        """Return what a row says.

        Raises:
            DataError: a cell that cannot be understood.
        """
        if self.present:
            return self._indicated(values, place)
        column = "label" if values.get("labels") is None else "labels"
        if column == "labels" and values.get("label") is not None:
            raise DataError("the row has a label and labels", where=place, next="Keep one of the two columns.")
        value = values.get(column)
        if isinstance(value, (list, tuple)):
            return self._listed(value, place)
        text = " ".join((text_cell(value, column, place, log) or "").split())
        if _LIST.fullmatch(text) or (text.startswith("[") and text.endswith("]")):
            return self._listed(_parsed(text, place), place)
        return text or None

    def _indicated(self, values: Mapping[str, object], place: str) -> Given:
        """Read columns of 0 and 1; a row in which all are empty is not labelled."""
        cells = [text_cell(values.get(name), name, place, ImportLog()) for name in self.names]
        if all(cell is None for cell in cells):
            return None
        for name, cell in zip(self.names, cells, strict=True):
            if cell is None or cell.lower() not in (*_YES, *_NO):
                what = f"the cell of {name} is {'empty' if cell is None else repr(cell)}, not 1 or 0"
                mend = "Write 1 where the finding is there, 0 where it is not. What -1 or nothing means only you know."
                raise DataError(what, where=place, next=mend)
        return tuple(name for name, cell in zip(self.names, cells, strict=True) if str(cell).lower() in _YES)

    def _listed(self, value: Sequence[object], place: str) -> tuple[str, ...]:
        if value and all(isinstance(item, (int, float)) for item in value):
            if len(value) != len(self.names) or any(item not in (0, 1) for item in value):
                what = f"the labels are numbers, {list(value)}, and not names"
                mend = f"Name the {len(value)} places of 0 and 1, in order, with --labels-from; or write names."
                raise DataError(what, where=place, next=mend)
            return tuple(name for name, item in zip(self.names, value, strict=True) if item)
        names = [" ".join(item.replace("\ufeff", "").split()) if isinstance(item, str) else "" for item in value]
        for name in names:
            encodable(name, "the label", place)
        if any(not name or name in ABSENT for name in names):
            raise DataError(f"a label in {list(value)} is no name", where=place, next=_LISTS)
        return tuple(dict.fromkeys(names))


def _parsed(text: str, place: str) -> list[object]:
    """Return the list in a cell of text: JSON, or as Python prints it."""
    try:
        found = json.loads(text)
    except ValueError:
        if not _LIST.fullmatch(text):
            raise DataError(f"the label {text!r} is no list", where=place, next=_LISTS) from None
        return [item[1:-1] for item in re.findall(_QUOTED, text)]
    return list(found)


def separated(given: Sequence[Given], where: str) -> list[tuple[str, ...] | None]:
    """Return the labels per row: texts are cut at the one separator, ``|`` or ``;``, that the column uses.

    Raises:
        DataError: both are used, or one of them is a part of names in lists, or nothing stands between two of them.
    """
    whole = {name for labels in given if isinstance(labels, tuple) for name in labels}
    texts = {text for text in given if isinstance(text, str)}
    used = {mark: next(iter(sorted(text for text in texts if mark in text)), None) for mark in _SEPARATORS}
    marks = [mark for mark, example in used.items() if example is not None]
    if len(marks) > 1:
        what = f"labels hold both | and ;, as {used['|']!r} and {used[';']!r}: which stands between two labels?"
        raise DataError(what, where=where, next=f"Use one, or lists in a jsonl file. {_LISTS}")
    if odd := sorted(name for name in whole if any(mark in name for mark in marks)):
        what = f"{marks[0]!r} stands between labels ({used[marks[0]]!r}) and inside of one ({odd[0]!r})"
        raise DataError(what, where=where, next="Write every cell with several labels as a list.")
    parts = {text: _cut(text, marks[0] if marks else None, where) for text in texts}
    return [labels if labels is None or isinstance(labels, tuple) else parts[labels] for labels in given]


def _cut(text: str, mark: str | None, where: str) -> tuple[str, ...]:
    names = [part.strip() for part in text.split(mark)] if mark else [text]
    names = list(dict.fromkeys(name for name in names if name))
    if not names or any(name in ABSENT for name in names):
        raise DataError(f"a label in {text!r} is no name", where=where, next=_LISTS)
    return tuple(names)


def form_of(label: str) -> str:
    """Return what is left of a label without case, white space at its ends or doubled, and Unicode form; 1.0 is 1."""
    folded = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", label).casefold())
    plain = " ".join("".join(c for c in folded if unicodedata.category(c) != "Cf").split())
    return _WHOLE.sub(r"\1", plain)


def alike(names: Iterable[str]) -> list[list[str]]:
    """Return groups of labels that differ in nothing but what ``form_of`` takes away."""
    groups: dict[str, list[str]] = defaultdict(list)
    for name in sorted(set(names)):
        groups[form_of(name)].append(name)
    return [group for group in groups.values() if len(group) > 1]


def merged(counts: Mapping[str, int], where: str, *, merge: bool, log: ImportLog) -> dict[str, str]:
    """Return the label that stands for each: itself, or with ``merge`` the commonest of those that are alike.

    Args:
        counts: how often each occurs, in class order where that matters.
        where: domain or file, for the sentences.
        merge: labels that are alike are one class.
        log: is told what was merged.

    Raises:
        DataError: labels are alike, and ``merge`` is not set.
    """
    if not merge:
        refuse_alike(counts, where, "Correct them, or add --merge-labels: each becomes one class, the commonest.")
    groups = alike(counts)
    for line in _pairs(groups, counts):
        log.note(f"{where}: {line} are one label")
    best = {name: max(group, key=lambda one: counts[one]) for group in groups for name in group}
    return {name: best.get(name, name) for name in counts}


def refuse_alike(counts: Mapping[str, int], where: str, mend: str) -> None:
    """Refuse labels that are alike: no model can tell their sentences apart.

    Raises:
        DataError: names them, with how often each occurs.
    """
    if pairs := _pairs(alike(counts), counts):
        what = f"labels that differ only by case, white space or Unicode form: {'; '.join(pairs)}"
        raise DataError(what, where=where, next=mend)


def _pairs(groups: Sequence[Sequence[str]], counts: Mapping[str, int]) -> list[str]:
    return [" and ".join(f"{_shown(name, group)} ({counts[name]:,})" for name in group) for group in groups]


def _shown(name: str, group: Sequence[str]) -> str:
    """The label, with escapes where it would look like another of the group."""
    same = sum(unicodedata.normalize("NFC", name) == unicodedata.normalize("NFC", other) for other in group) > 1
    return ascii(name) if same else repr(name)


def doubtful(labels: Mapping[str, Collection[tuple[str, ...]]], log: ImportLog) -> None:
    """Count combinations of labels, by domain, that can hardly be meant."""
    for domain, combinations in labels.items():
        names = Counter(name for combination in combinations for name in combination)
        for combination in combinations:
            if len(combination) > 1 and any(form_of(name) in _NOTHING for name in combination):
                log.issues.add(f"{domain}: images with and without a finding at once", "|".join(combination))
        parts = {name: {form_of(part) for part in _OTHERS.split(name) if part} for name in names}
        often = Counter(part for found in parts.values() for part in found)
        for name, found in parts.items():
            if len(found) > 1 and any(often[part] > 1 for part in found):  # one of them is a label, or part of another
                log.issues.add(f"{domain}: labels that look like several (write them as a|b)", repr(name))
        if names and all(_EMPTY.fullmatch(name.lower()) for name in names):
            log.issues.add(f"{domain}: labels that are no names: their sentences say nothing", _first(names))


def _first(names: Iterable[str]) -> str:
    return ", ".join(sorted(names)[:5])
