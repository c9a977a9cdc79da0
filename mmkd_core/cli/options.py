"""Options that many commands share, and what they take."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from mmkd_core.cli.errors import DEBUG
from mmkd_core.trust.rules import RULES

Rule = StrEnum("Rule", {name: name for name in RULES})  # type: ignore[misc]
"""Trust rules that can be chosen."""


class Recipe(StrEnum):
    """Schemes of distillation."""

    MMKD = "mmkd"
    PAPER = "paper"
    PAPER_PUBLISHED = "paper-published"


class Captions(StrEnum):
    """Which captions a student is pretrained on."""

    OWN = "own"
    LABELS = "labels"


class Engine(StrEnum):
    """Where extraction runs."""

    LOCAL = "local"
    RAY = "ray"


def _debug(context: typer.Context, wanted: bool) -> bool:
    context.meta[DEBUG] = wanted
    return wanted


Root = Annotated[Path, typer.Option("-w", "--workspace", metavar="DIR", help="Folder of the workspace.")]
Json = Annotated[bool, typer.Option("--json", help="Print the result as JSON on stdout, all else on stderr.")]
Debug = Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.", callback=_debug, is_eager=True)]
Yes = Annotated[bool, typer.Option("--yes", "-y", help="Agree to what would be asked; for scripts.")]
Accept = Annotated[
    bool, typer.Option("--accept-license", help="Agree to weights that forbid commercial use or derivatives.")
]
TRUST = typer.Option(
    "--trust",
    help=f"What a teacher teaches: {'; '.join(f'{rule.name}, {rule.summary}' for rule in RULES.values())}.",
)
Weights = Annotated[
    Path | None, typer.Option(metavar="PATH", exists=True, help="Weights that are on this machine already.")
]
Interpreter = Annotated[
    Path | None,
    typer.Option("--python", metavar="PATH", exists=True, help="A ready interpreter for a teacher that runs isolated."),
]
Because = Annotated[str | None, typer.Option("--because", metavar="TEXT", help="Why, for --force.")]
HERE = Path()


def check_reason(force: bool, because: str | None) -> None:
    """Refuse a reason for nothing."""
    if because and not force:
        raise typer.BadParameter("--because gives the reason of --force: add --force, or leave it out")


def names(text: str | None) -> tuple[str, ...]:
    """``"xray,ct"`` as a tuple; nothing is an empty one."""
    return tuple(name.strip() for name in (text or "").split(",") if name.strip())


def share(text: str) -> float:
    """``"1%"`` or ``"0.01"`` as 0.01.

    Raises:
        BadParameter: neither, or not between 0 and 1.
    """
    try:
        value = float(text.removesuffix("%")) / (100 if text.endswith("%") else 1)
    except ValueError:
        value = -1
    if not 0 <= value <= 1:
        raise typer.BadParameter(f"{text!r} is no share of all images; write it like 1% or 0.01")
    return value
