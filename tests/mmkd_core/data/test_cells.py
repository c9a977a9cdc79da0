"""Tables of people: what stands between cells, marks that are not closed, words that say that there is none."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from mmkd_core.data.cells import ABSENT, cells_of, text_cell
from mmkd_core.data.issues import ImportLog
from mmkd_core.errors import DataError


def read(path: Path) -> tuple[list[str], list[tuple[str, dict[str, object]]]]:
    columns, rows = cells_of(path, lambda name: True)
    return columns, [(where, dict(cells)) for where, cells in rows]


@pytest.mark.parametrize("name", ["m.csv", "m.tsv"])
@pytest.mark.parametrize("mark", [",", ";", "\t", "|"])
def test_cells_are_parted_by_what_the_first_line_is_parted_by(tmp_path: Path, name: str, mark: str) -> None:
    lines = [["image", "caption"], ["a.png", f'"one{mark} and two"'], ["b.png", "plain"], ["", ""]]
    (tmp_path / name).write_text("\ufeff" + "\r\n".join(mark.join(line) for line in lines), encoding="utf-8")
    columns, rows = read(tmp_path / name)
    assert columns == ["image", "caption"]
    assert rows == [
        ("line 2", {"image": "a.png", "caption": f"one{mark} and two"}),
        ("line 3", {"image": "b.png", "caption": "plain"}),
    ]


def test_the_first_line_of_excel_may_say_what_parts_cells(tmp_path: Path) -> None:
    (tmp_path / "m.csv").write_text("sep=;\r\nimage;label\r\na.png;x, y\r\n")
    columns, rows = read(tmp_path / "m.csv")
    assert (columns, rows) == (["image", "label"], [("line 3", {"image": "a.png", "label": "x, y"})])


OPEN = 'image,domain,caption\na.png,ct,one\nb.png,ct,"two\nc.png,ct,three\n'


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (OPEN, "not a csv table: a quotation mark that opens here is not closed (m.csv, line 3). Close it"),
        (OPEN + 'd.png,ct,"four"\n', "not a csv table: ',' expected after '\"' (m.csv, line 3)"),
        (OPEN + 'd.png,ct,four"\n', "the caption holds whole lines of the table: is a quotation mark not closed?"),
        ("image,domain,caption\na.png,ct\n", "the line has fewer than 3 cells: 2 (m.csv, line 2). Is the file whole?"),
        ("image,label,x,label\na,b,c,d\n", "the column 'label' stands there twice, and which is meant cannot be known"),
        ("image,label\na\nb\nc,d,e\n", "3 problems: the line has fewer than 2 cells: 1: 2 (m.csv, line 2; m.csv, "),
    ],
)
def test_a_csv_that_would_be_misread_is_refused(tmp_path: Path, text: str, says: str) -> None:
    (tmp_path / "m.csv").write_text(text)
    with pytest.raises(DataError) as caught:
        read(tmp_path / "m.csv")
    assert str(caught.value).startswith(says)


def test_a_text_of_several_lines_is_one_cell(tmp_path: Path) -> None:
    text = 'image,domain,caption\na.png,ct,"first, with commas, of\nsecond, with commas, too"\nb.png,ct,last\n'
    (tmp_path / "m.csv").write_text(text)
    _, rows = read(tmp_path / "m.csv")
    assert [where for where, _ in rows] == ["line 2", "line 4"]
    assert rows[0][1]["caption"] == "first, with commas, of\nsecond, with commas, too"


def test_a_key_or_column_that_stands_twice_is_refused_everywhere(tmp_path: Path) -> None:
    (tmp_path / "m.jsonl").write_text('{"image": "a", "label": "x", "label": "y"}\n')
    with pytest.raises(DataError, match=r"the column 'label' stands there twice.*m.jsonl, line 1"):
        read(tmp_path / "m.jsonl")
    table = pa.Table.from_arrays([pa.array(["a"]), pa.array(["b"])], names=["label", "label"])
    pq.write_table(table, tmp_path / "m.parquet")
    with pytest.raises(DataError, match=r"the column 'label' stands there twice.*m.parquet"):
        read(tmp_path / "m.parquet")


def test_all_lines_that_are_no_json_are_named(tmp_path: Path) -> None:
    (tmp_path / "m.jsonl").write_text('{"a": 1\n{"a": 2}\n[3]\n"x"\n')
    with pytest.raises(DataError) as caught:
        read(tmp_path / "m.jsonl")
    assert "the line is not a JSON object: 2 (m.jsonl, line 3; m.jsonl, line 4)" in str(caught.value)


def test_files_that_were_written_one_behind_the_other_are_read(tmp_path: Path) -> None:
    (tmp_path / "m.jsonl").write_text('\ufeff{"image": "a"}\n\ufeff{"image": "b"}\n', encoding="utf-8")
    assert [cells["image"] for _, cells in read(tmp_path / "m.jsonl")[1]] == ["a", "b"]


def test_words_for_absent_are_counted_as_they_are_spelled() -> None:
    log = ImportLog()
    for value in (*ABSENT, "", "  ", float("nan"), None):
        assert text_cell(value, "label", "here", log) is None
    assert log.absent["label"] == {**dict.fromkeys(ABSENT, 1), "": 2, "NaN": 2}
    for value, text in (("none", "none"), ("Nan", "Nan"), (" a\ufeff ", "a"), (3.0, "3"), (2.5, "2.5"), (True, "True")):
        assert text_cell(value, "label", "here", log) == text
    assert text_cell("None", "answer", "here", log, words=False) == "None"
    assert text_cell(float("nan"), "answer", "here", log, words=False) is None


@pytest.mark.parametrize("value", [["a"], {"a": 1}, b"a"])
def test_a_cell_is_one_value(value: object) -> None:
    with pytest.raises(DataError, match=r"the label is no single value but a (list|dict|bytes) \(here\)"):
        text_cell(value, "label", "here", ImportLog())
