from __future__ import annotations

import shlex
from collections.abc import Iterator
from typing import Any

import pytest
import typer

from mmkd_core.cli import app

COMMANDS = [
    "audit balance",
    "audit forgetting",
    "audit trust",
    "compare",
    "data check",
    "data import",
    "data import-set",
    "data phantom",
    "data phantom-sets",
    "distill",
    "doctor",
    "eval retrieval",
    "eval set",
    "eval zero-shot",
    "export onnx",
    "export open-clip",
    "export teacher",
    "export transformers",
    "extract",
    "init",
    "integrate",
    "pretrain",
    "push",
    "quickstart",
    "releases list",
    "releases rollback",
    "releases show",
    "repair",
    "report",
    "store compact",
    "store doctor",
    "store export",
    "store gc",
    "store import",
    "store info",
    "store merge",
    "store repair",
    "store seal",
    "store verify",
    "study",
    "teachers add",
    "teachers check",
    "teachers forecast",
    "teachers info",
    "teachers list",
    "teachers new",
    "teachers pack",
    "teachers remove",
    "teachers search",
    "teachers sync",
]


def leaves(command: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[str, Any]]:
    if not hasattr(command, "commands"):
        yield " ".join(path), command
        return
    for name, inner in command.commands.items():
        yield from leaves(inner, (*path, name))


TREE = dict(leaves(typer.main.get_command(app)))


def test_the_commands_are_those_of_the_documentation():
    assert sorted(TREE) == COMMANDS


@pytest.mark.parametrize("path", COMMANDS)
def test_every_command_explains_itself_and_takes_the_common_options(path, mmkd):
    shown = mmkd(*path.split(), "--help")
    assert shown.exit_code == 0
    assert f"Example:  mmkd {path}" in shown.stdout
    for option in ("--json", "--workspace", "--debug"):
        assert option in shown.stdout
    words = TREE[path].help
    assert words.endswith(".")
    assert "\n" not in words  # one sentence


@pytest.mark.parametrize("path", COMMANDS)
def test_every_example_can_be_typed(path):
    words = shlex.split(TREE[path].epilog.removeprefix("Example:"))
    depth = len(path.split())
    assert words[: depth + 1] == ["mmkd", *path.split()]
    TREE[path].make_context(path, words[depth + 1 :])  # raises if it does not parse


@pytest.mark.parametrize("arguments", [(), ("teachers",), ("data",), ("eval",), ("audit",), ("releases",), ("store",)])
def test_a_group_alone_shows_its_help(arguments, mmkd):
    shown = mmkd(*arguments)
    assert "Commands:" in shown.output


def test_version(mmkd):
    assert mmkd("--version").stdout == "0.1.0\n"
