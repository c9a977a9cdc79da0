"""Pages that are made from code when the site is built: commands, settings, READMEs. A hook of mkdocs.

Does not: reach the network, or write anything into the tree.
"""

from __future__ import annotations

import ast
import inspect
import itertools
import re
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import typer
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from pydantic import BaseModel
from pydantic_core import PydanticUndefined

ROOT = Path(__file__).resolve().parents[1]
PLUGINS = sorted(path.parent.name for path in (ROOT / "plugins").glob("*/README.md"))


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Give the decisions their place in the navigation, in order."""
    pages = sorted(path.name for path in (ROOT / "docs" / "decisions").glob("*.md"))
    entries = [{_title(ROOT / "docs" / "decisions" / name): f"decisions/{name}"} for name in pages]
    plugins = [{name.removeprefix("mmkd-"): f"plugins/{name}.md"} for name in PLUGINS]

    def filled(nav: Any) -> Any:
        if isinstance(nav, list):
            return [filled(entry) for entry in nav]
        if isinstance(nav, dict):
            return {title: _replaced(title, target, entries, plugins, filled) for title, target in nav.items()}
        return nav

    config.nav = filled(config.nav)
    return config


def _replaced(title: str, target: Any, entries: list[Any], plugins: list[Any], filled: Any) -> Any:
    if target == "decisions/":
        return entries
    if target == "teachers.md":
        return ["teachers.md", *plugins]
    return filled(target)


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages that no file under docs/ holds."""
    made = {
        "index.md": _outside((ROOT / "README.md").read_text(encoding="utf-8")),
        "contributing.md": _outside((ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")),
        "changelog.md": _outside((ROOT / "CHANGELOG.md").read_text(encoding="utf-8")),
        "reference/commands.md": "\n".join(commands()),
        "reference/settings.md": "\n".join(settings()),
    }
    for name in PLUGINS:
        text = (ROOT / "plugins" / name / "README.md").read_text(encoding="utf-8")
        made[f"plugins/{name}.md"] = _outside(text, "../")
    for path, text in made.items():
        files.append(File.generated(config, path, content=text))
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Point links that leave docs/ at the pages made from what they name."""
    depth = "../" * page.file.src_uri.count("/")
    markdown = re.sub(r"\]\((?:\.\./)+plugins/([\w-]+)/README\.md\)", rf"]({depth}plugins/\1.md)", markdown)
    return re.sub(r"\]\((?:\.\./)+CONTRIBUTING\.md(#[\w-]+)?\)", rf"]({depth}contributing.md\1)", markdown)


def commands() -> Iterator[str]:
    """Every command with its sentence, its example, its arguments and its options."""
    from mmkd_core.cli import app

    yield "# Commands\n"
    yield "Every command takes `--workspace DIR`, `--json` and `--debug`. An error that you can mend exits with 2.\n"
    for path, command in _leaves(typer.main.get_command(app)):
        yield f"## mmkd {path}\n"
        yield f"{command.help}\n"
        yield f"    {(command.epilog or '').removeprefix('Example:').strip()}\n"
        rows = list(_parameters(command))
        if rows:
            yield "| | means |\n|---|---|"
            yield from rows
            yield ""


def _leaves(command: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[str, Any]]:
    if not hasattr(command, "commands"):
        yield " ".join(path), command
        return
    for name, inner in sorted(command.commands.items()):
        yield from _leaves(inner, (*path, name))


def _parameters(command: Any) -> Iterator[str]:
    common = {"root", "json", "debug", "help"}
    for parameter in command.params:
        if parameter.name in common:
            continue
        if parameter.opts == [parameter.name]:
            yield _row(f"`{parameter.metavar or parameter.name.upper()}`", parameter.help)
        else:
            value = "" if parameter.is_flag else f" {parameter.metavar or 'VALUE'}"
            yield _row(f"`{', '.join(parameter.opts)}{value}`", parameter.help)


def _row(name: str, text: str | None, *more: str) -> str:
    words = " ".join((text or "").split()).replace("|", "\\|")
    return "| " + " | ".join((name, words, *more)) + " |"


def settings() -> Iterator[str]:
    """Every key of mmkd.yaml with its default and what it means, and the default gate.yaml."""
    from mmkd_core.audit.gate import Gate
    from mmkd_core.integrate.workspace import Config

    yield "# Settings\n"
    yield "`mmkd init` writes `mmkd.yaml` with every key. A key that does not exist is refused.\n"
    yield from _model(Config, "")
    yield "## gate.yaml\n"
    yield "What counts as forgetting, beside `mmkd.yaml`: [the audit](../explanation/audit.md). This is the default:\n"
    yield textwrap.indent(Gate().dump(), "    ")


def _model(model: type[BaseModel], prefix: str) -> Iterator[str]:
    inner: list[tuple[str, type[BaseModel]]] = []
    rows = []
    for name, field in model.model_fields.items():
        key = field.alias or name
        kind = field.annotation
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            inner.append((f"{prefix}{key}", kind))
            continue
        default = field.default if field.default is not PydanticUndefined else ""
        if hasattr(kind, "__dataclass_fields__"):
            meaning = _docstrings(kind)
            for part in kind.__dataclass_fields__.values():
                rows.append(_row(f"`{prefix}{key}.{part.name}`", meaning.get(part.name), _code(part.default)))
            continue
        rows.append(_row(f"`{prefix}{key}`", field.description, _code(default)))
    if rows:
        yield f"## {prefix.rstrip('.') or 'The workspace'}\n"
        if prefix:
            yield " ".join((model.__doc__ or "").split("\n\n")[0].split()) + "\n"
        yield "| key | means | default |\n|---|---|---|"
        yield from rows
        yield ""
    for key, kind in inner:
        yield from _model(kind, f"{key}.")


def _docstrings(kind: type) -> dict[str, str]:
    """The strings below the fields of a dataclass, by field."""
    body = ast.parse(textwrap.dedent(inspect.getsource(kind))).body[0].body
    return {
        field.target.id: " ".join(text.value.value.split())
        for field, text in itertools.pairwise(body)
        if isinstance(field, ast.AnnAssign) and isinstance(text, ast.Expr) and isinstance(text.value, ast.Constant)
    }


def _code(value: Any) -> str:
    return f"`{value}`" if str(value) else "empty"


def _outside(text: str, up: str = "") -> str:
    """A file of the tree's root as a page: links into docs/ lose the folder, links to other files become plain."""
    text = re.sub(r"\]\(docs/([^)]+)\)", lambda found: f"]({up}{_page(found[1])})", text)
    text = re.sub(r"\]\((?:\.\./)*docs/([^)]+)\)", lambda found: f"]({up}{_page(found[1])})", text)
    return re.sub(r"\[([^\]]+)\]\((?!https?:|#|" + re.escape(up) + r"[\w/-]+\.md)[^)]+\)", r"\1", text)


def _page(target: str) -> str:
    """``decisions/0008`` as the file that begins so; a folder as its README."""
    path = ROOT / "docs" / target.split("#")[0]
    if path.is_file():
        return target
    if path.is_dir():
        return f"{target.rstrip('/')}/README.md"
    return next(p.relative_to(ROOT / "docs").as_posix() for p in sorted(path.parent.glob(f"{path.name}*.md")))


def _title(path: Path) -> str:
    """The first heading, without markup, after the page's number."""
    heading = path.read_text(encoding="utf-8").splitlines()[0].lstrip("# ")
    return f"{path.name[:4]} {re.sub(r'^[0-9. ]+', '', heading).replace('`', '')}"
