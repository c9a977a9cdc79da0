"""Every command that the README or a page of the docs shows is one that there is, with options that it has."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer

from mmkd_core.cli import app

ROOT = Path(__file__).resolve().parents[3]
PAGES = [
    ROOT / "README.md",
    ROOT / "CONTRIBUTING.md",
    *(p for p in sorted((ROOT / "docs").rglob("*.md")) if "decisions" not in p.parts),
]
LINE = re.compile(r"(?m)^ {4}(?:\$ )?(.*\bmmkd .*)$")
INLINE = re.compile(r"`(mmkd [^`\n]+)`")
ROOT_COMMAND: Any = typer.main.get_command(app)


def shown(text: str) -> Iterator[list[str]]:
    """The words of every command, without comments and without what is not mmkd."""
    blocks = "\n".join(re.findall(r"```(?:sh|console)?\n(.*?)```", text, re.DOTALL))
    lines = [*LINE.findall(text), *(line for line in blocks.splitlines() if "mmkd " in line), *INLINE.findall(text)]
    for line in lines:
        for part in re.split(r"&&|\|\||;|\|", re.sub(r"\s#.*", "", line)):
            words = shlex.split(part)
            while words and ("=" in words[0] or words[0].startswith("$")):
                words = words[1:]
            if words[:1] == ["mmkd"]:
                yield words[1:]


def missing(words: list[str]) -> str:
    """What there is not, or nothing."""
    command, at = ROOT_COMMAND, 0
    while hasattr(command, "commands"):
        if at == len(words) or words[at].startswith("-") or re.fullmatch(r"[A-Z.]+|\.\.\.", words[at]):
            return ""  # a group, such as `mmkd store`, or its own options
        if words[at] not in command.commands:
            return f"no command {words[at]!r}"
        command, at = command.commands[words[at]], at + 1
    options = {name for param in command.params for name in param.opts} | {"--help", "-h"}
    given = {word.split("=")[0].rstrip(",.") for word in words[at:] if re.match(r"--?[a-z]", word)}
    unknown = sorted(given - options)
    return f"no option {', '.join(unknown)}" if unknown else ""


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_commands_on_pages_exist(page: Path) -> None:
    wrong = {shlex.join(words): said for words in shown(page.read_text(encoding="utf-8")) if (said := missing(words))}
    assert wrong == {}


def test_the_test_sees_what_is_wrong() -> None:
    text = "    mmkd reprot 0001\n\nRun `mmkd export onnx DIR --relase 1`.\n\n    cd x && mmkd teachers add a # --no\n"
    assert [missing(words) for words in shown(text)] == ["no command 'reprot'", "", "no option --relase"]


def test_enough_commands_are_seen() -> None:
    seen = {tuple(words[:2]) for page in PAGES for words in shown(page.read_text(encoding="utf-8"))}
    assert len(seen) > 50
