from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from mmkd_core.cli import output
from mmkd_core.cli.export import _short
from mmkd_core.cli.output import Output, plain, points, size, span
from mmkd_core.cli.quickstart import _admitted, _name
from mmkd_core.contract import LicenseInfo
from mmkd_core.report.view import View


@dataclass(frozen=True)
class Pair:
    path: Path
    value: float


def test_plain_json():
    model = LicenseInfo(code="MIT", weights="MIT", commercial_use=True)
    whole = plain({1: Pair(Path("a"), float("nan")), "m": model, "n": np.float32(0.5), "a": np.arange(2), "t": (None,)})
    assert whole == {
        "1": {"path": "a", "value": None},
        "m": {
            "code": "MIT",
            "weights": "MIT",
            "commercial_use": True,
            "derivatives": True,
            "gated": False,
            "url": None,
        },
        "n": 0.5,
        "a": [0, 1],
        "t": [None],
    }


def test_json_alone_on_stdout(capsys):
    out = Output(json=True, root=Path("my ws"))
    out.say("a line")
    out.table(("a",), [(1,)])
    out.finish({"x": float("inf")}, wrote=[Path("f")], next="mmkd extract")
    shown = capsys.readouterr()
    assert json.loads(shown.out) == {"x": None, "wrote": ["f"], "next": "mmkd extract -w 'my ws'"}
    assert shown.err == "a line\n"


def test_words_for_people(capsys):
    out = Output(json=False)
    out.table(
        ("name", "n", "change", "reason", "none"), [("a[b]", 5, "-1.5", "", None), ("cc", 12345, "+0.1", "", None)]
    )
    out.finish({"x": 1}, wrote=[Path("f"), Path("g")], next="mmkd extract")
    shown = capsys.readouterr()
    assert shown.out == (
        "name      n  change  none\n"
        "a[b]      5    -1.5     -\n"
        "cc    12345    +0.1     -\n"
        "\n"
        "wrote: f\nwrote: g\nnext: mmkd extract\n"
    ).replace("\n\n", "\n")
    assert shown.err == ""


def test_a_sentence_as_the_next_step_stays_as_it_is(capsys):
    Output(json=False, root=Path("ws")).finish({}, next="Mend the images")
    assert capsys.readouterr().out == "next: Mend the images\n"


def test_commands_in_what_is_said_are_about_the_workspace(capsys):
    line = "not compared: run `mmkd extract`, or `mmkd quickstart`, or `mmkd report -w other`"
    for root, told in ((Path("my ws"), "`mmkd extract -w 'my ws'`"), (Path(), "`mmkd extract`")):
        out = Output(False, root)
        out.say(line)
        out.finish({}, next="Run `mmkd extract` again")
        said = capsys.readouterr().out
        assert f"not compared: run {told}, or `mmkd quickstart" in said
        assert "`mmkd report -w other`" in said
        assert f"next: Run {told} again" in said


def test_a_table_that_is_too_wide_for_the_terminal_is_folded(capsys, monkeypatch):
    monkeypatch.setattr(output, "on_terminal", lambda stream: True)
    monkeypatch.setenv("COLUMNS", "40")
    Output(json=False).table(("name", "why"), [("phantom-radio", "[b] knows " * 10)])
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) > 3
    assert max(map(len, lines)) <= 40
    assert " ".join(" ".join(lines).split()).count("[b] knows") == 10  # nothing cut, no markup read


@pytest.mark.parametrize(
    ("stream", "term", "expected"), [(True, "xterm", True), (True, "dumb", False), (False, "xterm", False)]
)
def test_on_terminal(stream, term, expected, monkeypatch):
    monkeypatch.setenv("TERM", term)

    class Stream:
        def isatty(self):
            return stream

    assert output.on_terminal(Stream()) is expected


def test_figures():
    assert (points(0.8768), points(0.0213, sign=True), points(-0.5, sign=True)) == ("87.7", "+2.1", "-50.0")
    assert (points(None), points(float("nan"))) == ("-", "-")
    assert span(-0.015, 0.02, sign=True) == "-1.5 to +2.0"
    assert span(None, None) == "-"
    assert [size(n) for n in (0, 1023, 1024, 5 * 2**20, 3 * 2**40)] == [
        "0 B",
        "1023 B",
        "1.0 KiB",
        "5.0 MiB",
        "3.0 TiB",
    ]


@pytest.mark.parametrize(
    ("name", "package", "folder"),
    [("phantom-radio", "src/mmkd_phantom", "radio"), ("two-words-a-b", "mmkd_two_words", "a-b")],
)
def test_folder_of_a_teacher_in_its_package(name, package, folder):
    assert _short(name, Path(package)) == folder


def test_the_student_is_called_after_its_data(tmp_path):
    (tmp_path / "Bio Med_2").mkdir()
    manifest = tmp_path / "Bio Med_2" / "manifest.csv"
    manifest.touch()
    table = tmp_path / "Bio Med_2" / "skin.csv"
    table.touch()
    assert _name(tmp_path / "Bio Med_2") == _name(manifest) == "bio-med-2"
    assert _name(table) == "skin"
    assert _name(Path("/")) == "real"


def test_who_was_admitted_in_short():
    def cell(trusted, admitted, accuracy):
        return {"trusted": trusted, "admitted": admitted, "of": 600, "accuracy": accuracy}

    teachers = {"a": {"ct": cell(True, 600, 0.934), "mri": cell(False, 30, 0.5), "oct": cell(False, 0, None)}}
    summary = {"teachers": {}, "releases": {}, "data": {}, "trust": {"rule": "90", "teachers": teachers}}
    assert list(_admitted(View(summary))) == [("a", "ct (93.4 % right)", "30 of 1,200 samples")]
