"""How a command answers: tables and lines for people, or one JSON object for programs; always the next command."""

from __future__ import annotations

import dataclasses
import json as jsonlib
import math
import os
import re
import shlex
import shutil
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

CONFIG = "mmkd.yaml"
"""As ``integrate.workspace`` has it, which costs an import of numpy."""

_NUMBER = re.compile(r"[+-]?[\d.,]+( ?%)?|-|")


class Output:
    """The answer of one command.

    With ``json`` stdout holds one JSON object and nothing else; lines go to stderr and tables, whose figures are in
    the object, nowhere.
    """

    def __init__(self, json: bool, root: Path = Path()) -> None:
        self.json, self.root = json, root

    def say(self, line: str = "") -> None:
        """One line for people; the commands in it are about the workspace of this one."""
        print(self.hinted(line), file=sys.stderr if self.json else sys.stdout)

    def table(self, columns: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
        """A table for people: folded by rich where it is wider than the terminal, else one line per row, uncut.

        A column without a single value is left out.
        """
        if self.json:
            return
        cells = [["-" if cell is None else str(cell) for cell in row] for row in rows]
        kept = [i for i in range(len(columns)) if not cells or any(row[i] for row in cells)]
        columns, cells = [columns[i] for i in kept], [[row[i] for i in kept] for row in cells]
        right = [bool(cells) and all(_NUMBER.fullmatch(row[i]) for row in cells) for i in range(len(columns))]
        lines = _lines([list(columns), *cells], right)
        if on_terminal(sys.stdout) and max(map(len, lines)) > shutil.get_terminal_size().columns:
            _rich_table(columns, cells, right)  # 40 ms to import, which most tables can do without
        else:
            print("\n".join(lines))

    def command(self, command: str) -> str:
        """A command with its workspace, where that is not the present folder."""
        return command if self.root == Path() else f"{command} -w {shlex.quote(str(self.root))}"

    def hinted(self, text: str) -> str:
        """A text whose commands in backticks are about the workspace, where that is not the present folder."""
        if "`mmkd " not in text or self.root == Path():
            return text
        import typer

        from mmkd_core.cli import app
        from mmkd_core.cli.errors import about

        return about(str(self.root), text, typer.main.get_command(app))

    def following(self) -> str:
        """The next command, by what there is in the workspace."""
        if not (self.root / CONFIG).is_file():
            return "mmkd init"
        from mmkd_core.integrate.next_step import following

        return following(self.root)

    def finish(self, facts: Mapping[str, Any], *, wrote: Sequence[Path] = (), next: str = "") -> None:
        """End the answer: the facts as JSON, or what was written and the next command.

        Args:
            next: a command without its workspace, which is added; or a sentence, whose commands get it too.
        """
        next = self.command(next) if next.startswith("mmkd ") else self.hinted(next)
        if self.json:
            whole = {**facts, "wrote": [str(path) for path in wrote], "next": next}
            print(jsonlib.dumps(plain(whole), indent=2, ensure_ascii=False, allow_nan=False))
            return
        for path in wrote:
            print(f"wrote: {path}")
        if next:
            print(f"next: {next}")


def plain(value: Any) -> Any:
    """Plain JSON of dataclasses, pydantic models, paths and numpy numbers; what is not finite becomes null."""
    if hasattr(value, "model_dump"):
        return plain(value.model_dump(mode="json"))
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {str(key): plain(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [plain(entry) for entry in value]
    if isinstance(value, Path):
        return str(value)
    if hasattr(value, "tolist"):
        return plain(value.tolist())
    return None if isinstance(value, float) and not math.isfinite(value) else value


def points(share: float | None, sign: bool = False) -> str:
    """A fraction as points with one decimal; ``-`` if there is none."""
    if share is None or not math.isfinite(share):
        return "-"
    share = round(100 * share, 1) + 0.0  # without the sign of a zero
    return f"{share:+.1f}" if sign else f"{share:.1f}"


def span(lower: float | None, upper: float | None, sign: bool = False) -> str:
    """An interval in points."""
    return "-" if lower is None or upper is None else f"{points(lower, sign)} to {points(upper, sign)}"


def size(count: int) -> str:
    """Bytes for people."""
    amount, unit = float(count), "B"
    for larger in ("KiB", "MiB", "GiB", "TiB"):
        if amount < 1024:
            break
        amount, unit = amount / 1024, larger
    return f"{amount:.0f} {unit}" if unit == "B" else f"{amount:.1f} {unit}"


def on_terminal(stream: Any) -> bool:
    """Whether somebody watches a screen that can redraw lines."""
    return bool(stream.isatty()) and os.environ.get("TERM") not in ("dumb", "unknown")


def _rich_table(columns: Sequence[str], cells: list[list[str]], right: list[bool]) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, header_style="bold")
    for i, name in enumerate(columns):
        table.add_column(Text(name), justify="right" if right[i] else "left", overflow="fold", no_wrap=not i)
    for row in cells:
        table.add_row(*(Text(cell) for cell in row))  # as text: brackets in a cell are no markup
    Console(highlight=False).print(table)


def _lines(rows: list[list[str]], right: list[bool]) -> list[str]:
    widths = [max(len(row[i]) for row in rows) for i in range(len(right))]
    lines = []
    for row in rows:
        columns = zip(row, widths, right, strict=True)
        lines.append("  ".join(c.rjust(width) if numeric else c.ljust(width) for c, width, numeric in columns).rstrip())
    return lines
