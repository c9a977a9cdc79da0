"""Tables of people (csv, tsv, jsonl, parquet) as columns and rows of cells, and texts as they were meant.

Whatever would make a cell stand for another one is refused: a quotation mark that is not closed, a line with too few
or too many cells, a column that stands twice. Does not: know what the columns mean.
"""

from __future__ import annotations

import csv
import io
import json
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from mmkd_core.data.issues import ImportLog, Problems
from mmkd_core.errors import DataError

SUFFIXES = (".csv", ".tsv", ".jsonl", ".parquet")
ABSENT = ("nan", "NaN", "NA", "N/A", "n/a", "<NA>", "#N/A", "null", "NULL", "None")
"""Words that programs write where a table has no value. A class that is called so needs another name."""

_SEPARATORS = {",": "commas", ";": "semicolons", "\t": "tabs", "|": "bars"}
_PICTURE = re.compile(r"\.(png|jpe?g|tiff?|bmp|webp|gif|dcm|dicom|nii(\.gz)?)\b", re.IGNORECASE)

Cells = Iterator[tuple[str, Mapping[str, object]]]
"""Where a row stands, and its cells by column."""


def cells_of(path: Path, wanted: Callable[[str], bool]) -> tuple[list[str], Cells]:
    """Columns and rows of a csv, tsv, jsonl or parquet file; of a parquet file only the ``wanted`` columns.

    Raises:
        DataError: no such file, unknown format, damaged, or a column that stands twice.
    """
    if not path.is_file():
        raise DataError("no such file", where=str(path), next="Give a csv, jsonl or parquet manifest.")
    suffix = path.suffix.lower()
    if suffix == ".parquet":
        return _parquet(path, wanted)
    readers = {".csv": _csv, ".tsv": _csv, ".jsonl": _jsonl}
    if suffix not in readers:
        raise DataError("unknown kind of manifest", where=str(path), next=f"Use one of {', '.join(SUFFIXES)}.")
    return readers[suffix](path)


def text_of(data: bytes, what: str, where: str) -> str:
    """Decode UTF-8, without the byte order mark that some editors write.

    Raises:
        DataError: ``what`` is no UTF-8.
    """
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(f"{what} is not UTF-8 text", where=where, next="Save it as UTF-8.") from error


def read_text(path: Path) -> str:
    """Read a text file.

    Raises:
        DataError: it cannot be read, or is no UTF-8.
    """
    try:
        return text_of(path.read_bytes(), "the file", str(path))
    except OSError as error:
        raise DataError(f"the file cannot be read: {error.strerror}", where=str(path)) from error


def lines_of(text: str, each: bool) -> list[str]:
    """Return the captions of a text: one, its lines joined, or every line that is not blank."""
    captions = [" ".join(part.split()) for part in (text.split("\n") if each else [text])]
    return [caption for caption in captions if caption.strip("\ufeff")]


def json_object(text: str, what: str, where: str) -> dict[str, Any]:
    """Parse one JSON object.

    Raises:
        DataError: ``what`` is no JSON, no object, or has a key twice.
    """
    try:
        found = json.loads(text.lstrip("\ufeff"), object_pairs_hook=lambda pairs: _once(pairs, where))
    except (ValueError, RecursionError) as error:
        raise DataError(f"{what} cannot be read: not JSON: {error}", where=where) from error
    if not isinstance(found, dict):
        raise DataError(f"{what} is not a JSON object", where=where, next='Write {"image": ...}.')
    return found


def text_cell(
    value: object, name: str, place: str, log: ImportLog, *, empty_counts: bool = True, words: bool = True
) -> str | None:
    """Return a cell as stripped text, or None where it says that there is none, which is counted.

    Args:
        value: of the cell.
        name: of its column.
        place: where it stands, for errors.
        log: counts cells that say that there is none.
        empty_counts: empty ones are counted too.
        words: words of ``ABSENT`` say that there is none.

    Raises:
        DataError: it holds no single value, or half a character.
    """
    if value is None:
        return None
    if value != value:  # NaN, which is how pandas writes an absent text
        value, words = "NaN", True
    if isinstance(value, float) and value.is_integer():
        value = int(value)  # whole numbers become floats where a column has gaps
    if not isinstance(value, (str, int, float)):
        raise DataError(f"the {name} is no single value but a {type(value).__name__}", where=place)
    text = str(value).replace("\ufeff", "").strip()
    if not text or (words and text in ABSENT):
        if text or empty_counts:
            log.take_as_absent(name, text)
        return None
    return encodable(text, f"the {name}", place)


def encodable(text: str, what: str, place: str) -> str:
    """Return the text.

    Raises:
        DataError: it holds bytes of another encoding, or half a character, which no file can keep.
    """
    try:
        text.encode()
    except UnicodeEncodeError as error:
        shown = ascii(text[max(0, error.start - 20) : error.end + 5])
        raise DataError(f"{what} is not UTF-8: {shown}", where=ascii(place)[1:-1], next="Write it again.") from None
    return text


def _csv(path: Path) -> tuple[list[str], Cells]:
    text = read_text(path)
    told = re.match(r"sep=([,;|\t])[\r\n]", text)  # Excel's own way to say it
    separator = told[1] if told else _separator(text)
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=separator, strict=True)
    if told:
        next(reader)
    rows: list[tuple[str, Mapping[str, object]]] = []
    problems, line = Problems(), 1
    try:
        columns = [name.replace("\ufeff", "").strip() for name in next(reader, [])]
        _refuse_twice(columns, path.name)
        while True:
            line = reader.line_num + 1
            cells = next(reader, None)
            if cells is None:
                break
            if any(cell.strip() for cell in cells):  # spreadsheets end in lines of separators alone
                with problems.gathered():
                    _check_line(cells, columns, separator, f"{path.name}, line {line}")
                    rows.append((f"line {line}", dict(zip(columns, cells, strict=True))))
    except csv.Error as error:
        reason = "a quotation mark that opens here is not closed" if "end of data" in str(error) else str(error)
        mend = 'Close it; inside of "..." write "" for a quotation mark.'
        raise DataError(f"not a csv table: {reason}", where=f"{path.name}, line {line}", next=mend) from error
    problems.refuse(path.name)
    return columns, iter(rows)


def _separator(text: str) -> str:
    """What stands between the cells: that by which the first line has a column ``image``, else the most frequent."""
    head = re.split(r"[\r\n]", text, maxsplit=1)[0].replace('"', "")
    named = [mark for mark in _SEPARATORS if "image" in (cell.strip() for cell in head.split(mark))]
    return next(iter(named), max(_SEPARATORS, key=head.count))


def _check_line(cells: Sequence[str], columns: Sequence[str], separator: str, where: str) -> None:
    if len(cells) != len(columns):
        more = "more" if len(cells) > len(columns) else "fewer"
        mend = f'Put "..." around text with {_SEPARATORS[separator]}.' if more == "more" else "Is the file whole?"
        what = f"the line has {more} than {len(columns)} cells: {len(cells)}"
        raise DataError(what, where=where, next=mend)
    for name, cell in zip(columns, cells, strict=True):
        swallowed = [line for line in cell.split("\n")[1:] if line.count(separator) >= len(columns) - 1]
        if any(_PICTURE.search(line) for line in swallowed):
            what = f"the {name} holds whole lines of the table: is a quotation mark not closed?"
            raise DataError(what, where=where, next='Close it; inside of "..." write "" for a quotation mark.')


def _jsonl(path: Path) -> tuple[list[str], Cells]:
    records: list[tuple[str, Mapping[str, object]]] = []
    columns: dict[str, None] = {}
    problems = Problems()
    for number, line in enumerate(read_text(path).split("\n"), start=1):
        if line.strip():
            with problems.gathered():
                record = json_object(line, "the line", f"{path.name}, line {number}")
                columns.update(dict.fromkeys(record))
                records.append((f"line {number}", record))
    problems.refuse(path.name)
    return list(columns), iter(records)


def _parquet(path: Path, wanted: Callable[[str], bool]) -> tuple[list[str], Cells]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(path) as file:
            columns = list(file.schema_arrow.names)
            _refuse_twice(columns, path.name)
            chosen = [name for name in columns if wanted(name)]
            records = file.read(columns=chosen).to_pylist() if chosen else []
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"not a parquet table: {error}", where=path.name) from error
    return columns, ((f"row {number}", record) for number, record in enumerate(records, start=1))


def _once(pairs: list[tuple[str, Any]], where: str) -> dict[str, Any]:
    _refuse_twice([name for name, _ in pairs], where)
    return dict(pairs)


def _refuse_twice(columns: Sequence[str], where: str) -> None:
    """A name that stands twice can mean either of two columns; columns without a name are nobody's."""
    if twice := [name for name, count in Counter(columns).items() if count > 1 and name]:
        what = f"the column {', '.join(map(repr, twice))} stands there twice, and which is meant cannot be known"
        raise DataError(what, where=where, next="Rename or remove one.")
